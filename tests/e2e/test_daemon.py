"""Tests from a real limit in a real log to the moved session, on real OpenCode, judged by the provider's record."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.daemon import Daemon, epoch, ocwatch, settle
from tests.support.opencode import MIDDLE, NEWEST, OLDEST, Home, Serve
from tests.support.processes import wait_until
from tests.support.provider import Answer, Provider, Request, after_tool, bash, error, limited, ok, slow

pytestmark = pytest.mark.e2e

PRIMARY, FALLBACK, THIRD, TITLES = "mock/primary", "mock2/fallback", "mock3/third", "smallco/titles"
SECOND = "mock/second"


@pytest.fixture
def newest(home: Home) -> Iterator[Serve]:
    with Serve(NEWEST, home) as serve:
        yield serve


@pytest.fixture
def daemon(home: Home) -> Iterator[Daemon]:
    with Daemon(home) as daemon:
        yield daemon


ROUNDED = 1.1
"""Seconds by which a reset time may be early, because old logs contain whole seconds."""


def reckoned_between(entry: dict[str, Any], seconds: float, refused: Request, later: Request) -> bool:
    """Return whether the entry ends `seconds` after a moment between a refusal and the next request.

    OpenCode reckons from its own clock, when it has read the refusal. On a loaded machine that may be seconds later.
    """
    return refused.wall - ROUNDED < epoch(entry["until"]) - seconds < later.wall + 0.1


def stuck_for(serve: Serve, session: str) -> float:
    """Seconds until OpenCode's own next attempt."""
    return float(serve.wait_status(session, "retry")["next"]) / 1000 - time.time()


def test_a_limited_session_goes_on_elsewhere_with_all_it_had(version: str, home: Home, provider: Provider) -> None:
    side_effects = home.root / "ran.txt"
    provider.script(PRIMARY, after_tool(bash(f"echo once >> {side_effects}"), limited(3600)))
    provider.script(FALLBACK, ok("the fallback's answer"))
    with Daemon(home) as daemon, Serve(version, home) as serve:
        session = serve.create_session()
        serve.prompt_async(session, "Count the lines of README.md", model=PRIMARY)
        serve.wait_answer(session, "the fallback's answer", timeout=60)

        (refused,) = [r for r in provider.requests(PRIMARY) if r.status == 429]
        (asked,) = provider.requests(FALLBACK)
        assert asked.count("Count the lines of README.md") == 1
        assert len(serve.user_messages(session)) == 1
        assert side_effects.read_text() == "once\n"
        assert asked.tool_results, "the finished tool call's result came along"

        (moved,) = daemon.wait_journal("moved")
        assert (moved["session"], moved["model"], moved["target"]) == (session, PRIMARY, FALLBACK)
        entry = daemon.wait_reported(PRIMARY)
        assert reckoned_between(entry, 3600, refused, asked)
        assert (entry["kind"], entry["strikes"]) == ("rate_limit", 1)
        # If the log has the header, it is used in the end, on a loaded machine after the endpoint has reported the
        # same.
        exact = "status" if version == NEWEST else "retry-after"
        wait_until(lambda: daemon.wait_cooldown(PRIMARY)["reset_source"] == exact, 60, why=f"{exact} in the blacklist")
        assert entry["target"]["model"] == FALLBACK
        print(f"{version}: {asked.wall - refused.wall:.2f} s from the 429 to the fallback's request")

        listed = json.loads(daemon.ocwatch("cooldowns", "--json").stdout)
        (row,) = listed["cooldowns"]
        assert (row["model"], row["kind"], row["target"]["model"]) == (PRIMARY, "rate_limit", FALLBACK)
        status = daemon.ocwatch("status")
        assert status.returncode == 0
        assert PRIMARY in status.stdout
        assert daemon.ocwatch("pick", PRIMARY).stdout == f"{FALLBACK}\n"
        explained = json.loads(daemon.ocwatch("explain", session, "--json").stdout)
        assert (explained["model"], explained["outcome"]) == (PRIMARY, "moved")
        assert 0 < explained["lost_seconds"] < 30
        told = daemon.ocwatch("explain").stdout
        for label in ("message", "rule", "reset time", "OpenCode", "why move", "choice", f"-> {FALLBACK}: available"):
            assert label in told
        reported = json.loads(daemon.ocwatch("report", "--json").stdout)
        assert [one["model"] for one in reported["fallbacks"]] == [FALLBACK]
        assert reported["outcomes"] == {"moved": 1}


