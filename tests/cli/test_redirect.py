"""Tests of `ocwatch redirect` on a real OpenCode, without a daemon."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Cli, resting
from tests.support.daemon import ocwatch
from tests.support.opencode import NEWEST, Home, Serve
from tests.support.provider import Provider, limited, ok

PRIMARY, FALLBACK, THIRD = "mock/primary", "mock2/fallback", "mock3/third"


def test_without_opencode_it_is_unreachable(cli: Cli) -> None:
    for arguments in (("redirect",), ("redirect", "ses_1"), ("redirect", "--dry-run", "--json")):
        done = cli(*arguments)
        assert (done.returncode, done.stdout) == (5, "")
        assert "OpenCode is not running, so there is no session to move" in done.stderr


@pytest.fixture
def serve(tmp_path: Path, provider: Provider) -> Iterator[Serve]:
    home = Home(tmp_path / "home", provider.url)
    with Serve(NEWEST, home) as running:
        yield running


@pytest.mark.e2e
def test_by_hand(serve: Serve, provider: Provider) -> None:
    home = serve.home
    state = home.root / ".local" / "state" / "ocwatchd"

    def redirect(*arguments: str, code: int = 0) -> str:
        done = ocwatch(home, "redirect", *arguments)
        assert done.returncode == code, done
        return done.stdout if code == 0 else done.stderr

    def stuck(text: str) -> str:
        session = serve.create_session()
        serve.prompt_async(session, text, model=PRIMARY)
        serve.wait_status(session, "retry")
        return session

    def journal() -> list[dict[str, Any]]:
        path = state / "journal.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    provider.script(PRIMARY, limited(3600))
    provider.script(FALLBACK, ok("by hand"))
    provider.script(THIRD, ok("third"))

    assert "no session is limited" in redirect(code=1)
    assert "ses_unknown" in redirect("ses_unknown", code=2)
    first = stuck("The first prompt")
    assert "has no fallback" in redirect(code=2)

    chain = {"rateLimit": {"fallbackChain": {PRIMARY: [FALLBACK, THIRD]}, "models": {"spare": THIRD}}}
    (home.config_dir / "rate-limit-config.json").write_text(json.dumps(chain))
    foretold = redirect("--dry-run")  # a session with a title is named by it, with its id in brackets
    assert first in foretold
    assert f": {PRIMARY} -> {FALLBACK}" in foretold
    assert (journal(), provider.requests(FALLBACK)) == ([], [])

    second = stuck("The second prompt")
    listed = redirect(code=2)
    assert first in listed
    assert second in listed

    document = json.loads(redirect(first, "--json"))
    assert (document["version"], document["session"], document["from"]) == (1, first, PRIMARY)
    assert (document["target"]["model"], document["result"], document["dry_run"]) == (FALLBACK, "moved", False)
    serve.wait_answer(first, "by hand")
    assert len(serve.user_messages(first)) == 1
    assert [entry["what"] for entry in journal()] == ["claim", "moved"]
    (claim, _) = journal()
    assert (claim["why"], claim["by"]) == ("requested by you", "hand")
    assert claim["considered"][-1]["model"] == FALLBACK

    serve.wait_status(first, "idle")
    said = " is not moved: the last prompt has been answered.\n"
    assert redirect(first, "--dry-run").endswith(said)
    assert redirect(first).endswith(said)
    document = json.loads(redirect(first, "--json"))
    assert (document["target"], document["result"]) == (None, "already")
    assert [entry["what"] for entry in journal()] == ["claim", "moved"]

    (state / "blacklist.json").write_text(json.dumps({"version": 1, "models": {FALLBACK: resting()}}))
    assert f"-> {THIRD}" in redirect("--dry-run")
    (state / "blacklist.json").write_text(
        json.dumps({"version": 1, "models": {m: resting() for m in (FALLBACK, THIRD)}})
    )
    assert "is available again at" in redirect(code=75)
    for target, why in ((PRIMARY, "already on"), (THIRD, "is cooling down"), ("mock3/thrid", f"Did you mean {THIRD}")):
        assert why in redirect("--to", target, "--dry-run", code=2)
    assert "Did you mean" in redirect(f"{second[:-3]}xyz", "--dry-run", code=2)
    assert second in redirect(second[8:-4], "--to", "mock2/nonsense", "--force", "--dry-run")
    done = redirect("--to", "spare", "--force")
    assert done.startswith("Moved ")
    assert second in done
    assert f": {PRIMARY} -> {THIRD}" in done
    serve.wait_answer(second, "third")


@pytest.mark.e2e
def test_a_limited_target_is_passed_over(serve: Serve, provider: Provider) -> None:
    provider.script(PRIMARY, limited(3600))
    provider.script(FALLBACK, limited(3600))
    provider.script(THIRD, ok("third"))
    chain = {"rateLimit": {"fallbackChain": {PRIMARY: [FALLBACK, THIRD]}}}
    (serve.home.config_dir / "rate-limit-config.json").write_text(json.dumps(chain))
    session = serve.create_session()
    serve.prompt_async(session, "Down the chain", model=PRIMARY)
    serve.wait_status(session, "retry")
    done = ocwatch(serve.home, "redirect")
    assert (done.returncode, THIRD in done.stdout) == (0, True), done
    serve.wait_answer(session, "third")
    assert len(serve.user_messages(session)) == 1
