"""Tests that sessions return to their primary, and that the plugin does nothing beside another mover."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.bun import A, B, Bun, C, at, message, moved, prompt, rests, went_to

pytestmark = pytest.mark.e2e


@pytest.mark.parametrize(
    ("register", "prompts", "wanted"),
    [
        # a session that the daemon moved from A to B; a prompt without a model is for B
        ({}, [prompt(B, False)], A),
        ({}, [prompt(B, False, session="ses_2")], B),
        ({}, [prompt(B, False, "bound")], B),
        ({}, [prompt(C, False)], C),
        ({A: rests(B)}, [prompt(B, False)], B),
        ({A: rests(C), B: rests(C)}, [prompt(B, False)], C),
        # a model that a prompt names is used from then on
        ({}, [prompt(B, True)], B),
        ({}, [prompt(B, True), prompt(B, False)], B),
        ({}, [prompt(A, True), prompt(B, False)], A),
        # sessions that prevention moved return as well
        ({C: rests(B, until=None)}, [prompt(C, True, session="ses_2"), {}, prompt(B, False, session="ses_2")], C),
        ({A: rests(B), B: rests(C)}, [prompt(B, False), {}, prompt(C, False)], A),
    ],
)
def test_a_moved_session_comes_back(newest: Bun, register: Any, prompts: list[dict[str, Any]], wanted: str) -> None:
    newest.register(**register)
    (newest.state / "moved.json").write_text(moved(ses_1=(A, B)))
    free = {"act": "write", "path": str(newest.state / "blacklist.json"), "text": '{"version": 1, "models": {}}'}
    settings = {"agent": {"bound": {"model": B}, "loose": {}}}
    results = newest.play({"act": "hook", "name": "config", "input": settings}, *(step or free for step in prompts))
    assert went_to(results[-1]).split()[0] == wanted
    assert newest.errors() == ""


def choose(bun: Bun, model: str) -> dict[str, Any]:
    """Return the step that a user chooses a model in a TUI, as OpenCode 1.0 to 1.18 records it."""
    provider, _, name = model.partition("/")
    chosen = {"recent": [{"providerID": provider, "modelID": name}], "favorite": [], "variant": {}}
    return {"act": "write", "path": str(bun.home / ".local/state/opencode/model.json"), "text": json.dumps(chosen)}


@pytest.mark.parametrize(
    ("register", "before", "chosen", "prompts", "wanted"),
    [
        # a TUI that opens a moved session again names the fallback, which no user chose
        ({}, None, None, [prompt(B, True)], A),
        ({}, B, None, [prompt(B, True)], A),
        ({}, None, C, [prompt(B, True)], A),
        ({A: rests(B)}, None, None, [prompt(B, True)], B),
        ({}, None, None, [prompt(C, True), prompt(B, True)], B),
        # an agent's own model; a user's choice, then and later
        ({}, None, None, [prompt(B, True, "bound")], B),
        ({}, None, B, [prompt(B, True)], B),
        ({}, A, B, [prompt(B, True), prompt(B, True)], B),
        ({}, None, None, [prompt(A, True), prompt(B, True)], A),
    ],
)
def test_a_tui_names_a_stand_in_that_nobody_chose(
    newest: Bun, register: Any, before: str | None, chosen: str | None, prompts: list[Any], wanted: str
) -> None:
    tui = replace(newest, tui=True)
    tui.register(**register)
    (tui.state / "moved.json").write_text(moved(ses_1=(A, B)))
    if before is not None:
        written = choose(tui, before)
        path = Path(written["path"])
        path.parent.mkdir(parents=True)
        path.write_text(written["text"])
    settings = {"agent": {"bound": {"model": B}}}
    known = {"act": "hook", "name": "config", "input": settings}
    results = tui.play(known, *([choose(tui, chosen)] if chosen else []), *prompts)
    assert went_to(results[-1]).split()[0] == wanted
    assert tui.errors() == ""


def test_with_its_model_a_session_gets_its_agent_back(newest: Bun) -> None:
    tui = replace(newest, tui=True)
    tui.register()
    entry = {"from": {"model": A, "agent": "build"}, "to": {"model": B, "agent": "spare"}, "since": at(-60)}
    (tui.state / "moved.json").write_text(json.dumps({"version": 1, "sessions": {"ses_1": entry}}))
    known = {"act": "hook", "name": "config", "input": {"agent": {"spare": {"model": B}}}}
    (*_, spared, toasts) = tui.play(known, prompt(B, True, "spare"), {"act": "toasts"})
    assert went_to(spared) == f"{A} build"
    assert [toast["title"] for toast in toasts] == [f"{A} is available again"]


def test_where_a_session_came_from_outlives_the_process(newest: Bun) -> None:
    tui = replace(newest, tui=True)
    tui.register(**{A: rests(B)})
    tui.play(prompt(A, True, session="ses_2"))
    kept = newest.state / "origins" / "ses_2.json"
    assert (kept.stat().st_mode & 0o777, kept.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    tui.register()
    for bun, step in ((newest, prompt(B, False, session="ses_2")), (tui, prompt(B, True, session="ses_2"))):
        (output,) = bun.play(step)
        assert went_to(output) == f"{A} build"

    tui.play(choose(tui, B), prompt(B, True, session="ses_2"))
    (output,) = tui.play(prompt(B, True, session="ses_2"))
    assert went_to(output) == f"{B} build", "chosen by hand, in an earlier process"

    long_ago = kept.stat().st_mtime - 31 * 86_400
    os.utime(kept, (long_ago, long_ago))
    tui.play(prompt(B, True))
    assert not kept.exists()


def test_a_clock_that_is_years_ahead_for_a_moment_forgets_no_origin(newest: Bun) -> None:
    newest.register(**{A: rests(B)})
    newest.play(prompt(A, True, session="ses_2"))
    kept = newest.state / "origins" / "ses_2.json"
    long_ago = kept.stat().st_mtime - 10 * 365 * 86_400
    os.utime(kept, (long_ago, long_ago))
    newest.play(prompt(B, True))
    assert kept.exists()


@pytest.mark.parametrize("text", ["", "{", '{"version": 2, "sessions": {}}', '{"sessions": {"ses_1": 3}}', "[]"])
def test_a_broken_list_of_moved_sessions_changes_nothing(newest: Bun, text: str) -> None:
    newest.register()
    (newest.state / "moved.json").write_text(text.replace("{}", moved(ses_1=(A, B))) or " ")
    (output,) = newest.play(prompt(B, False))
    assert went_to(output) == "mock2/b build"


@pytest.mark.parametrize(
    ("plugins", "rival"),
    [
        (None, None),
        ([], None),
        (["opencode-anthropic-auth@0.0.5", "@me/tools", ["opencode-wakatime", {"a": 1}]], None),
        (["file:///home/me/.config/opencode/plugin/rate-limit-fallback.js"], None),
        (["file:///home/me/fallback-project/.opencode/plugin/notify.js"], None),
        (["oh-my-opencode"], "oh-my-opencode"),
        (["x", "oh-my-openagent@latest"], "oh-my-openagent"),
        (["@renjfk/opencode-model-fallback@1.2.3"], "@renjfk/opencode-model-fallback"),
        ([["opencode-auto-fallback", {"models": []}]], "opencode-auto-fallback"),
        (["file:///home/me/.config/opencode/plugins/model-fallback.ts"], "model-fallback.ts"),
        (["file:///srv/node_modules/oh-my-opencode-slim/dist/index.js"], "oh-my-opencode-slim"),
        (["file:///srv/node_modules/@me/failover/dist/index.js"], "@me/failover"),
    ],
)
def test_another_mover_makes_it_stand_back_and_say_so(newest: Bun, plugins: Any, rival: str | None) -> None:
    newest.register(**{A: rests(B)})
    settings = {} if plugins is None else {"plugin": plugins}
    _, output, seen = newest.play({"act": "hook", "name": "config", "input": settings}, message(A), newest.about())
    assert went_to(output) == ("mock2/b build" if rival is None else "mock/a build")
    assert seen["about"]["standing_back"] == (rival and f"another fallback plugin is active: {rival}")
