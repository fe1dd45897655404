"""Tests that a session keeps its conversation when it is moved among four provider formats, on real OpenCodes.

The moves happen in the middle of a turn. The fake provider checks every request as the real APIs do
(`tests/support/strict.py`). A thinking Claude and Gemini 3 refuse other models' calls in a running turn; such a move
continues with the next fallback.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import pytest

from tests.support.answers import Request
from tests.support.daemon import Daemon, ocwatch
from tests.support.homes import ANTHROPIC, GOOGLE, OPENAI, OPENAI_COMPATIBLE, ProviderSpec
from tests.support.opencode import NEWEST, Home, Serve, model_parts
from tests.support.processes import wait_until
from tests.support.provider import Answer, Ok, Provider, Script, Tool, after_tool, bash, error, limited
from tests.support.smart import Smart
from tests.support.strict import fault, picture, pictures, strict

pytestmark = pytest.mark.e2e

FORMATS = {"anthropic": ANTHROPIC, "openai": OPENAI, "google": GOOGLE, "compat": OPENAI_COMPATIBLE}
NAMES = {"anthropic": "claude-sonnet-4-5", "openai": "gpt-5", "google": "gemini-3-pro", "compat": "deep-thinker"}
TOLERANT = {"anthropic": "claude-plain", "google": "gemini-2.5-pro"}
"""Models that are tested together with OpenAI's: a Claude without thinking, and a Gemini that needs no signatures."""
SEES = {
    "reasoning": True,
    "attachment": True,
    "modalities": {"input": ["text", "image", "pdf"], "output": ["text"]},
}
THINKS = {**SEES, "options": {"thinking": {"type": "enabled", "budgetTokens": 2000}}}
SPARE = "spare/all"


@dataclass(frozen=True, slots=True)
class Journey:
    """One session that starts on `source` and is moved to `target` and back, each a model of its own."""

    source: str
    target: str

    @classmethod
    def between(cls, one: str, other: str) -> Journey:
        """Return the direction from one format to the other."""
        names = TOLERANT if "openai" in (one, other) else {}
        first, second = ({**NAMES, **names}[kind] for kind in (one, other))
        return cls(f"{one}/{first}-for-{other}", f"{other}/{second}-after-{one}")


EVERY = tuple(Journey.between(*pair) for pair in permutations(FORMATS, 2))
ROUND = tuple(Journey.between(*pair) for pair in zip(FORMATS, [*list(FORMATS)[1:], "anthropic"], strict=True))


def strange(model: str) -> bool:
    """Return whether the model refuses other models' calls in a running turn."""
    return "claude-sonnet" in model or "gemini-3" in model


@pytest.fixture
def formats(home: Home) -> Home:
    models = {name for way in EVERY for name in (way.source, way.target)}
    about = {name.partition("/")[2]: THINKS if "claude-sonnet" in name else SEES for name in models}
    home.providers = {
        **{kind: ProviderSpec(_of(kind, models), npm, about=about) for kind, npm in FORMATS.items()},
        "spare": ProviderSpec(("all",), about={"all": SEES}),
        "smallco": ProviderSpec(("titles",)),
    }
    home.agents, home.model = {}, EVERY[0].source
    home.write_config()
    return home


def _of(provider: str, models: set[str]) -> Sequence[str]:
    return sorted(name.partition("/")[2] for name in models if name.startswith(f"{provider}/"))


def thinking(name: str, limits_in: str) -> Script:
    """Return a script with a thought and a tool call in every turn, and a limit after them in this prompt's turn."""

    def script(request: Request) -> Answer:
        thinks = not name.startswith("anthropic") or "thinking" in request.body
        thought = f"{name} thinks about {request.prompt}." if thinks else ""
        if not request.ends_with_tool_result:
            arguments = {"command": f"echo {name} >> effects.txt; echo done", "description": "Runs a command"}
            return Tool("bash", arguments, thought=thought)
        if request.prompt == limits_in:
            return limited(3600)
        return Ok(f"{name} answers {request.prompt}", thought=thought)

    return script


def spare(request: Request) -> Answer:
    return Ok(f"{SPARE} answers {request.prompt}")


def prompt(serve: Serve, session: str, text: str, model: str, *files: Mapping[str, Any]) -> None:
    body = {"parts": [{"type": "text", "text": text}, *files], "model": model_parts(model)}
    serve.request("POST", f"/session/{session}/prompt_async", body)


def answered(serve: Serve, sessions: Mapping[Journey, str], word: str, way_of: Mapping[Journey, str]) -> None:
    """Wait until every session has the answer to `word` by its model of `way_of`."""
    for way, session in sessions.items():
        serve.wait_answer(session, f"{way_of[way]} answers {word}", timeout=90)
        serve.wait_status(session, "idle")