@pytest.mark.parametrize("version", [NEWEST, MIDDLE])
def test_four_sessions_at_once_are_all_moved(version: str, home: Home, provider: Provider) -> None:
    provider.script(PRIMARY, limited(3600))
    provider.script(FALLBACK, ok("moved"))
    with Daemon(home) as daemon, Serve(version, home) as serve:
        sessions = [serve.create_session() for _ in range(4)]
        for number, session in enumerate(sessions):
            serve.prompt_async(session, f"Task number {number} of four", model=PRIMARY)
        for session in sessions:
            serve.wait_answer(session, "moved", timeout=60)
        for number, session in enumerate(sessions):
            assert len(serve.user_messages(session)) == 1
            assert sum(r.count(f"Task number {number} of four") for r in provider.requests(FALLBACK)) == 1
        assert len(daemon.wait_journal("moved", 4)) == 4
        assert len(provider.requests(PRIMARY)) == 4


@pytest.mark.parametrize("version", [NEWEST, OLDEST])
def test_down_the_chain_when_the_fallback_is_limited_too(version: str, home: Home, provider: Provider) -> None:
    provider.script(PRIMARY, limited(3600))
    provider.script(FALLBACK, limited(1800))
    provider.script(THIRD, ok("third time lucky"))
    with Daemon(home) as daemon, Serve(version, home) as serve:
        session = serve.create_session()
        serve.prompt_async(session, "Go down the chain", model=PRIMARY)
        serve.wait_answer(session, "third time lucky", timeout=60)
        (asked,) = provider.requests(THIRD)
        assert asked.count("Go down the chain") == 1
        assert len(serve.user_messages(session)) == 1
        assert [len(provider.requests(model)) for model in (PRIMARY, FALLBACK)] == [1, 1]
        for model, seconds, then in ((PRIMARY, 3600, FALLBACK), (FALLBACK, 1800, THIRD)):
            (refused,), (later,) = provider.requests(model), provider.requests(then)
            entry = daemon.wait_reported(model)
            assert reckoned_between(entry, seconds, refused, later)
            assert entry["strikes"] == 1


def test_everything_limited_is_one_notice_and_no_further_request(
    newest: Serve, daemon: Daemon, provider: Provider
) -> None:
    for model in (PRIMARY, FALLBACK, THIRD):
        provider.script(model, limited(3600))
    sessions = [newest.create_session() for _ in range(2)]
    for session in sessions:
        newest.prompt_async(session, "Nobody can answer this", model=PRIMARY)
    daemon.wait_journal("exhausted")
    for session in sessions:
        wait_until(lambda session=session: stuck_for(newest, session) > 3000, 60)
    settle(4)
    assert len(daemon.journal("exhausted")) == 1
    assert [len(newest.user_messages(session)) for session in sessions] == [1, 1]
    assert all(stuck_for(newest, session) > 3000 for session in sessions)
    asked = {model: len(provider.requests(model)) for model in (PRIMARY, FALLBACK, THIRD)}
    assert all(1 <= number <= 2 for number in asked.values()), asked
    picked = daemon.ocwatch("pick", PRIMARY)
    assert (picked.returncode, picked.stdout) == (75, "")


