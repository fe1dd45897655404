"""Tests of restarting a TUI without a port and without the plugin in tmux: its session continues on another model."""

from __future__ import annotations

import json
import os
import re
import signal

import pytest

from ocwatchd.opencode.discovery.unreachable import run_began
from ocwatchd.opencode.sessions.message_store import SessionStore
from tests.support.daemon import CHAIN, ocwatch
from tests.support.opencode import MIDDLE, NEWEST, Home
from tests.support.processes import opencodes, wait_opencode, wait_until
from tests.support.provider import Provider, limited, ok, slow
from tests.support.smart import Smart
from tests.support.tui import Tui

pytestmark = pytest.mark.e2e

PRIMARY, FALLBACK, THIRD = "mock/primary", "mock2/fallback", "mock3/third"
PROMPT = "Name the first colour"


@pytest.fixture
def limited_home(home: Home, provider: Provider) -> Home:
    """A home whose primary is limited for an hour, by the blacklist."""
    provider.script(PRIMARY, limited(3600))
    settings = {"fallbackChain": CHAIN, "pools": {"pair": {"members": [PRIMARY, FALLBACK]}}}
    (home.config_dir / "rate-limit-config.json").write_text(json.dumps({"rateLimit": settings}))
    assert ocwatch(home, "block", PRIMARY, "--for", "1h").returncode == 0
    return home


def users(home: Home) -> list[str]:
    """Return the user messages of the only session."""
    store = SessionStore(home.data_dir)
    (session,) = store.recent(0)
    return [message.id for message in store.messages(session.id, 20) if message.user]


def test_of_two_in_one_directory_the_log_tells_which_it_is(limited_home: Home, provider: Provider) -> None:
    provider.script(FALLBACK, slow("answered by the right one", 1.0))
    with Tui(NEWEST, limited_home) as first, Tui(NEWEST, limited_home) as second:
        first.say(PROMPT)
        provider.wait_requests(PRIMARY)
        (session,) = wait_until(lambda: SessionStore(limited_home.data_dir).recent(0), why="the session")
        log = limited_home.data_dir / "log"
        wait_until(lambda: run_began(log, session.id), why="the log, which is written up to a second late")
        old, bystander = first.pid, second.pid
        done = ocwatch(limited_home, "restart", "--json")
        assert done.returncode == 0, done
        assert json.loads(done.stdout)["pid"] == old
        first.pid = wait_opencode(limited_home, besides=bystander).pid
        first.wait_screen("answered by the right one")
        assert second.alive


@pytest.mark.parametrize(("version", "shell"), [(NEWEST, False), (MIDDLE, True)], ids=["pane", "shell"])
def test_it_goes_on_in_the_same_terminal(version: str, shell: bool, limited_home: Home, provider: Provider) -> None:
    home = limited_home
    provider.script(FALLBACK, slow("first answered elsewhere", 1.0), ok("second answered elsewhere"))
    with Tui(version, home, shell=shell, arguments=("--log-level", "DEBUG")) as tui:
        old = tui.pid
        tui.say(PROMPT)
        provider.wait_requests(PRIMARY)
        (before,) = users(home)
        foretold = ocwatch(home, "restart", "--dry-run")
        assert (foretold.returncode, f"process {old}" in foretold.stdout) == (0, True), foretold
        assert tui.alive

        done = ocwatch(home, "restart", "--json", *(["--to", "pair"] if shell else []))
        assert done.returncode == 0, done
        told = json.loads(done.stdout)
        assert (told["result"], told["target"]["model"], told["pid"]) == ("moved", FALLBACK, old)
        assert "--log-level DEBUG" in told["relaunch"]
        running = wait_opencode(home)
        tui.pid = running.pid
        print(f"{version}: {told['elapsed_seconds']:.1f} s, {done.stderr}")
        assert old != running.pid
        tui.wait_screen("first answered elsewhere")
        assert PROMPT in tui.screen()
        assert users(home) == [before]
        (asked,) = provider.requests(FALLBACK)
        assert asked.count(PROMPT) == 1

        tui.say("And the second")
        tui.wait_screen("second answered elsewhere")
        assert "QUEUED" not in tui.screen()
        assert len(provider.requests(PRIMARY)) == 1
        state = home.root / ".local" / "state" / "ocwatchd"
        entries = [json.loads(line) for line in (state / "journal.jsonl").read_text().splitlines()]
        assert [entry["what"] for entry in entries if "claim" in entry] == ["claim", "moved"]
        assert list(state.glob("restart-*")) == []