@pytest.mark.parametrize(("version", "ways"), [(NEWEST, EVERY), ("1.3.2", ROUND), ("1.1.65", ROUND)])
def test_thoughts_images_and_calls_go_along(
    formats: Home, provider: Provider, version: str, ways: tuple[Journey, ...]
) -> None:
    chain = {}
    provider.script(SPARE, strict(spare))
    for way in ways:
        provider.script(way.source, strict(thinking(way.source, "First")))
        provider.script(way.target, strict(thinking(way.target, "Second")))
        chain[way.source], chain[way.target] = [way.target, SPARE], [way.source, SPARE]
    with Daemon(formats, chain) as daemon, Serve(version, formats) as serve:
        sessions = {way: serve.create_session() for way in ways}
        for way in ways:
            prompt(serve, sessions[way], "First", way.source, picture())
        answered(serve, sessions, "First", {way: SPARE if strange(way.target) else way.target for way in ways})
        assert daemon.ocwatch("clear", "--all").returncode == 0
        for way in ways:
            prompt(serve, sessions[way], "Second", way.target)
        answered(serve, sessions, "Second", {way: SPARE if strange(way.source) else way.source for way in ways})
        effects = Counter((serve.project / "effects.txt").read_text().split())
        stranger = next(way for way in ways if strange(way.source))
        told = " ".join(daemon.ocwatch("explain", sessions[stranger][-8:]).stdout.split())
        users = {way: len(serve.user_messages(sessions[way])) for way in ways}
    refused = Counter(request.model for request in provider.requests() if request.status == 400)
    moves = Counter(line["target"] for line in daemon.journal("moved"))
    print(f"{version}: {moves.total()} moves, refused by {dict(refused)}")
    # Each model that may refuse was asked once; no other model has refused anything.
    assert refused == Counter({m: 1 for way in ways for m in (way.target, way.source) if strange(m)})
    assert effects == Counter({m: 1 for way in ways for m in (way.target, way.source)})  # no call was made again
    # Ended by the move back, if that was still under way, or otherwise by the next probe.
    tried = f"could not be moved to {re.escape(stranger.source)}|the model failed in this session"
    assert re.search(rf"-> {re.escape(SPARE)} .* why move ({tried}): ", told), told
    assert f"-> {SPARE}: available" in told
    for way in ways:
        by = SPARE if strange(way.source) else way.source
        last = [r for r in provider.requests(by) if r.session in (None, sessions[way]) and r.count("Second")][-1]
        assert (pictures(last), last.count("First"), last.count("Second"), fault(last)) == (1, 1, 1, None)
        assert len(last.tool_results) == 2
        assert users[way] == 2
        if way.source.startswith("openai"):  # its own thought is sent back to it, with its signature
            assert any(item.get("type") == "reasoning" for item in last.body["input"])


def test_a_stand_in_that_fails_the_session_later_is_left_as_well(home: Home, provider: Provider) -> None:
    """After a successful step, and after prevention.

    Without another free model the session waits where it came from.
    """
    wrong = error(400, {"error": {"message": "Invalid content in messages[3]", "type": "invalid_request_error"}})
    home.providers = {**home.providers, "mock": ProviderSpec(("primary", "second", "third"))}
    home.write_config()
    assert ocwatch(home, "plugin", "install").returncode == 0
    provider.script("mock/primary", limited(3600))
    provider.script("mock/second", limited(3600))
    provider.script("mock2/fallback", after_tool(bash("echo done"), wrong))
    chain = {
        "mock/primary": ["mock2/fallback", "mock3/third"],
        "mock/second": "mock2/fallback",
        "mock/third": ["mock2/fallback", "mock3/third"],
    }
    with Daemon(home, chain) as daemon, Serve(NEWEST, home) as serve:
        late, alone, prevented = (serve.create_session() for _ in range(3))
        serve.prompt_async(late, "A late one", model="mock/primary")
        serve.wait_answer(late, "answer of mock3/third")
        assert [(line["model"], line["why"]) for line in daemon.journal("rejected")] == [
            ("mock2/fallback", "Invalid content in messages[3]")
        ]
        told = " ".join(daemon.ocwatch("explain", late[-8:]).stdout.split())
        assert "the model failed in this session: Invalid content in messages[3]" in told
        print(told)
        serve.prompt_async(alone, "A lonely one", model="mock/second")
        wait_until(lambda: len(daemon.journal("rejected")) == 2, 60, why="the second rejection")
        wait_until(lambda: len(daemon.journal("exhausted")) == 1, 60, why="the end of the chain")
        assert serve.wait_status(alone, "retry")["next"] / 1000 > 0
        assert [line["target"] for line in daemon.journal("claim") if line["session"] == alone] == [
            "mock2/fallback", "mock/second",
        ]  # fmt: skip
        serve.prompt_async(prevented, "Before", model="mock/third")
        serve.wait_answer(prevented, "answer of mock/third")
        serve.wait_status(prevented, "idle")
        assert daemon.ocwatch("block", "mock/third", "--for", "1h").returncode == 0
        serve.prompt_async(prevented, "After", model="mock/third")
        serve.wait_answer(prevented, "answer of mock3/third")
        assert len(daemon.journal("rejected")) == 3
        assert [r.count("After") for r in provider.requests("mock3/third") if r.count("After")] == [1]
        assert len(serve.user_messages(prevented)) == 2


def test_a_start_whose_stand_in_refuses_it_goes_on_with_the_next(home: Home, provider: Provider) -> None:
    """`oc-smart run` without a daemon: its OpenCode has already ended with the refusal."""
    wrong = error(400, {"error": {"message": "Invalid content in messages[0]", "type": "invalid_request_error"}})
    provider.script("mock2/fallback", wrong)
    smart = Smart(home, NEWEST, {"mock/primary": ["mock2/fallback", "mock3/third"]})
    assert ocwatch(home, "block", "mock/primary", "--for", "1h").returncode == 0
    done = smart.run("run", "--model", "mock/primary", "Whoever can")
    assert (done.returncode, done.stdout.strip()) == (0, "answer of mock3/third")
    assert [r.model for r in provider.requests() if r.count("Whoever can")] == ["mock2/fallback", "mock3/third"]
    assert smart.left_behind() == []