@pytest.mark.parametrize("version", [NEWEST, MIDDLE])
def test_a_short_known_wait_is_left_to_opencode(version: str, home: Home, provider: Provider) -> None:
    provider.script(PRIMARY, limited(10), ok("it was worth waiting"))
    with Daemon(home) as daemon, Serve(version, home) as serve:
        wait_until(lambda: daemon.heartbeat().get("endpoints"), why="the daemon to find the endpoint")
        settle(2)  # in which it begins to follow the events
        session = serve.create_session()
        serve.prompt_async(session, "Wait ten seconds", model=PRIMARY)
        entry = daemon.wait_reported(PRIMARY)
        serve.wait_answer(session, "it was worth waiting")
        first, second = provider.requests(PRIMARY)
        # OpenCode asks again as soon as it has waited that long.
        assert first.wall + 10 - ROUNDED < epoch(entry["until"]) < second.wall + 0.1
        assert second.wall - first.wall >= 9.9
        assert provider.requests(FALLBACK) == []
        assert daemon.journal("claim") == []


def test_an_unknown_wait_is_left_to_opencode_and_its_answer_frees_the_model(
    newest: Serve, daemon: Daemon, provider: Provider
) -> None:
    provider.script(PRIMARY, limited(), ok("that was quick"))
    session = newest.create_session()
    newest.prompt_async(session, "Nobody says until when", model=PRIMARY)
    (refused,) = provider.wait_requests(PRIMARY)[:1]
    entry = daemon.wait_cooldown(PRIMARY)
    assert entry["reset_source"] == "estimate"
    newest.wait_answer(session, "that was quick")
    # An estimate is reckoned from the log's line: after the refusal, before OpenCode's own next attempt.
    assert reckoned_between(entry, 60, refused, provider.requests(PRIMARY)[1])
    wait_until(lambda: daemon.cooldown(PRIMARY) is None, 60, why="the cooldown to end with the answer")
    assert provider.requests(FALLBACK) == []


def test_a_users_abort_is_respected(newest: Serve, daemon: Daemon, provider: Provider) -> None:
    provider.script(PRIMARY, limited(20))
    session = newest.create_session()
    newest.prompt_async(session, "I change my mind", model=PRIMARY)
    daemon.wait_journal("wait")
    newest.abort(session)
    newest.wait_status(session, "idle")
    settle(5)
    assert provider.requests(FALLBACK) == []
    assert len(provider.requests(PRIMARY)) == 1
    assert daemon.journal("claim") == []


def test_a_limited_title_moves_nothing(newest: Serve, daemon: Daemon, provider: Provider) -> None:
    provider.script(TITLES, limited(3600))
    provider.script(PRIMARY, slow("a long answer", 4))
    session = newest.create_session()
    newest.prompt_async(session, "Only the title is limited", model=PRIMARY)
    newest.wait_answer(session, "a long answer", timeout=40)
    settle(1)
    assert provider.requests(FALLBACK) == []
    assert daemon.journal("claim") == []
    assert daemon.cooldown(PRIMARY) is None


def test_a_second_limit_within_seconds_and_a_prompt_that_names_no_model(
    newest: Serve, daemon: Daemon, provider: Provider
) -> None:
    provider.script(PRIMARY, limited(3600))
    provider.script(FALLBACK, ok("first"), ok("second"), ok("third"))
    session = newest.create_session()
    newest.prompt_async(session, "First prompt", model=PRIMARY)
    newest.wait_answer(session, "first")
    newest.wait_status(session, "idle")
    newest.prompt_async(session, "Second prompt", model=PRIMARY)
    newest.wait_answer(session, "second")
    newest.wait_status(session, "idle")
    newest.prompt_async(session, "Third prompt")
    newest.wait_answer(session, "third")
    assert len(newest.user_messages(session)) == 3
    # The third prompt named no model: it used the model to which the session had been moved, and not the primary.
    assert len(provider.requests(PRIMARY)) == 2
    assert [r.count("Third prompt") for r in provider.requests(FALLBACK)] == [0, 0, 1]


