"""`ocwatch restart`: stop an OpenCode process that cannot be reached, and reopen its session on another model."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, replace
from pathlib import Path
from shlex import join, quote

from ocwatchd.cli.commands.redirect import (
    Job,
    MoveOptions,
    choose_target,
    move_down_the_chain,
    report_move,
    stranded_sessions,
    the_only,
    unreached_of,
    unserved_instead,
)
from ocwatchd.cli.output.escape import escape
from ocwatchd.cli.output.render import COMMAND_INDENT, tell, warn
from ocwatchd.cli.sessions import known_sessions, named_session, no_such, whole_id
from ocwatchd.config import Config, load
from ocwatchd.core.domain.cooldowns import Cooldowns
from ocwatchd.core.domain.moves import MoveResult
from ocwatchd.core.domain.snapshot import SessionSnapshot
from ocwatchd.errors import ExitCode, OcwatchError
from ocwatchd.movers.restart import Restart, StrandedSession, Supervised, find_supervised
from ocwatchd.opencode.discovery.earlier import PURE_WHY
from ocwatchd.opencode.discovery.endpoints import EndpointFinder
from ocwatchd.opencode.discovery.unreachable import Unreached
from ocwatchd.opencode.plugin.install import PluginState, find_plugin, shipped_path
from ocwatchd.opencode.process.tmux import Pane, find_pane
from ocwatchd.paths import Paths
from ocwatchd.state import moved_sessions, prices
from ocwatchd.state.blacklist import store as blacklist


@dataclass(frozen=True, slots=True)
class RestartOptions:
    """The arguments of `restart` that select the process to stop.

    `yes` allows stopping a process that ocwatch cannot start again, or in which other sessions may be busy. `pid` is
    the process to stop, if the user named it.
    """

    yes: bool = False
    pid: int | None = None


def restart(options: MoveOptions, restart_options: RestartOptions) -> int:
    """Restart the OpenCode process of a limited session, and run its prompt on another model. Return the exit code.

    Raises:
        UsageError: The session or model does not exist, or there are several candidates.
        OpenCodeUnreachable: No process is running the session, or the new process does not start; nothing was changed.
        AllCooling: All fallbacks are cooling down.
        OcwatchError: No session is limited.
    """
    paths = Paths.from_env()
    config, known = load(paths), blacklist.read(paths.blacklist)
    cooldowns = Cooldowns(known.entries())
    unreached = unreached_of(paths)
    day_budget = prices.day_budget(paths.prices, paths.budget, config.policy.budget, time.time())
    try:
        job = _job(unreached, options.session, cooldowns, config)
        origin = moved_sessions.origin_of(paths.moved, job.moved.session, job.stuck.model)
        job = replace(job, loads=known.loads, day_budget=day_budget, origin=origin)
        process = unreached.process(job.moved, restart_options.pid)
    except OcwatchError as fault:  # the session may belong to OpenCode 2, which this command does not restart
        finder = _finder(paths, config)
        raise _elsewhere(unserved_instead(fault, finder), finder) from None
    terminal = find_supervised(process, paths.state_dir) or find_pane(process)
    stranded = StrandedSession(job.moved, process, terminal, job.child)
    # A restart under oc-smart takes only seconds, so it is allowed even if `ocwatch redirect` could move the session.
    if not isinstance(terminal, Supervised):
        _check_endpoint(paths, config, job.moved, process.pid)
    _check_comes_back(stranded)
    target = choose_target(options, job, config, cooldowns, ())
    if options.dry_run:
        return _say_plan(options, stranded, report_move(options, job, target, None, **_about(stranded)))
    if not restart_options.yes:
        _check_harmless(unreached, stranded, _confirmed(options, restart_options, job.moved))
    with Restart(paths, stranded, _plugin(paths), _progress) as mover:
        target, outcome = move_down_the_chain(paths, mover, job, options, config, cooldowns)
        trouble = mover.finish() if outcome.result is MoveResult.MOVED else None
        if trouble is not None:
            outcome = replace(outcome, result=MoveResult.FAILED, why=trouble)
    return _report(options, stranded, report_move(options, job, target, outcome, **_about(stranded)))


def _job(unreached: Unreached, session: str | None, cooldowns: Cooldowns, config: Config) -> Job:
    now = time.time()
    if session is not None:
        found = unreached.session(whole_id(session), now)
        if found is None:
            raise no_such(session)
    else:
        stranded = stranded_sessions(unreached, cooldowns, config)
        found = the_only(stranded, "no session is limited. To restart one anyway: ocwatch restart SESSION")
    parent = unreached.session(found.parent, now) if found.parent else None
    waiting = parent is not None and parent.answer is not None and not parent.answer_completed
    return Job(found, parent if parent is not None and waiting else found)


# ---- checks before the restart


def _check_endpoint(paths: Paths, config: Config, snapshot: SessionSnapshot, pid: int) -> None:
    finder = _finder(paths, config)
    if all(endpoint.pid != pid for endpoint in finder.find().open):
        finder.find_late()
    if any(endpoint.pid == pid for endpoint in finder.last().open):
        raise OcwatchError(
            f"process {pid} does not have to be restarted, because ocwatchd can move its sessions. "
            f"Use: ocwatch redirect {quote(snapshot.session)}"
        )


def _check_comes_back(stranded: StrandedSession) -> None:
    process = stranded.process
    if stranded.unreachable_again:
        raise OcwatchError(
            f"OpenCode (process {process.pid}) {PURE_WHY}, so it cannot be reached after a restart either. Nothing was "
            "changed. Quit it, start it without --pure, and send the prompt again:\n"
            f"{COMMAND_INDENT}{stranded.by_hand()}"
        )


def _elsewhere(fault: OcwatchError, finder: EndpointFinder) -> OcwatchError:
    """Return the error `fault`. If OpenCode 2 is running, add advice on its sessions to the message."""
    if not any(endpoint.generation == 2 for endpoint in finder.find().open):
        return fault
    return type(fault)(
        f"{fault}. To move an OpenCode 2 session, use: ocwatch redirect. If the OpenCode 2 service hangs, use: "
        "opencode service restart"
    )


def _finder(paths: Paths, config: Config) -> EndpointFinder:
    return EndpointFinder(
        paths.opencode_data,
        urls=config.endpoints,
        sockets=paths.endpoints,
        environ=os.environ,
        state=paths.opencode_state,
    )


def _confirmed(options: MoveOptions, restart_options: RestartOptions, snapshot: SessionSnapshot) -> str:
    """Return the command that carries out this restart without further checks, with the user's other options."""
    given = {"--to": options.to, "--agent": options.agent, "--pid": restart_options.pid}
    words = [word for option, value in given.items() if value is not None for word in (option, str(value))]
    return join(["ocwatch", "restart", snapshot.session, *words, *(["--force"] if options.force else []), "--yes"])


