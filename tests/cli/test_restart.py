"""Tests of `ocwatch restart` with nothing to restart; with a real OpenCode see tests/e2e."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import pytest

from ocwatchd.cli.app import run_app
from ocwatchd.cli.commands import restart as command
from ocwatchd.cli.commands.redirect import Job, MoveOptions, choose_target
from ocwatchd.cli.commands.restart import RestartOptions, _check_harmless, _confirmed, planned
from ocwatchd.config import Config
from ocwatchd.core.domain.cooldowns import Cooldowns
from ocwatchd.core.domain.snapshot import Endpoint, SessionSnapshot, SessionState, TcpAddress
from ocwatchd.core.domain.types import ModelRef, Target
from ocwatchd.core.policy import Policy
from ocwatchd.errors import OcwatchError
from ocwatchd.movers.restart import StrandedSession
from ocwatchd.opencode.discovery.unreachable import Unreached
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


def test_yes_and_force_allow_different_things(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[tuple[bool, bool]] = []

    def note(options: MoveOptions, restart_options: RestartOptions) -> int:
        given.append((options.force, restart_options.yes))
        return 0

    monkeypatch.setattr(command, "restart", note)
    for arguments in ([], ["--yes"], ["--force"], ["--yes", "--force"]):
        assert run_app(["restart", *arguments]) == 0
    assert given == [(False, False), (False, True), (True, False), (True, True)]


@pytest.mark.parametrize(
    ("options", "restart_options", "again"),
    [
        (MoveOptions(), RestartOptions(), "ocwatch restart ses_1 --yes"),
        (
            MoveOptions("fix", "q/n", "the plan", force=True),
            RestartOptions(pid=50),
            "ocwatch restart ses_1 --to q/n --agent 'the plan' --pid 50 --force --yes",
        ),
    ],
)
@pytest.mark.parametrize("pane", [Pane("/t/s", "%2", None), None])
def test_a_refused_restart_names_the_command_with_all_options(
    options: MoveOptions, restart_options: RestartOptions, again: str, pane: Pane | None
) -> None:
    view = SessionSnapshot("ses_1", "/a", Endpoint(TcpAddress("127.0.0.1", 1)), SessionState.BUSY)

    class Served:
        def others(self, *_: object) -> Sequence[SessionSnapshot]:
            return [replace(view, session="ses_2")]

    refused = "so you would have to start it again yourself" if pane is None else "other sessions may be busy"
    with pytest.raises(OcwatchError, match=refused) as fault:
        _check_harmless(
            cast(Unreached, Served()),
            StrandedSession(view, running(), pane),
            _confirmed(options, restart_options, view),
        )
    assert again in str(fault.value).splitlines()[1 if pane is None else -1]
