"""Tests of machines with real OpenCodes that share an account: one meets a limit, the others avoid it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.daemon import Daemon, ocwatch
from tests.support.homes import Home
from tests.support.opencode import NEWEST, Serve
from tests.support.processes import start, stop, wait_until
from tests.support.provider import Ok, Provider, after_tool, bash, limited
from tests.support.reaper import sweep
from tests.support.valkey_server import Server

pytestmark = pytest.mark.e2e

PRIMARY, FALLBACK = "mock/primary", "mock2/fallback"


class Machine:
    """A home with OpenCode, daemon and helper, and a provider that records only this machine's requests."""

    def __init__(self, home: Home, provider: Provider, daemon: Daemon, serve: Serve) -> None:
        self.home, self.provider, self.daemon, self.serve = home, provider, daemon, serve

    def prompt(self, text: str, session: str | None = None) -> str:
        """Send a prompt to the primary; return its session."""
        session = session or self.serve.create_session()
        self.serve.prompt_async(session, text, model=PRIMARY)
        return session

    def asked(self) -> int:
        """Return how often this machine has asked the primary."""
        return len(self.provider.requests(PRIMARY))

    def shared_entry(self) -> dict[str, Any] | None:
        """Return the primary's entry, if another machine has reported it."""
        entry = self.daemon.cooldown(PRIMARY)
        return entry if entry is not None and entry["reset_source"] == "shared" else None

    def records(self) -> list[str]:
        """Return the records that the helper knows."""
        path = self.daemon.state / "share" / "known.json"
        return list(json.loads(path.read_text())["records"]) if path.exists() else []


@contextmanager
def machine(root: Path, server: Server, node: str, account: str) -> Iterator[Machine]:
    with ExitStack() as stack:
        provider = stack.enter_context(Provider())
        home = Home(root / node, provider.url)
        stack.callback(lambda: print(*sweep(home.root), sep="\n"))
        assert ocwatch(home, "plugin", "install").returncode == 0
        share = {"url": f"unix://{server.socket}", "node": node, "accounts": {"mock": account}}
        daemon = stack.enter_context(Daemon(home, {PRIMARY: FALLBACK}, share=share))
        helper = start((sys.executable, "-m", "ocwatchd.cli", "share"), home, home.root, home.root / "share.err")
        stack.callback(lambda: print((home.root / "share.err").read_text()))
        stack.callback(lambda: stop(helper, 8))
        serve = stack.enter_context(Serve(NEWEST, home))
        status = daemon.state / "share" / "status.json"
        wait_until(
            lambda: status.exists() and json.loads(status.read_text())["state"] == "connected", 60, why="a server"
        )
        yield Machine(home, provider, daemon, serve)


def test_a_limit_on_one_machine_keeps_new_prompts_of_the_others_away_from_that_account(tmp_path: Path) -> None:
    with (
        Server(tmp_path / "server") as server,
        machine(tmp_path, server, "a", "team-max-1") as a,
        machine(tmp_path, server, "b", "team-max-1") as b,
        machine(tmp_path, server, "c", "plus-2") as c,
    ):
        # A turn that runs on this model all the time: a tool that ends when the test lets it, and then another request.
        go = tmp_path / "go"
        wait = bash(f"until [ -e {go} ]; do sleep 0.1; done")
        b.provider.script(PRIMARY, after_tool(wait, Ok("the long turn's answer")))
        running = b.prompt("Runs while another machine meets the limit")
        b.provider.wait_for(lambda seen: any(request.model == PRIMARY for request in seen))
        a.provider.script(PRIMARY, limited(3600))
        moved = a.prompt("Meets the limit")
        a.serve.wait_answer(moved, "answer of mock2/fallback")
        entry = wait_until(b.shared_entry, 60, why="the report of the other machine")
        assert (entry["node"], entry["strikes"], entry["target"]["model"]) == ("a", 0, FALLBACK)
        # The next prompt uses the fallback, and the account gets no request.
        before = b.asked()
        b.serve.wait_answer(b.prompt("The next prompt"), "answer of mock2/fallback")
        assert b.asked() == before == 1
        assert b.daemon.ocwatch("pick", PRIMARY).stdout.strip() == FALLBACK
        # Another account is not affected, although the report has arrived.
        wait_until(lambda: c.records(), 60, why="the news on the third machine")
        c.serve.wait_answer(c.prompt("Another account"), "answer of mock/primary")
        assert c.asked() == 1
        assert c.daemon.cooldown(PRIMARY) is None
        # The running turn continues to its end on its model, and is never moved.
        assert b.shared_entry() is not None
        go.touch()
        b.serve.wait_answer(running, "the long turn's answer")
        assert b.asked() == 2
        assert b.daemon.journal("claim") == []
        # The model has answered: the reported limit is over here, and the other machine keeps the limit that it met.
        wait_until(lambda: b.daemon.cooldown(PRIMARY) is None, 60, why="the end of the report after an answer")
        b.provider.script(PRIMARY, Ok("answer of mock/primary"))
        b.serve.wait_answer(b.prompt("After it has answered"), "answer of mock/primary")
        assert a.daemon.cooldown(PRIMARY) is not None


def test_a_users_clear_on_one_machine_counts_on_all(tmp_path: Path) -> None:
    with (
        Server(tmp_path / "server") as server,
        machine(tmp_path, server, "a", "team-max-1") as a,
        machine(tmp_path, server, "b", "team-max-1") as b,
    ):
        a.provider.script(PRIMARY, limited(3600), Ok("answer of mock/primary"))
        a.serve.wait_answer(a.prompt("Meets the limit"), "answer of mock2/fallback")
        wait_until(b.shared_entry, 60, why="the report of the other machine")
        assert b.daemon.ocwatch("clear", PRIMARY).returncode == 0
        wait_until(lambda: a.daemon.cooldown(PRIMARY) is None, 60, why="the clear on the other machine")
        for one in (a, b):
            one.serve.wait_answer(one.prompt("After the clear"), "answer of mock/primary")