def _check_harmless(unreached: Unreached, stranded: StrandedSession, again: str) -> None:
    """Raise an error if the restart ends more than the session, or if the user has to reopen the session. `again` is
    the command that restarts it anyway.
    """
    snapshot = stranded.snapshot
    if stranded.terminal is None:
        raise OcwatchError(
            f"OpenCode (process {stranded.process.pid}) is running neither under oc-smart nor in tmux, so you would "
            f"have to start it again yourself. To stop it:\n{COMMAND_INDENT}{again}\n"
            f"Then, in its terminal, reopen the session:\n{COMMAND_INDENT}{stranded.by_hand()}"
        )
    related = [stranded.child] if stranded.child else []
    others = unreached.others(snapshot, stranded.process, time.time(), related)
    if others:
        names = {name.id: name for name in known_sessions()}
        listed = "".join(
            f"\n  {named_session(other.session, names.get(other.session))}  {other.model}" for other in others
        )
        raise OcwatchError(
            f"other sessions may be busy in process {stranded.process.pid}:{listed}\nTo stop it anyway: {again}"
        )


def _plugin(paths: Paths) -> Path | None:
    """Return the plugin file for the new process to load, or None if the plugin is installed for every process."""
    return None if find_plugin(paths).state is PluginState.CURRENT else shipped_path()


# ---- messages


def _progress(text: str) -> None:
    warn(escape(text))


def _about(stranded: StrandedSession) -> dict[str, object]:
    terminal = stranded.terminal
    return {
        "pid": stranded.process.pid, "pane": terminal.ident if isinstance(terminal, Pane) else None,
        "launcher": terminal.launcher if isinstance(terminal, Supervised) else None, "relaunch": stranded.by_hand(),
    }  # fmt: skip


def _say_plan(options: MoveOptions, stranded: StrandedSession, code: int) -> int:
    if not options.as_json:
        tell(planned(stranded))
    return code


def planned(stranded: StrandedSession) -> str:
    """Return what a restart would do to the process of the session, with the command on a separate line."""
    where = f"start it again in {stranded.terminal}" if stranded.terminal else "ask you to start it again"
    return f"Would stop OpenCode (process {stranded.process.pid}) and {escape(where)}:\n{_command(stranded)}"


def _report(options: MoveOptions, stranded: StrandedSession, code: int) -> int:
    """If ocwatch has no terminal for the session, print the command that reopens it. Return `code`."""
    if stranded.terminal is None and not options.as_json and code == ExitCode.DONE:
        tell(f"To reopen the session, type:\n{_command(stranded)}")
    return code


def _command(stranded: StrandedSession) -> str:
    return f"{COMMAND_INDENT}{escape(stranded.by_hand())}"
