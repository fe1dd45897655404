"""A prompt for a model that rests goes to its stand-in before it is sent."""

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
        # a whole provider; the free models of one
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
        # a limit that is only foreseen keeps prompts away where something else is free
        ({"mock/a": rests(B, told_by="forecast")}, A, "mock2/b build"),
        ({"mock/a": rests(B, told_by="forecast"), "mock2/b": rests(C)}, A, "mock3/c build"),
        ({"mock/a": rests(B, told_by="forecast"), "mock2/b": rests()}, A, "mock/a build"),
        ({"mock/a": rests(B), "mock2/b": rests(C, told_by="forecast")}, A, "mock3/c build"),
        ({"mock/a": rests(B), "mock2/b": rests(told_by="forecast")}, A, "mock2/b build"),
        ({"mock/a": rests(B), "mock2/b": rests(C, told_by="forecast"), "mock3/c": rests()}, A, "mock2/b build"),
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


def test_prevention_costs_next_to_nothing(bun: Bun) -> None:
    many = {f"mock{n}/m{n}": rests(B) for n in range(50)}
    bun.register(**many, **{A: rests(B)})
    chosen = message(A)["output"]["message"]
    (spent,) = bun.play({"act": "time", "rounds": 2000, "message": chosen})
    print(f"{bun.version}: median {spent['median']:.4f} ms, p99 {spent['p99']:.4f} ms")
    assert spent["median"] <= 0.2


def test_the_person_is_told_once_per_cooldown(bun: Bun) -> None:
    bun.register(**{A: rests(B, since="2026-11-22T10:00:00Z"), C: rests(B, until=None)})
    again = {"act": "write", "path": str(bun.state / "blacklist.json")}
    later = {"models": {A: rests(B, since="2026-11-22T12:00:00Z", told_by="forecast")}}
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
