"""Tests of the plugin's `retry` hook in a stand-in for the released OpenCode 2 (by contract only)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.host2 import SEEN, Host2, daemon, ended, move, prompt, refused, script, session

TWENTY_MINUTES = 20 * 60_000
HOLD = {"verdict": "hold", "until": 4e9}


@pytest.fixture
def host(tmp_path: Path) -> Host2:
    return Host2(tmp_path / "home")


def models(seen: dict[str, Any]) -> list[str]:
    return [request["model"] for request in seen["requests"]]


def kinds(seen: dict[str, Any]) -> list[str]:
    return [event["type"].removeprefix("session.") for event in seen["events"]]


def test_a_limited_step_goes_on_with_the_fallback_at_once(host: Host2) -> None:
    end, _, seen = host.play(
        session(), script("mock/a", refused(retryAfter=600_000)), daemon(move()), prompt(),
        {"act": "reported", "times": 2}, SEEN,
    )[-3:]  # fmt: skip
    assert end == "succeeded"
    assert models(seen) == ["mock/a", "mock2/b"]
    assert len({request["message"] for request in seen["requests"]}) == 1  # the same assistant message
    assert (kinds(seen).count("inbox.enqueued"), "execution.interrupted" in kinds(seen)) == (1, False)
    (question,) = seen["questions"]
    assert (question["session"], question["model"], question["attempt"]) == ("ses_1", "mock/a", 2)
    assert (question["error"]["status"], question["decision"]) == (429, {"retry": True, "delay": 600_000})
    assert seen["reports"] == [{"version": 1, "done": True, "later": True}, {"version": 1, "answers": True}]
    assert host.errors() == ""


def test_the_daemon_is_told_what_the_session_holds_and_none_of_its_words(host: Host2) -> None:
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "secret words " * 4000}]},
        {"role": "user", "content": [{"type": "file", "mime": "image/png", "data": "A" * 90_000}]},
        {"role": "assistant", "content": [{"type": "tool-call", "name": "shell", "input": {"command": "ls"}}]},
    ]
    *_, seen = host.play(
        session(messages=messages), script("mock/a", refused()), daemon(move()), prompt(), SEEN
    )  # fmt: skip
    (question,) = seen["questions"]
    assert 13_000 <= question["needs"]["tokens"] < 13_100
    assert (question["needs"]["inputs"], question["needs"]["tools"]) == (["image"], True)
    assert "secret" not in str(question)


def test_a_quota_that_ends_the_turn_is_turned_round(host: Host2) -> None:
    *_, end, seen = host.play(
        session(), script("mock/a", refused("provider.quota")), daemon(move()), prompt(), SEEN
    )  # fmt: skip
    assert (end, models(seen)) == ("succeeded", ["mock/a", "mock2/b"])


def test_asked_twice_for_one_attempt_it_asks_and_switches_once(host: Host2) -> None:
    *_, end, seen = host.play(
        {"act": "twice"}, session(), script("mock/a", refused("provider.quota")), daemon(move()), prompt(), SEEN
    )
    assert (end, models(seen)) == ("succeeded", ["mock/a", "mock2/b"])
    assert (len(seen["questions"]), kinds(seen).count("model.selected")) == (1, 1)


def test_each_attempt_and_each_turn_is_asked_anew(host: Host2) -> None:
    *_, seen = host.play(
        session(), script("mock/a", refused(), refused(), {}, refused(), {}), daemon({"verdict": "untouched"}),
        prompt(wait=False), {"act": "waits"}, {"act": "advance", "ms": 2000},
        {"act": "waits", "times": 2}, {"act": "advance", "ms": 4000}, ended(),
        prompt(wait=False), {"act": "waits", "times": 3}, {"act": "advance", "ms": 2000}, ended(), SEEN,
    )  # fmt: skip
    assert [question["attempt"] for question in seen["questions"]] == [2, 3, 2]


@pytest.mark.parametrize("trouble", ["dead", "slow", "garbage", "nonsense", "unknown", "too long", "hangs up"])
def test_without_a_good_answer_opencode_goes_on_as_without_us(host: Host2, trouble: str) -> None:
    answers: dict[str, Any] = {
        "slow": "silence", "garbage": "\0\xff{{{\n", "nonsense": '{"version": 1, "verdict": 7}\n',
        "unknown": '{"version": 2, "verdict": "move", "model": "mock2/b"}\n', "too long": "x" * 100_000,
        "hangs up": "close",
    }  # fmt: skip
    started = [] if trouble == "dead" else [daemon(answers[trouble]), {"act": "breathe"}]
    asked = [] if trouble == "dead" else [{"act": "asked", "times": 1}]
    *_, seen = host.play(
        session(), script("mock/a", refused(), {}), *started, prompt(wait=False), *asked, {"act": "breathe"},
        {"act": "advance", "ms": 299}, {"act": "breathe"}, {"act": "advance", "ms": 1}, {"act": "waits"},
        {"act": "advance", "ms": 2000}, ended(), SEEN,
    )  # fmt: skip
    assert (seen["ended"], models(seen)) == ({"ses_1": "succeeded"}, ["mock/a", "mock/a"])
    assert "model.selected" not in kinds(seen)


def test_a_quota_without_a_daemon_ends_the_turn_as_ever(host: Host2) -> None:
    *_, end, seen = host.play(session(), script("mock/a", refused("provider.quota")), prompt(), SEEN)
    assert (end, models(seen)) == ("failed", ["mock/a"])


@pytest.mark.parametrize("then", ["retry", "move"])
def test_an_attempt_is_held_for_twenty_minutes_and_released(host: Host2, then: str) -> None:
    release = move() if then == "move" else {"verdict": "retry"}
    *_, before, _, _, end, seen = host.play(
        session(), script("mock/a", refused("provider.quota"), {}), daemon(HOLD), prompt(wait=False),
        {"act": "asked", "times": 1}, {"act": "advance", "ms": TWENTY_MINUTES}, SEEN,
        {"act": "say", **release}, {"act": "breathe"}, ended(), SEEN,
    )  # fmt: skip
    assert (models(before), before["ended"]) == (["mock/a"], {"ses_1": False})
    assert end == "succeeded"
    assert models(seen) == ["mock/a", "mock2/b" if then == "move" else "mock/a"]
    assert kinds(seen).count("inbox.enqueued") == 1


def test_a_hold_that_the_daemon_does_not_end_ends_by_itself(host: Host2) -> None:
    until = {"verdict": "hold", "until": 0}  # long ago
    *_, end, seen = host.play(
        session(), script("mock/a", refused(), {}), daemon(until), prompt(wait=False), {"act": "asked", "times": 1},
        {"act": "breathe"}, {"act": "advance", "ms": 5000}, ended(), SEEN,
    )  # fmt: skip
    assert (end, models(seen)) == ("succeeded", ["mock/a", "mock/a"])


def test_a_daemon_that_ends_during_a_hold_leaves_the_decision_to_opencode(host: Host2) -> None:
    *_, end, seen = host.play(
        session(), script("mock/a", refused("provider.quota")), daemon(HOLD), prompt(wait=False),
        {"act": "asked", "times": 1}, {"act": "breathe"}, {"act": "hangup"}, ended(), SEEN,
    )  # fmt: skip
    assert (end, models(seen)) == ("failed", ["mock/a"])


def test_an_interrupt_during_a_hold_ends_it_and_nothing_is_switched(host: Host2) -> None:
    *_, end, _, _, seen = host.play(
        session(), script("mock/a", refused()), daemon(HOLD), prompt(wait=False), {"act": "asked", "times": 1},
        {"act": "breathe"}, {"act": "interrupt", "session": "ses_1"}, ended(), {"act": "reported", "times": 1},
        {"act": "breathe"}, SEEN,
    )  # fmt: skip
    assert end == "interrupted"
    assert (models(seen), seen["sessions"]["ses_1"]["model"]) == (["mock/a"], "mock/a")
    assert seen["reports"] == [{"version": 1, "done": False, "why": "the turn was stopped"}]


def test_an_interrupt_while_the_daemon_thinks_leaves_the_model_alone(host: Host2) -> None:
    *_, seen = host.play(
        session(), script("mock/a", refused()), daemon("silence"), prompt(wait=False), {"act": "asked", "times": 1},
        {"act": "interrupt", "session": "ses_1"}, ended(), {"act": "breathe"}, {"act": "say", **move()},
        {"act": "breathe"}, SEEN,
    )  # fmt: skip
    assert (seen["ended"], seen["sessions"]["ses_1"]["model"]) == ({"ses_1": "interrupted"}, "mock/a")


def test_a_model_that_was_chosen_meanwhile_is_left_alone(host: Host2) -> None:
    *_, seen = host.play(
        session(), script("mock/a", refused()), daemon("silence"), prompt(wait=False), {"act": "asked", "times": 1},
        {"act": "select", "session": "ses_1", "model": "mock3/c"}, {"act": "breathe"}, {"act": "say", **move()},
        {"act": "waits"}, {"act": "advance", "ms": 2000}, ended(), SEEN,
    )  # fmt: skip
    assert models(seen) == ["mock/a", "mock3/c"]
    assert seen["reports"] == [{"version": 1, "done": False, "why": "the session is on mock3/c"}]


def test_a_model_that_is_chosen_during_a_hold_is_asked_at_once(host: Host2) -> None:
    *_, end, seen = host.play(
        session(), script("mock/a", refused("provider.quota")), daemon(HOLD), prompt(wait=False),
        {"act": "asked", "times": 1}, {"act": "breathe"}, {"act": "select", "session": "ses_1", "model": "mock3/c"},
        ended(), SEEN,
    )  # fmt: skip
    assert (end, models(seen)) == ("succeeded", ["mock/a", "mock3/c"])


def test_a_compaction_is_left_alone(host: Host2) -> None:
    *_, decision, end, seen = host.play(
        session(), script("mock/a", refused("provider.quota")), daemon(move()), {"act": "compact", "session": "ses_1"},
        prompt(), SEEN,
    )  # fmt: skip
    assert decision == {"retry": False}
    assert (end, len(seen["questions"])) == ("succeeded", 1)  # the plugin asks about the next turn again


def test_hooks_before_ours_are_overruled_and_hooks_after_it_overrule(host: Host2) -> None:
    steps = (session(), script("mock/a", refused()), daemon(move()), prompt(), SEEN)
    other = ("retry", {"retry": False})
    assert host.play(*steps, before=[other])[-2] == "succeeded"
    *_, end, seen = host.play(*steps, after=[other])
    assert (end, models(seen)) == ("failed", ["mock/a"])


def test_another_fallback_plugin_is_left_to_it(host: Host2) -> None:
    *_, end, seen = host.play(
        {"act": "rival", "id": "opencode-model-fallback"}, session(), script("mock/a", refused("provider.quota")),
        daemon(move()), prompt(), SEEN,
    )  # fmt: skip
    assert (end, seen["questions"]) == ("failed", [])


def test_many_sessions_at_once_are_each_moved_by_their_own_answer(host: Host2) -> None:
    names = [f"ses_{number}" for number in range(8)]
    *_, seen = host.play(
        script("mock/a", refused()), daemon(move()), *(session(name=name) for name in names),
        *(prompt(name, wait=False) for name in names), *(ended(name) for name in names), SEEN,
    )  # fmt: skip
    assert {state["model"] for state in seen["sessions"].values()} == {"mock2/b"}
    assert (len(seen["questions"]), len(seen["requests"])) == (8, 16)
