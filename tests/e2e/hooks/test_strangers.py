"""Tests of the plugin with other users' files: a foreign state directory, no HOME, pipes, `sudo`."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.bun import A, B, Bun, C, message, moved, prompt, rests, went_to
from tests.support.stranger import NOBODY, THERE_ARE_STRANGERS, give_to, owners_below

pytestmark = pytest.mark.e2e

URL = "https://api.example/v1/chat/completions"


def refused() -> list[dict[str, Any]]:
    """Return a refused request to A, with headers about the remaining allowance."""
    asked = {"sessionID": "ses_1", "agent": "build", "model": {"providerID": "mock", "id": "a"}, "provider": {}}
    headers = {"retry-after": "60", "x-ratelimit-remaining-requests": "0"}
    init = {"method": "POST", "body": '{"model":"a"}'}
    return [
        {"act": "hook", "name": "chat.params", "input": asked},
        {"act": "request", "url": URL, "init": init, "status": 429, "headers": headers},
    ]


@pytest.mark.parametrize("how", ["directory", "link to it", "another's link"])
def test_another_users_state_directory_is_neither_believed_nor_written(bun: Bun, how: str) -> None:
    bun.register(**{"mock/a": rests(B)})
    real = bun.state
    if how != "directory":
        real = bun.home / "real"
        bun.state.rename(real)
        bun.state.symlink_to(real)
    give_to(bun.state if how == "another's link" else real)
    before = sorted(path.name for path in real.rglob("*"))
    *_, first, second, toasts, logged = bun.play(
        {"act": "start"}, *refused(), message(A), message(A), {"act": "toasts"}, {"act": "logged"}
    )
    if THERE_ARE_STRANGERS:
        assert went_to(first) == went_to(second) == "mock/a build"
        assert sorted(path.name for path in real.rglob("*")) == before
        (toast,) = toasts
        owner = f"belongs to user {NOBODY}"
        said = f"is a link that {owner}" if how == "another's link" else f"{owner}, not to you"
        assert f"{bun.state} {said}" in toast["message"]
        assert toast["message"] in logged[0]
    else:
        assert went_to(first) == "mock2/b build"


def test_a_directory_that_changes_hands_is_believed_no_longer(newest: Bun) -> None:
    """If other users may write into its parent, they can replace it while OpenCode runs."""
    newest.register(**{"mock/a": rests(B)})
    if not THERE_ARE_STRANGERS:
        return
    theirs = newest.home / "theirs"
    theirs.mkdir()
    (theirs / "blacklist.json").write_bytes(
        (newest.state / "blacklist.json").read_bytes().replace(B.encode(), C.encode())
    )
    os.chown(theirs, NOBODY, NOBODY)  # and not the file, which could be a hard link to one of ours
    first, _, second = newest.play(
        message(A), {"act": "swap", "one": str(newest.state), "other": str(theirs)}, message(A)
    )
    assert (went_to(first), went_to(second)) == ("mock2/b build", "mock/a build")


def test_ones_own_open_directory_is_closed_again(bun: Bun) -> None:
    bun.register(**{"mock/a": rests(B)})
    bun.state.chmod(0o777)
    (output,) = bun.play(message(A))
    assert went_to(output) == "mock2/b build"
    assert bun.state.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("home", [None, "", ".", "some/where"])
def test_without_a_home_it_stands_aside(bun: Bun, tmp_path: Path, home: str | None, monkeypatch: Any) -> None:
    bun.register(**{"mock/a": rests(B)})
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    output, toasts, logged = bun.play(
        message(A),
        {"act": "toasts"},
        {"act": "logged"},
        # A plugin that guessed a HOME must not guess that of the user who runs the tests.
        env={"HOME": home or "", "XDG_STATE_HOME": str(bun.state.parent)},
        unset=("HOME",) if home is None else (),
    )
    assert went_to(output) == "mock/a build"
    assert "HOME is " in toasts[0]["message"]
    assert "HOME is " in logged[0]
    assert list(here.iterdir()) == []


def test_under_sudo_every_file_stays_the_users_and_the_door_stays_roots(newest: Bun) -> None:
    """The endpoint is OpenCode's whole API.

    That of a process that runs as root is not for the user's other processes.
    """
    newest.register(**{"mock/a": rests(B)})
    (newest.state / "facts").write_text("in the way of a directory, so that an error is noted")
    give_to(newest.home)
    *_, output, seen = newest.play({"act": "start"}, *refused(), message(A), newest.about(), without=("floor.js",))
    assert went_to(output) == "mock2/b build"
    user = NOBODY if THERE_ARE_STRANGERS else os.geteuid()
    owners = owners_below(newest.state)
    assert set(owners.values()) == {user}
    assert {"doors", "origins", "origins/ses_1.json", "allowances", "plugin-errors.log"} <= set(owners)
    if THERE_ARE_STRANGERS:
        assert seen["owners"] == {"PID.sock": 0, "PID.json": NOBODY}


def fifo(path: Path) -> None:
    os.mkfifo(path)


def file(path: Path) -> None:
    path.write_text("a plain file")


def loop(path: Path) -> None:
    path.symlink_to(path.name)


def link(path: Path) -> None:
    path.symlink_to("/dev/zero")


THINGS: dict[str, Callable[[Path], None]] = {
    "a plain file": file, "a pipe": fifo, "a link to itself": loop, "a device": link, "a directory": Path.mkdir,
}  # fmt: skip
PLACES = (
    "origins", "facts", "allowances", "doors", "moved.json", "budget.json", "plugin-errors.log", "origins/ses_1.json",
    "facts/1.jsonl",
)  # fmt: skip


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("thing", THINGS)
def test_whatever_lies_in_a_place_of_ours_prevention_goes_on(newest: Bun, place: str, thing: str) -> None:
    """`origins` as a plain file ended the plugin; a pipe in place of a log of errors would stop OpenCode itself."""
    newest.register(**{"mock/a": rests(B)})
    where = newest.state / place
    where.parent.mkdir(exist_ok=True)
    THINGS[thing](where)
    *_, output = newest.play({"act": "start"}, *refused(), message(A))
    assert went_to(output) == "mock2/b build"


def test_and_so_it_does_with_pipes_in_all_of_them(newest: Bun) -> None:
    newest.register(**{"mock/a": rests(B)})
    for place in PLACES[:7]:
        fifo(newest.state / place)
    *_, output = newest.play({"act": "start"}, *refused(), message(A))
    assert went_to(output) == "mock2/b build"


@pytest.mark.parametrize("thing", THINGS)
def test_a_stand_in_that_is_passed_over_is_passed_over_where_that_cannot_be_noted(newest: Bun, thing: str) -> None:
    """The plugin writes skipped models into `facts`. If it cannot, the prompt must not go to its limited model."""
    row = {"model": C, "agent": None}
    takes = {B: {"context": 10, "output": 5, "inputs": [], "tools": True}}
    document = {"models": {A: rests(B)}, "fallbacks": {A: [{"model": B, "agent": None}, row]}, "capabilities": takes}
    newest.register(json.dumps(document))
    THINGS[thing](newest.state / "facts")
    step = message(A)
    step["output"]["parts"] = [{"type": "text", "text": "long " * 1000}]
    (output,) = newest.play(step)
    assert went_to(output) == "mock3/c build"


def test_a_planted_file_of_another_user_moves_no_prompt(newest: Bun) -> None:
    """From a time when the directory was open to all users: a blacklist, and a session's origin."""
    newest.register(**{"mock/a": rests(B)})
    (newest.state / "moved.json").write_text(moved(ses_1=(C, A)))
    for name in ("blacklist.json", "moved.json"):
        give_to(newest.state / name)
    if THERE_ARE_STRANGERS:
        ours, theirs = newest.play(message(A), prompt(A, named=False))
        assert (went_to(ours), went_to(theirs)) == ("mock/a build", "mock/a build")


def test_after_an_uninstallation_the_plugin_does_nothing_and_says_so_once(bun: Bun) -> None:
    bun.register(mock__a=rests(B))
    program = bun.home / "venv/ocwatchd.js"
    (bun.state / "program").write_text(f"{program}\n")
    first, toasts, logged = bun.play(message(A), {"act": "toasts"}, {"act": "logged"})
    assert went_to(first) == f"{A} build"
    assert len(toasts) == 1
    assert "uninstalled" in toasts[0]["message"]
    assert len(logged) == 1
    hooks, toasts, logged = bun.play({"act": "start"}, {"act": "toasts"}, {"act": "logged"})
    assert (hooks, toasts, logged, bun.errors()) == ([], [], [], "")
    assert not bun.endpoints.exists()

    program.parent.mkdir()
    program.write_text("// installed again")
    (again,) = bun.play(message(A))
    assert went_to(again).startswith(B)