def test_a_running_session_whose_model_cools_meanwhile_is_moved_when_it_is_hit(
    newest: Serve, daemon: Daemon, provider: Provider
) -> None:
    running, other = newest.create_session(), newest.create_session()

    def primary(request: Request) -> Answer:
        if not request.count("I run already"):
            return limited(3600)
        return limited(3600) if request.tool_results else bash("sleep 4")

    provider.script(PRIMARY, primary)
    provider.script(FALLBACK, ok("moved"))
    newest.prompt_async(running, "I run already", model=PRIMARY)
    provider.wait_requests(PRIMARY, 1)
    newest.prompt_async(other, "I am hit first", model=PRIMARY)
    newest.wait_answer(other, "moved")
    newest.wait_answer(running, "moved", timeout=40)
    assert [len(newest.user_messages(session)) for session in (running, other)] == [1, 1]
    (asked,) = [r for r in provider.requests(FALLBACK) if r.count("I run already")]
    assert asked.tool_results


@pytest.mark.parametrize("version", [NEWEST, OLDEST])
def test_no_credit_moves_the_failed_turn_and_blocks_until_a_person_acts(
    version: str, home: Home, provider: Provider
) -> None:
    body = json.dumps(
        {"error": {"message": "Insufficient Balance", "type": "unknown_error", "code": "invalid_request"}}
    )
    provider.script(PRIMARY, error(402, body=body))
    provider.script(FALLBACK, ok("on credit"))
    with Daemon(home) as daemon, Serve(version, home) as serve:
        session = serve.create_session()
        serve.prompt_async(session, "I have no money", model=PRIMARY)
        serve.wait_answer(session, "on credit")
        assert len(serve.user_messages(session)) == 1
        entry = daemon.cooldown("mock/*") or daemon.cooldown(PRIMARY)
        assert entry is not None
        assert (entry["kind"], entry["until"]) == ("billing", None)


@pytest.mark.parametrize("version", [MIDDLE])
def test_a_loop_without_pause_is_ended_by_a_move(version: str, home: Home, provider: Provider) -> None:
    provider.script(PRIMARY, limited(-5))
    provider.script(FALLBACK, ok("peace at last"))
    with Daemon(home) as daemon, Serve(version, home) as serve:
        session = serve.create_session()
        serve.prompt_async(session, "Round and round", model=PRIMARY)
        serve.wait_answer(session, "peace at last", timeout=60)
        asked = len(provider.requests(PRIMARY))
        settle(2)
        assert len(provider.requests(PRIMARY)) == asked
        entry = daemon.wait_cooldown(PRIMARY)
        assert entry["reset_source"] == "estimate"


@pytest.mark.parametrize("plugin", [False, True])
@pytest.mark.parametrize("version", [NEWEST, MIDDLE])
def test_a_limit_in_the_body_of_a_success_is_left(version: str, plugin: bool, home: Home, provider: Provider) -> None:
    """OpenCode neither logs nor stores it, and asks again endlessly: 77 times in 25 s, 391 times on 1.3.2."""
    body = {"error": {"message": "Rate limit reached. Please try again in 20m.", "code": "rate_limit_exceeded"}}
    provider.script(PRIMARY, error(200, body))
    provider.script(FALLBACK, ok("an answer at last"))
    if plugin:
        assert ocwatch(home, "plugin", "install").returncode == 0
    with Daemon(home) as daemon, Serve(version, home) as serve:
        session = serve.create_session()
        serve.prompt_async(session, "Say something", model=PRIMARY)
        serve.wait_answer(session, "an answer at last", timeout=90)
        asked = len(provider.requests(PRIMARY))
        daemon.wait_journal("moved")
        settle(2)
        assert len(provider.requests(PRIMARY)) == asked
        assert len(serve.user_messages(session)) == 1
        entry = daemon.cooldown(PRIMARY)
        assert (entry is not None) == plugin, "without the plugin nobody has seen that it is a limit"
        if entry is not None:
            assert (entry["kind"], entry["reset_source"]) == ("rate_limit", "text")


