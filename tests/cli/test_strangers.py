"""Tests of another user's state directory, and of no HOME: a message, an exit code, and no file read or written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.cli.conftest import ROOT, Cli, resting
from tests.integration.test_smart_launch import Place
from tests.support.stranger import NOBODY, THERE_ARE_STRANGERS, give_to

COMMANDS = (
    ("pick", "p/a"), ("pick", "p/a", "--session", "ses_1"), ("status",), ("status", "--json"), ("cooldowns",),
    ("statusline",), ("block", "p/a"), ("clear", "p/a"), ("history",), ("explain",), ("report", "--out", "-"),
    ("forecast",), ("redirect",), ("restart",), ("up", "--foreground"), ("up", "--dry-run"), ("down",),
    ("down", "--purge"), ("service", "status"), ("watch",),
)  # fmt: skip
NEED_A_HOME = (
    *COMMANDS, ("doctor",), ("config", "show"), ("config", "check"), ("config", "init", "--write"), ("drill",),
    ("drill", "--fetch", "1.0.0"),
    ("plugin", "install"), ("plugin", "status"), ("plugin", "uninstall"), ("service", "install"), ("classify", "-"),
)  # fmt: skip
SOMEBODY = NOBODY if THERE_ARE_STRANGERS else os.geteuid()


def foreign(cli: Cli, how: str) -> Path:
    """Make our state directory another user's, directly or behind a link; its content would move a prompt."""
    cli.configure(fallbackChain={"p/a": "q/b"})
    cli.register(**{"p/a": resting(target={"model": "evil/model"})})
    cli.heartbeat()
    state = cli.paths.state_dir
    if how == "directory":
        give_to(state)
        return state
    real = cli.paths.home / "real"
    state.rename(real)
    state.symlink_to(real)
    give_to(state if how == "another's link" else real)
    return real


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.is_file()}


@pytest.mark.parametrize("how", ["directory", "link to it", "another's link"])
@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_another_users_state_directory_is_refused(cli: Cli, command: tuple[str, ...], how: str) -> None:
    if not THERE_ARE_STRANGERS:  # then no file can be another user's; other tests check that ours are accepted
        how = "own"
        cli.paths.state_dir.parent.mkdir(parents=True)
        cli.paths.state_dir.write_text("a file in its place")
        before: dict[str, bytes] = {}
    else:
        before = contents(place := foreign(cli, how))
    done = cli(*command)
    assert done.returncode == 1
    assert done.stdout == ""
    assert "XDG_STATE_HOME" in done.stderr
    if THERE_ARE_STRANGERS:
        assert (
            "is a link that belongs to user" if how == "another's link" else f"(uid {NOBODY}), not to you"
        ) in done.stderr
        assert contents(place) == before
        assert "evil" not in done.stderr


def test_the_daemon_does_not_serve_from_it(cli: Cli) -> None:
    place = foreign(cli, "directory")
    before = contents(place)
    if not THERE_ARE_STRANGERS:
        return
    done = subprocess.run(
        [sys.executable, "-m", "ocwatchd"], env=cli.env, cwd=cli.paths.home, capture_output=True, timeout=30
    )
    assert done.returncode == 1
    assert f"(uid {NOBODY}), not to you".encode() in done.stderr
    assert b"Traceback" not in done.stderr
    assert contents(place) == before


REFUSED = """
import ocwatchd.ownership as ownership, os, pwd, shlex, sys
os.setgid(65534)
os.setuid(65534)
try:
    ownership.check_directory(sys.argv[1])
except ownership.StateError as fault:
    print(fault)
"""


@pytest.mark.parametrize("inner", [True, False])
def test_what_root_made_in_a_home_is_to_be_given_back_and_nothing_else(tmp_path: Path, inner: bool) -> None:
    """For a user who is not root: a state directory made by `sudo`, or a parent of it that lets no other user in."""
    if not THERE_ARE_STRANGERS:
        return
    with TemporaryDirectory() as scratch:
        home = Path(scratch) / "a home"
        state = home / ".local/state/ocwatchd"
        state.mkdir(parents=True)
        Path(scratch).chmod(0o755)
        made = state if inner else home / ".local"
        made.chmod(0o700)
        os.chown(home, NOBODY, NOBODY)

        def said(home: Path) -> str:
            env = {"HOME": str(home), "PYTHONPATH": str(ROOT)}
            command = [sys.executable, "-c", REFUSED, str(state)]
            return subprocess.run(command, env=env, capture_output=True, text=True, timeout=30, check=True).stdout

        told = said(home)
        assert f"{made} belongs to user root (uid 0), not to you" in told
        assert f"sudo chown -R nobody '{made}'" in told
        told = said(Path("/root"))  # as after `su` without a dash: no message may suggest to take over root's files
        assert "belongs to user root (uid 0), not to you" in told
        assert "chown" not in told


