"""Tests that a prompt for a model that is cooling down goes to its fallback before it is sent."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest

from tests.support.bun import A, B, Bun, C, at, message, rests, went_to

pytestmark = pytest.mark.e2e


@pytest.mark.parametrize(
    ("register", "asked", "wanted"),
    [
        ({"mock/a": rests(B)}, A, "mock2/b build"),
        ({"mock/a": rests(B, "claude-fallback")}, A, "mock2/b claude-fallback"),
        ({"mock/a": rests("openrouter/x/y:free")}, A, "openrouter/x/y:free build"),
        ({"mock/a": rests(B)}, C, "mock3/c build"),
        ({"mock/a": rests(B, until=None)}, A, "mock2/b build"),
        ({"mock/a": rests(B, until=at(-1))}, A, "mock/a build"),
        ({"mock/a": rests(B, until="2999-01-01T00:00:00")}, A, "mock2/b build"),
        ({"mock/a": rests(B, until="2999-01-01T00:00:00+02:00")}, A, "mock2/b build"),
        ({"mock/a": rests(B, until="soon")}, A, "mock/a build"),
        ({"mock/a": {"target": {"model": B}}}, A, "mock/a build"),
        ({"mock/a": rests()}, A, "mock/a build"),
        ({"mock/a": rests("nonsense")}, A, "mock/a build"),
        ({"mock/a": "nonsense", "mock/*": None, "mock2/b": 3}, A, "mock/a build"),
        # a whole provider; the free models of a provider
        ({"mock/*": rests(B)}, A, "mock2/b build"),
        ({"mock/*": rests(B)}, "mocking/a", "mocking/a build"),
        ({"o/x:free": rests(B, scope="free_tier")}, "o/y:free", "mock2/b build"),
        ({"o/x-free": rests(B, scope="free_tier")}, "o/y-free", "mock2/b build"),
        ({"o/x:free": rests(B, scope="free_tier")}, "o/y", "o/y build"),
        ({"o/x:free": rests(B, scope="model")}, "o/y:free", "o/y:free build"),
        ({"o/x:free": rests(B, scope="free_tier")}, "p/y:free", "p/y:free build"),
        # a target that is listed itself is followed, never in a circle; of two entries the longer one counts
        ({"mock/a": rests(B), "mock2/b": rests(C, "c-agent")}, A, "mock3/c c-agent"),
        ({"mock/a": rests(B), "mock2/*": rests(C)}, A, "mock3/c build"),
        ({"mock/a": rests(B), "mock2/b": rests(A)}, A, "mock/a build"),
        # a forecast redirects prompts if another model is free
        ({"mock/a": rests(B, reset_source="forecast")}, A, "mock2/b build"),
        ({"mock/a": rests(B, reset_source="forecast"), "mock2/b": rests(C)}, A, "mock3/c build"),
        ({"mock/a": rests(B, reset_source="forecast"), "mock2/b": rests()}, A, "mock/a build"),
        ({"mock/a": rests(B), "mock2/b": rests(C, reset_source="forecast")}, A, "mock3/c build"),
        ({"mock/a": rests(B), "mock2/b": rests(reset_source="forecast")}, A, "mock2/b build"),
        ({"mock/a": rests(B), "mock2/b": rests(C, reset_source="forecast"), "mock3/c": rests()}, A, "mock2/b build"),
        ({"mock/a": rests(A)}, A, "mock/a build"),
        ({"mock/a": rests(B), "mock2/b": rests()}, A, "mock/a build"),
        ({"mock/a": rests(B), "mock2/b": rests(C), "mock3/c": rests(B)}, A, "mock/a build"),
        ({"mock/a": rests(B, until=at(60)), "mock/*": rests(C)}, A, "mock3/c build"),
    ],
)
def test_a_prompt_goes_where_the_register_says(newest: Bun, register: Any, asked: str, wanted: str) -> None:
    newest.register(**register)
    (output,) = newest.play(message(asked))
    assert went_to(output) == wanted
    assert newest.errors() == ""


def test_who_may_do_less_keeps_the_agent(bun: Bun) -> None:
    bun.register(**{A: rests(B, "claude-fallback")})
    settings = {"agent": {"reviewer": {"mode": "subagent"}, "writer": {"mode": "primary"}}}
    _, *outputs = bun.play(
        {"act": "hook", "name": "config", "input": settings},
        *(message(A, agent) for agent in ("reviewer", "writer", "plan", "general", "claude-primary")),
    )
    assert [went_to(output) for output in outputs] == [
        "mock2/b reviewer",
        "mock2/b claude-fallback",
        "mock2/b plan",
        "mock2/b general",
        "mock2/b claude-fallback",
    ]


def test_a_message_that_the_daemon_runs_again_is_left_alone(bun: Bun) -> None:
    bun.register(**{A: rests(B)})
    (output,) = bun.play(message(A, parts=0))
    assert went_to(output) == "mock/a build"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "null",
        "[]",
        '"text"',
        '{"version": 2, "models": {"mock/a": {"until": null, "target": {"model": "mock2/b"}}}}',
        '{"version": "1", "models": 7}',
        '{"version": {}, "models": {"mock/a": {"until": null, "target": {"model": "mock2/b"}}}}',
        '{"version": 1, "models": [{"until": null, "target": {"model": "mock2/b"}}]}',
        "\x00" * 1000,
    ],
)
def test_a_register_that_cannot_be_understood_changes_nothing(newest: Bun, text: str) -> None:
    newest.register(text or " ")
    (output,) = newest.play(message(A))
    assert went_to(output) == "mock/a build"


@pytest.mark.parametrize("kind", ["directory", "pipe", "link", "huge", "closed"])
def test_something_else_in_the_registers_place_changes_nothing(newest: Bun, kind: str) -> None:
    newest.state.mkdir(parents=True)
    place = newest.state / "blacklist.json"
    sound = json.dumps({"version": 1, "models": {A: rests(B)}})
    if kind == "directory":
        place.mkdir()
    elif kind == "pipe":
        os.mkfifo(place)
    elif kind == "link":
        (newest.home / "elsewhere.json").write_text(sound)
        place.symlink_to(newest.home / "elsewhere.json")
    elif kind == "huge":
        place.write_text(sound + " " * (9 << 20))
    elif kind == "closed":
        newest.register("{}")
        place.unlink()
    (output,) = newest.play(message(A))
    assert went_to(output) == "mock/a build"


def test_a_change_of_the_register_holds_for_the_next_prompt(bun: Bun) -> None:
    place = str(bun.state / "blacklist.json")

    def write(*models: str) -> dict[str, Any]:
        return {"act": "write", "path": place, "text": json.dumps({"models": {name: rests(B) for name in models}})}

    steps = [message(A), write(A), message(A), write(C), message(A), write(A), message(A)]
    outputs = bun.play(*steps)
    assert [went_to(outputs[at]) for at in (0, 2, 4, 6)] == [
        "mock/a build",
        "mock2/b build",
        "mock/a build",
        "mock2/b build",
    ]


def test_the_register_is_read_again_only_after_a_change(bun: Bun) -> None:
    """So a prompt costs one `stat`, however many models rest; what that takes, bench/prevention.py measures."""
    path, one, other = str(bun.state / "blacklist.json"), "mock2/b", "mock3/c"
    bun.register(**{A: rests(one)})
    text = (bun.state / "blacklist.json").read_text().replace(one, other)
    _, first, _, same, _, changed = bun.play(
        *({"act": "rewrite", "path": path, "seconds": 1_795_000_000}, message(A)),
        *({"act": "rewrite", "path": path, "seconds": 1_795_000_000, "text": text}, message(A)),
        *({"act": "rewrite", "path": path, "seconds": 1_795_000_001}, message(A)),
    )
    assert [went_to(step).split()[0] for step in (first, same, changed)] == [one, one, other]


def test_a_toast_holds_nothing_that_a_terminal_obeys(bun: Bun) -> None:
    target = "mock2/\x1b[2Jb\u202e\n\x9b31m"
    bun.register(**{A: rests(target)})
    _, (toast,) = bun.play(message(A), {"act": "toasts"})
    assert toast["message"].startswith("Prompts go to mock2/?[2Jb???31m until ")


def test_the_person_is_told_once_per_cooldown(bun: Bun) -> None:
    bun.register(**{A: rests(B, since="2026-11-22T10:00:00Z"), C: rests(B, until=None)})
    again = {"act": "write", "path": str(bun.state / "blacklist.json")}
    later = {"models": {A: rests(B, since="2026-11-22T12:00:00Z", reset_source="forecast")}}
    *_, toasts = bun.play(
        *(message(A), message(A), message(C), message(C)),
        {**again, "text": json.dumps(later)},
        *(message(A), message(A), message(B)),
        {"act": "toasts"},
    )
    assert [toast["title"] for toast in toasts] == [
        f"{A} is limited",
        f"{C} is limited",
        f"{A} is about to be limited",
    ]
    assert all(toast["message"].startswith(f"Prompts go to {B} until ") for toast in toasts)


def test_an_entry_made_by_a_clock_that_was_years_ahead_blocks_nothing(newest: Bun) -> None:
    year = 365 * 86_400.0
    brief = rests(B, until=at(10 * year + 60), since=at(10 * year))
    for entry, wanted in (
        (brief, A),
        (rests(B, until=None, since=at(10 * year)), B),
        (rests(B, until=at(10 * year)), B),
        (rests(B, until=at(10 * year), since=at(3600)), B),
    ):
        newest.register(**{A: entry})
        (output,) = newest.play(message(A))
        assert went_to(output) == f"{wanted} build"


def test_a_prompt_that_is_run_again_keeps_its_creation_time(bun: Bun) -> None:
    """With a new time, OpenCode 1.18 shows the prompt twice.

    If this process has seen the prompt, the plugin sends no request for it; the simulated OpenCode would not answer it.
    """
    first, again = message(A), message(B, parts=0)
    for step, created in ((first, 1111), (again, 2222)):
        step["output"]["message"] |= {"id": "msg_1", "sessionID": "ses_1", "time": {"created": created}}
    *_, output = bun.play(first, again)
    assert output["message"]["time"]["created"] == 1111
    assert bun.errors() == ""