@pytest.mark.parametrize("working", [PRIMARY, SECOND])
@pytest.mark.parametrize("version", [MIDDLE, "1.1.65", OLDEST])
def test_a_loop_beside_a_session_that_works_is_ended_as_well(
    version: str, working: str, home: Home, provider: Provider
) -> None:
    """Old logs do not name the session of a refused attempt if two are at work: 556 to 809 requests in 35 s."""

    def script(request: Request) -> object:
        return slow("a long work", 60, pieces=60) if request.count("Work on") else limited(-1)

    provider.script(PRIMARY, script)
    provider.script(working, script)
    provider.script(FALLBACK, ok("peace at last"))
    with Daemon(home) as daemon, Serve(version, home) as serve:
        works = serve.create_session()
        serve.prompt_async(works, "Work on", model=working)
        wait_until(lambda: len(serve.messages(works)) == 2, why="the answer that streams")
        session = serve.create_session()
        serve.prompt_async(session, "Round and round", model=PRIMARY)
        serve.wait_answer(session, "peace at last", timeout=60)
        looped = [request for request in provider.requests(PRIMARY) if request.count("Round and round")]
        assert len(looped) < 150  # some 20 a second: 9 to 26 on an idle machine, 124 at a load of 17
        assert {claim["moved"] for claim in daemon.journal("claim")} == {session}
        (long,) = [request for request in provider.requests(working) if request.count("Work on")]
        assert not long.client_left


@pytest.mark.parametrize(
    ("name", "status", "body"),
    [
        ("words nobody knows", 429, '{"error": {"message": "今天就到这里吧，小伙子"}}'),
        ("an empty body", 529, ""),
    ],
)
def test_words_nobody_knows_move_when_opencode_honours_a_retry_after(
    newest: Serve, daemon: Daemon, provider: Provider, name: str, status: int, body: str
) -> None:
    provider.script(PRIMARY, error(status, body=body, headers={"Retry-After": "3600"}))
    provider.script(FALLBACK, ok("moved all the same"))
    session = newest.create_session()
    newest.prompt_async(session, f"Limited with {name}", model=PRIMARY)
    newest.wait_answer(session, "moved all the same")
    (refused,) = provider.requests(PRIMARY)
    entry = daemon.wait_cooldown(PRIMARY)
    assert reckoned_between(entry, 3600, refused, provider.requests(FALLBACK)[0])
    assert entry["reset_source"] == "status"
    assert len(newest.user_messages(session)) == 1


def test_a_400_that_quotes_a_limit_blocks_and_moves_nothing(newest: Serve, daemon: Daemon, provider: Provider) -> None:
    quoting = "Failed to parse tool arguments: unexpected token in \"{'note': 'got HTTP 429 rate limit exceeded'}\""
    body = json.dumps({"error": {"message": quoting, "type": "invalid_request_error"}})
    provider.script(PRIMARY, error(400, body=body))
    session = newest.create_session()
    newest.prompt_async(session, "Quote a limit at me", model=PRIMARY)
    # 1.18 retries it by its own text rules after 0, 2.5 and 7 s.
    provider.wait_requests(PRIMARY, 3, timeout=40)
    settle(2)
    assert daemon.cooldown(PRIMARY) is None
    assert provider.requests(FALLBACK) == []
    newest.abort(session)


def test_back_on_the_primary_to_the_second(newest: Serve, home: Home, provider: Provider) -> None:
    provider.script(PRIMARY, limited(20), ok("the primary again"))
    provider.script(FALLBACK, ok("meanwhile"))
    with Daemon(home, maxDelay=2000) as daemon:
        session = newest.create_session()
        newest.prompt_async(session, "Before the end", model=PRIMARY)
        newest.wait_answer(session, "meanwhile")
        (refused,) = provider.requests(PRIMARY)
        entry = daemon.wait_reported(PRIMARY)
        assert reckoned_between(entry, 20, refused, provider.requests(FALLBACK)[0])
        end = epoch(entry["until"])
        settle(max(end - 0.5 - time.time(), 0))
        assert daemon.ocwatch("pick", PRIMARY).stdout == f"{FALLBACK}\n" or time.time() > end
        settle(max(end + 0.1 - time.time(), 0))
        assert daemon.ocwatch("pick", PRIMARY).stdout == f"{PRIMARY}\n"
        newest.wait_status(session, "idle")
        newest.prompt_async(session, "After the end", model=PRIMARY)
        newest.wait_answer(session, "the primary again")
        assert json.loads(daemon.ocwatch("cooldowns", "--json").stdout)["cooldowns"] == []


