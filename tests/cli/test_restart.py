"""`ocwatch restart` where there is nothing to restart; with a real OpenCode see tests/e2e."""

from __future__ import annotations

import time
from dataclasses import replace

from ocwatchd.cli.moving import Job, Wish, choose_target
from ocwatchd.config import Config
from ocwatchd.core.ledger import Ledger
from ocwatchd.core.limits import ModelRef, Target
from ocwatchd.core.policy import Policy
from ocwatchd.core.views import Door, SessionState, SessionView, TcpAddress
from tests.cli.conftest import Cli, resting
from tests.edges.test_restart import stored


def test_it_says_why_nothing_is_restarted(cli: Cli) -> None:
    done = cli("restart")
    assert (done.returncode, done.stdout) == (1, "")
    assert "no session is limited" in done.stderr
    assert cli("restart", "ses_unknown").returncode == 2

    stored(cli.paths.opencode_data, "ses_1", time.time() - 5)
    cli.register(**{"p/m": resting()})
    done = cli("restart", "ses_1", "--dry-run", "--json")
    assert (done.returncode, done.stdout, "no running OpenCode in /a" in done.stderr) == (5, "", True), done
    assert not cli.paths.journal.exists()


def test_a_subagents_parent_is_carried_by_its_own_agent() -> None:
    view = SessionView("ses_p", "/a", Door(TcpAddress("127.0.0.1", 1)), SessionState.BUSY, agent="build")
    child = replace(view, session="ses_c", agent="general", model=ModelRef("p", "m"), parent="ses_p")
    policy = Policy(chains={"p/m": ("q/n",)})
    target = choose_target(Wish(), Job(child, view), Config(policy), Ledger(()), ())
    assert target == Target(ModelRef("q", "n"), "build")
