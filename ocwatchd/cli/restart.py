"""`ocwatch restart`: for a session that no door reaches. Its OpenCode is ended and goes on, on another model."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, replace
from pathlib import Path

from ocwatchd.cli.escape import escape
from ocwatchd.cli.moving import Job, Wish, choose_target, failed_by_limit, move_down_the_chain, tell, the_only
from ocwatchd.cli.render import say, warn
from ocwatchd.config import Config, load
from ocwatchd.core.ledger import Ledger
from ocwatchd.core.moves import MoveResult
from ocwatchd.core.views import SessionView
from ocwatchd.errors import ExitCode, OcwatchError, UsageError
from ocwatchd.opencode.doors import DoorFinder, ProcessTable
from ocwatchd.opencode.plugin_file import PluginState, shipped_path
from ocwatchd.opencode.plugin_file import look as look_at_plugin
from ocwatchd.opencode.terminals import Pane, find_pane
from ocwatchd.opencode.unreached import Unreached
from ocwatchd.paths import Paths
from ocwatchd.restart import Case, Restart
from ocwatchd.state import blacklist, prices
from ocwatchd.supervised import Supervised, find_supervised


@dataclass(frozen=True, slots=True)
class Means:
    """How far the person lets us go. `yes`: end it also where only they can start it again, or where more ends with it.

    `pid`: their word for which process it is.
    """

    yes: bool = False
    pid: int | None = None


def restart(wish: Wish, means: Means) -> int:
    """Restart the OpenCode of one limited session, and run its prompt on another model.

    Raises:
        UsageError: no such session or model, or it cannot be told which one is meant.
        OpenCodeUnreachable: no OpenCode runs there, or a new one does not work; nothing was touched.
        AllCooling: everything that could stand in rests.
        OcwatchError: no such session is limited.
    """
    paths = Paths.from_env()
    config, register = load(paths), blacklist.read(paths.blacklist)
    ledger = Ledger(register.entries())
    unreached = Unreached(paths.opencode_data, ProcessTable())
    purse = prices.purse(paths.prices, paths.budget, config.policy.budget, time.time())
    job = replace(_job(unreached, wish.session, ledger, config), loads=register.loads, purse=purse)
    process = unreached.process(job.moved, means.pid)
    terminal = find_supervised(process, paths.state_dir) or find_pane(process)
    case = Case(job.moved, process, terminal, job.child)
    if not isinstance(terminal, Supervised):  # there it costs no more than seconds, whoever prefers it
        _check_door(paths, config, job.moved, process.pid)
    target = choose_target(wish, job, config, ledger, ())
    if wish.dry_run:
        return _foretell(wish, case, tell(wish, job, target, None, **_about(case)))
    if not means.yes:
        _check_harmless(unreached, case)
    with Restart(paths, case, _plugin(paths), _progress) as mover:
        target, outcome = move_down_the_chain(paths, mover, job, wish, config, ledger)
        trouble = mover.finish() if outcome.result is MoveResult.MOVED else None
        if trouble is not None:
            outcome = replace(outcome, result=MoveResult.FAILED, why=trouble)
    return _report(wish, case, tell(wish, job, target, outcome, **_about(case)))


def _job(unreached: Unreached, session: str | None, ledger: Ledger, config: Config) -> Job:
    now = time.time()
    if session is not None:
        found = unreached.session(session, now)
        if found is None:
            raise UsageError(f"no such session: {session}")
    else:
        found = _the_one([view for view in unreached.unsettled(now) if _limited(view, ledger, config)])
    parent = unreached.session(found.parent, now) if found.parent else None
    waiting = parent is not None and parent.answer is not None and not parent.answer_completed
    return Job(found, parent if parent is not None and waiting else found)


def _the_one(limited: list[SessionView]) -> SessionView:
    # A parent waits for its limited subagent: that is one trouble, and the subagent names the model.
    parents = {view.parent for view in limited}
    alone = [view for view in limited if view.session not in parents]
    return the_only(alone, "no session is limited; if one hangs, name it")


def _limited(view: SessionView, ledger: Ledger, config: Config) -> bool:
    """An open answer is waited for by a retry if its model is cooling; of others nobody can tell without a door."""
    waiting = view.answer is not None and view.answer_ended is None and view.model is not None
    if waiting and view.model is not None:
        return ledger.cooling(view.model, time.time()) is not None
    return failed_by_limit(view, ledger, config)


# ---- what is not done without being asked


def _check_door(paths: Paths, config: Config, view: SessionView, pid: int) -> None:
    finder = DoorFinder(paths.opencode_data, urls=config.doors, sockets=paths.doors, environ=os.environ)
    if any(door.pid == pid for door in finder.find().open):
        raise OcwatchError(f"process {pid} can be reached: ocwatch redirect {view.session}")


def _check_harmless(unreached: Unreached, case: Case) -> None:
    view, again = case.view, f"ocwatch restart {case.view.session} --yes"
    if case.terminal is None:
        raise OcwatchError(
            f"OpenCode (process {case.process.pid}) runs neither under oc-smart nor in a tmux pane where it could be "
            f"started again, so it is not ended unasked; type:\n  {again}\n"
            f"and when that is done, in its terminal:\n  {case.by_hand()}"
        )
    related = [case.child] if case.child else []
    others = unreached.others(view, case.process, time.time(), related)
    if others:
        listed = "".join(f"\n  {other.session}  {other.model}" for other in others)
        raise OcwatchError(f"other sessions in process {case.process.pid} may be at work:{listed}\nto end it: {again}")


def _plugin(paths: Paths) -> Path | None:
    """The plugin's file, for the new process alone, unless OpenCode loads it anyway."""
    return None if look_at_plugin(paths).state is PluginState.CURRENT else shipped_path()


# ---- words


def _progress(text: str) -> None:
    warn(escape(text))


def _about(case: Case) -> dict[str, object]:
    terminal = case.terminal
    return {
        "pid": case.process.pid, "pane": terminal.ident if isinstance(terminal, Pane) else None,
        "launcher": terminal.launcher if isinstance(terminal, Supervised) else None, "relaunch": case.by_hand(),
    }  # fmt: skip


def _foretell(wish: Wish, case: Case, code: int) -> int:
    if not wish.as_json:
        where = f"start it again in {case.terminal}" if case.terminal else "have you start it again"
        say(escape(f"would end OpenCode, process {case.process.pid}, and {where}: {case.by_hand()}"))
    return code


def _report(wish: Wish, case: Case, code: int) -> int:
    """Where there is no terminal, the person has to know how to go on."""
    if case.terminal is None and not wish.as_json and code == ExitCode.DONE:
        say(escape(f"go on with: {case.by_hand()}"))
    return code