def test_a_cooldown_outlives_daemon_and_opencode(home: Home, provider: Provider) -> None:
    provider.script(PRIMARY, limited(3600))
    provider.script(FALLBACK, ok("moved"))
    daemon = Daemon(home)
    with daemon, Serve(NEWEST, home) as serve:
        session = serve.create_session()
        serve.prompt_async(session, "Remember this", model=PRIMARY)
        serve.wait_answer(session, "moved")
        daemon.wait_journal("moved")
        until = daemon.wait_reported(PRIMARY)["until"]
        daemon.kill()
        assert ocwatch(home, "status").returncode == 3
        assert ocwatch(home, "pick", PRIMARY).stdout == f"{FALLBACK}\n"
        daemon.start()
        assert daemon.cooldown(PRIMARY)["until"] == until
        settle(3)
        assert len(daemon.journal("claim")) == 1, "what was read again moved nothing"
        assert len(provider.requests(FALLBACK)) == 1


def test_old_news_blocks_but_never_moves(newest: Serve, home: Home, provider: Provider) -> None:
    provider.script(PRIMARY, limited(3600))
    session = newest.create_session()
    newest.prompt_async(session, "Limited before the daemon lived", model=PRIMARY)
    newest.wait_status(session, "retry")
    settle(2)  # 1.18 writes its log up to a second late
    with Daemon(home) as daemon:
        entry = daemon.wait_cooldown(PRIMARY)
        assert entry["strikes"] == 1
        settle(3)
        assert daemon.journal("claim") == []
        assert provider.requests(FALLBACK) == []
        newest.wait_status(session, "retry")


def test_asked_for_by_hand(newest: Serve, home: Home, provider: Provider) -> None:
    provider.script(PRIMARY, limited(3600))
    provider.script(FALLBACK, ok("by hand"))
    with Daemon(home, mode="ask", models={"claude-fallback": FALLBACK}) as daemon:
        session = newest.create_session()
        newest.prompt_async(session, "Move me when I say so", model=PRIMARY)
        daemon.wait_journal("offered")
        settle(1)
        assert provider.requests(FALLBACK) == []
        dry = daemon.ocwatch("redirect", "--dry-run")
        assert (dry.returncode, FALLBACK in dry.stdout) == (0, True), dry
        assert provider.requests(FALLBACK) == []
        done = daemon.ocwatch("redirect", session, "--to", "claude-fallback")
        assert done.returncode == 0, done
        newest.wait_answer(session, "by hand")
        assert len(newest.user_messages(session)) == 1
        wait_until(lambda: "ocwatch redirect" not in daemon.ocwatch("status").stdout, 30, 0.5, "status to follow")
        assert "by its user" not in daemon.ocwatch("status").stdout
        assert daemon.journal("stopped") == []


def test_a_password_is_found_and_honoured(home: Home, provider: Provider) -> None:
    provider.script(PRIMARY, limited(3600))
    provider.script(FALLBACK, ok("behind a password"))
    with Daemon(home) as daemon, Serve(NEWEST, home, password="open sesame") as serve:
        session = serve.create_session()
        serve.prompt_async(session, "Locked in", model=PRIMARY)
        serve.wait_answer(session, "behind a password")
        for path in daemon.state.iterdir():
            if path.is_file():
                assert b"sesame" not in path.read_bytes()
        assert "sesame" not in daemon.said()


def test_a_second_daemon_leaves_at_once_and_the_first_ends_cleanly(home: Home, tmp_path: Path) -> None:
    daemon = Daemon(home)
    with daemon:
        second = Daemon(home)
        second.output = tmp_path / "second.err"
        with pytest.raises(RuntimeError, match="already running"):
            second.start()
        assert second.stop() == 1
        assert daemon.stop() == 0