@pytest.mark.parametrize(("version", "hangs"), [(NEWEST, False), (MIDDLE, True)])
def test_under_oc_smart_it_goes_on_in_any_terminal(version: str, hangs: bool, home: Home, provider: Provider) -> None:
    provider.script(PRIMARY, limited(3600))
    provider.script(FALLBACK, slow("first answered elsewhere", 1.0), ok("second answered elsewhere"))
    smart = Smart(home, version)
    with Tui(version, home, smart.cwd, program=smart.as_program(), arguments=("--log-level", "DEBUG")) as tui:
        tui.resize(92, 28)
        wait_until(
            lambda: any(line.endswith(version) and len(line) in range(86, 93) for line in tui.screen().splitlines()),
            60,
            why="the new size",
        )
        tui.say(PROMPT)
        provider.wait_requests(PRIMARY)
        assert ocwatch(home, "block", PRIMARY, "--for", "1h").returncode == 0
        old = wait_opencode(home, parent=tui.pid)
        if hangs:
            old.suspend()
        done = ocwatch(home, "restart", "--json")
        assert done.returncode == 0, done
        told = json.loads(done.stdout)
        assert (told["result"], told["pane"], told["launcher"]) == ("moved", None, tui.pid)
        print(f"{version}: {told['elapsed_seconds']:.1f} s, {done.stderr}")
        new = wait_opencode(home, parent=tui.pid)
        assert new.pid != old.pid
        assert new.cmdline()[1:3] == ["--log-level", "DEBUG"]
        tui.wait_screen("first answered elsewhere")
        tui.say("And the second")
        tui.wait_screen("second answered elsewhere")
        (asked,) = provider.requests(FALLBACK)[:1]
        assert (asked.count(PROMPT), len(provider.requests(PRIMARY))) == (1, 1)
        os.kill(tui.pid, signal.SIGKILL)
        wait_until(lambda: not smart.left_behind(), 60, why="the end of everything")


def test_a_hung_one_outside_tmux_is_ended_only_when_asked(limited_home: Home, provider: Provider) -> None:
    home = limited_home
    provider.script(FALLBACK, limited(1800))
    provider.script(THIRD, slow("answered without a terminal", 2.0))
    with Tui(MIDDLE, home, shell=True) as tui:  # tmux itself would continue a stopped process that it started
        tui.say(PROMPT)
        provider.wait_requests(PRIMARY)
        os.kill(tui.pid, signal.SIGSTOP)
        with tui.unreachable():
            refused = ocwatch(home, "restart")
            assert (refused.returncode, "--yes" in refused.stderr, "opencode -s ses_" in refused.stderr) == (
                1,
                True,
                True,
            )
            assert tui.alive
            done = ocwatch(home, "restart", "--yes")
        assert done.returncode == 0, done
        assert "To reopen the session, type:\n    cd " in done.stdout
        assert opencodes(home) == []
    assert len(users(home)) == 1
    (asked,) = provider.requests(THIRD)
    assert (asked.count(PROMPT), asked.client_left) == (1, False)
    assert len(provider.requests(FALLBACK)) == 1


def test_up_and_doctor_list_an_opencode_that_is_older_than_the_plugin(limited_home: Home, provider: Provider) -> None:
    with Tui(NEWEST, limited_home) as tui:
        tui.say(PROMPT)
        provider.wait_requests(PRIMARY)
        store = SessionStore(limited_home.data_dir)
        (session,) = wait_until(lambda: store.recent(0), why="the session")
        steps = json.loads(ocwatch(limited_home, "up", "--dry-run", "--json").stdout)["steps"]
        assert [step["pid"] for step in steps if step["what"] == "opencode"] == [tui.pid]
        said = " ".join(ocwatch(limited_home, "up", "--dry-run").stdout.split())
        listed = re.search(
            rf"OpenCode {tui.pid} \((pts/\d+), (\S+), session \S.*?\) was started .*? then type: (.*?-s {session.id})",
            said,
        )
        assert listed, said
        checks = json.loads(ocwatch(limited_home, "doctor", "--json").stdout)["checks"]
        remedies = [check for check in checks if listed[3] in (check["remedy"] or "")]
        assert remedies, checks
        assert str(tui.pid) in remedies[0]["seen"]
        assert tui.alive
