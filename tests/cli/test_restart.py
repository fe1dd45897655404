"""Tests of `ocwatch restart` with nothing to restart; with a real OpenCode see tests/e2e."""

from __future__ import annotations

import time
from dataclasses import replace

from ocwatchd.cli.commands.redirect import Job, MoveOptions, choose_target
from ocwatchd.cli.commands.restart import planned
from ocwatchd.config import Config
from ocwatchd.core.domain.cooldowns import Cooldowns
from ocwatchd.core.domain.snapshot import Endpoint, SessionSnapshot, SessionState, TcpAddress
from ocwatchd.core.domain.types import ModelRef, Target
from ocwatchd.core.policy import Policy
from ocwatchd.movers.restart import StrandedSession
from ocwatchd.opencode.process.tmux import Pane
from tests.cli.conftest import Cli, resting
from tests.integration.test_restart import running, stored


def test_it_says_why_nothing_is_restarted(cli: Cli) -> None:
    done = cli("restart")
    assert (done.returncode, done.stdout) == (1, "")
    assert "no session is limited" in done.stderr
    assert cli("restart", "ses_unknown").returncode == 2

    stored(cli.paths.opencode_data, "ses_1", time.time() - 5)
    cli.register(**{"p/m": resting()})
    done = cli("restart", "ses_1", "--dry-run", "--json")
    assert (done.returncode, done.stdout) == (5, ""), done
    assert "no running OpenCode process can be working on ses_1 in /a" in " ".join(done.stderr.split())
    assert not cli.paths.journal.exists()


def test_a_subagents_parent_is_carried_by_its_own_agent() -> None:
    view = SessionSnapshot("ses_p", "/a", Endpoint(TcpAddress("127.0.0.1", 1)), SessionState.BUSY, agent="build")
    child = replace(view, session="ses_c", agent="general", model=ModelRef("p", "m"), parent="ses_p")
    policy = Policy(chains={"p/m": ("q/n",)})
    target = choose_target(MoveOptions(), Job(child, view), Config(policy), Cooldowns(()), ())
    assert target == Target(ModelRef("q", "n"), "build")


def test_the_plan_of_a_restart_has_its_command_on_a_line_of_its_own() -> None:
    view = SessionSnapshot("ses_1", "/a b", Endpoint(TcpAddress("127.0.0.1", 1)), SessionState.BUSY)
    command = "    cd '/a b' && opencode -s ses_1"
    for terminal, where in (
        (Pane("/t/s", "%2", None), "start it again in tmux pane %2"),
        (None, "ask you to start it"),
    ):
        said, typed = planned(StrandedSession(view, running(), terminal)).split("\n")
        assert said.startswith(f"Would stop OpenCode (process 50) and {where}")
        assert typed == command