@pytest.mark.parametrize("linked", [False, True])
def test_ones_own_open_directory_is_closed_again(cli: Cli, linked: bool) -> None:
    cli.register(**{"p/a": resting()})
    state = cli.paths.state_dir
    if linked:
        state.rename(cli.paths.home / "real")
        state.symlink_to(cli.paths.home / "real")
    for command in (("status",), ("pick", "p/a"), ("block", "p/b"), ("history",)):
        state.chmod(0o777)
        cli(*command)
        assert state.stat().st_mode & 0o777 == 0o700, command


def test_a_planted_file_in_a_directory_that_was_open_is_not_believed(cli: Cli) -> None:
    """The directory was 0777 for a while: another user's files in it stay, and are neither obeyed nor written."""
    cli.configure(fallbackChain={"p/a": "q/b"})
    cli.register(**{"p/a": resting()})
    (cli.paths.state_dir / "journal.jsonl").write_text("{}\n")
    (cli.paths.state_dir / "journal.jsonl").chmod(0o666)
    for name in ("blacklist.json", "journal.jsonl"):
        give_to(cli.paths.state_dir / name)
    if not THERE_ARE_STRANGERS:
        return
    assert cli("pick", "p/a").stdout == "p/a\n"
    cooldowns = cli("cooldowns")
    assert f"belongs to user nobody (uid {NOBODY})" in cooldowns.stderr
    assert cli("block", "p/c").returncode == 0, "the planted one is moved aside"
    assert set(cli.registered()) == {"p/c"}
    assert cli.paths.journal.read_text() == "{}\n"


def test_the_launcher_starts_opencode_as_without_us(tmp_path: Path) -> None:
    place = Place(tmp_path / "home")
    place.block(4e9, "a/main")
    give_to(place.root / ".local/state/ocwatchd")
    code, out, err = place.run("run", "hi")
    if THERE_ARE_STRANGERS:
        assert (code, out) == (7, "run|hi|typed")
        assert f"(uid {NOBODY}), not to you" in err
        assert "Starting OpenCode without fallbacks" in err


def without(env: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in env.items() if name != "HOME"}


HOMES: dict[str, Callable[[dict[str, str]], dict[str, str]]] = {
    "none at all": without,
    # For commands that write: one that guessed a HOME must not guess that of the user who runs the tests.
    "unset": lambda env: without(env) | {f"XDG_{it}_HOME": f"{env['HOME']}/{it}" for it in XDG},
    "empty": lambda env: {**env, "HOME": ""},
    "a dot": lambda env: {**env, "HOME": "."},
    "relative": lambda env: {**env, "HOME": "some/where"},
    "a tilde": lambda env: {**env, "HOME": "~"},
}
XDG = ("STATE", "CONFIG", "DATA", "CACHE")
READING = (("pick", "p/a"), ("status",), ("config", "show"), ("plugin", "status"))
FEW = (("ocwatchd",), ("oc-smart", "run", "hi"), ("pick", "p/a"), ("doctor",), ("plugin", "install"))
CASES = [
    *(("unset", command) for command in (*FEW, *NEED_A_HOME)),
    *((home, command) for home in HOMES for command in (READING if home == "none at all" else FEW)),
]


@pytest.mark.parametrize(("home", "command"), dict.fromkeys(CASES), ids=lambda it: it if it in HOMES else " ".join(it))
def test_without_a_home_nothing_is_guessed(tmp_path: Path, home: str, command: tuple[str, ...]) -> None:
    place = Place(tmp_path / "home")
    module = {"ocwatchd": "ocwatchd", "oc-smart": "ocwatchd.cli.commands.run"}.get(command[0], "ocwatchd.cli")
    words = command[1:] if module != "ocwatchd.cli" else command
    here = tmp_path / "here"
    here.mkdir()
    done = subprocess.run(
        [sys.executable, "-m", module, *words], env=HOMES[home](place.env), cwd=here, input=b"", capture_output=True,
        timeout=60,
    )  # fmt: skip
    said = done.stderr.decode()
    assert done.returncode == 4, said
    assert "HOME is " in said
    assert "Set it to your home directory" in said
    assert "Traceback" not in said
    assert done.stdout == b""
    assert list(here.iterdir()) == []
    assert place.started == 0


@pytest.mark.parametrize("home", HOMES)
def test_a_tab_never_complains(tmp_path: Path, home: str) -> None:
    place = Place(tmp_path / "home")
    for kind in ("models", "sessions", "ids"):
        done = subprocess.run(
            [sys.executable, "-m", "ocwatchd.cli", "__complete", kind], env=HOMES[home](place.env), cwd=tmp_path,
            capture_output=True, timeout=60,
        )  # fmt: skip
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_doctor_names_what_is_not_ours_and_the_command_that_repairs_it(cli: Cli) -> None:
    foreign(cli, "directory")
    done = cli("doctor", "--json")
    found = [check for check in json.loads(done.stdout)["checks"] if check["code"] == "file-mode"]
    if THERE_ARE_STRANGERS:
        assert done.returncode == 1
        assert [(check["severity"], check["seen"]) for check in found] == [
            ("error", f"{cli.paths.state_dir} belongs to user nobody (uid {NOBODY}), not to you")
        ]
        assert "set XDG_STATE_HOME" in found[0]["remedy"]
    assert "evil" not in done.stdout
