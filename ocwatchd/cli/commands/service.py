"""`ocwatch service`: the daemon as a service of systemd or launchd, and what is to be known about it."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from ocwatchd.cli.escape import escape
from ocwatchd.cli.render import iso, say, say_json, tell, warn
from ocwatchd.cli.steps import shown
from ocwatchd.config import load
from ocwatchd.errors import ExitCode, UsageError
from ocwatchd.paths import Paths
from ocwatchd.service import IN_FOREGROUND, FileState, Look, Manager, ServiceFault, manager_for, stray_daemon
from ocwatchd.service.commands import ask

LINGER = "It ends when you log out. To keep it running: loginctl enable-linger"
LINGER_UNKNOWN = (
    "Whether it outlives your logout is not known here (loginctl does not answer). To make sure: loginctl enable-linger"
)
JOURNAL = "the journal of this user (where it is not kept on disk, only the group systemd-journal may read it)"
LOG_TAIL = 1 << 20
"""Bytes at a log file's end that are looked at."""


def install(sandbox: bool | None, start: bool, as_json: bool = False) -> int:
    """Install the service, or bring it up to date, and start it.

    Raises:
        ConfigError: our configuration cannot be used: the service would not start.
        ServiceFault: the manager does not do it.
    """
    paths = Paths.from_env()
    load(paths)
    manager = manager_for(paths)
    changed = manager.install(sandbox)
    look = manager.look()
    stray = stray_daemon(paths, look)
    started = start and stray is None and (bool(changed) or not look.running)
    if started:
        manager.start()
        look = manager.look()
    if as_json:
        say_json({**_view(look), "changed": [str(path) for path in changed], "started": started})
        return ExitCode.DONE
    for path in changed:
        tell(f"{'Wrote' if path.exists() else 'Removed'} {shown(path)}.")
    if not changed:
        tell(f"Up to date: {shown(look.file)}.")
    if stray is not None:
        tell(f"Not started: a daemon runs outside of it{_pid(stray)}. To change that: ocwatch down && ocwatch up")
    _tell_look(look)
    return ExitCode.DONE


def uninstall(as_json: bool = False) -> int:
    """End the service and remove its files. None installed is no fault.

    Raises:
        ServiceFault: the manager does not do it.
    """
    manager = manager_for(Paths.from_env())
    before = manager.look()
    gone = manager.uninstall()
    if as_json:
        say_json({**_view(manager.look()), "removed": [str(path) for path in gone]})
        return ExitCode.DONE
    for path in gone:
        tell(f"Removed {shown(path)}.")
    if before.state is FileState.FOREIGN:
        warn(f"{shown(before.file)} is not ocwatchd's and stays as it is")
    elif not gone:
        tell("Not installed.")
    return ExitCode.DONE


def start(as_json: bool = False) -> int:
    """Start the service; 0 also if it runs already.

    Raises:
        ConfigError: our configuration cannot be used.
        ServiceFault: it is not installed, another daemon runs, or the manager does not do it.
    """
    paths = Paths.from_env()
    load(paths)
    manager = manager_for(paths)
    look = _installed(manager)
    stray = stray_daemon(paths, look)
    if stray is not None:
        raise ServiceFault(f"a daemon already runs outside of the service{_pid(stray)}; end it with: ocwatch down")
    if not look.running:
        manager.start()
    return _told(manager.look(), as_json)


def stop(as_json: bool = False) -> int:
    """End the service's daemon; it comes back at the next login. 0 also if it does not run.

    Raises:
        ServiceFault: it is not installed, or the manager does not do it.
    """
    manager = manager_for(Paths.from_env())
    _installed(manager)
    manager.stop()
    return _told(manager.look(), as_json)


def status(as_json: bool = False) -> int:
    """Say how the service is. 0: it runs; 3: it does not.

    Raises:
        ServiceFault: the manager does not answer.
    """
    look = manager_for(Paths.from_env()).look()
    _told(look, as_json)
    return ExitCode.DONE if look.running else ExitCode.DAEMON_DOWN


def logs(lines: int, follow: bool, as_json: bool = False) -> int:
    """Show the daemon's last lines, from the journal or the service's log file.

    Raises:
        UsageError: `--follow` with `--json`.
        ServiceFault: there is no service, or its lines cannot be read.
    """
    if follow and as_json:
        raise UsageError("--follow has no end, and a JSON document has one: use either")
    manager = manager_for(Paths.from_env())
    _installed(manager)
    log = manager.log()
    if follow:
        command = log.command(lines, True) if log.command else ["tail", "-n", str(lines), "-F", str(log.file)]
        return _become(command)
    found = _from_file(log.file, lines) if log.file else _from_command(log.command(lines, False) if log.command else ())
    if as_json:
        say_json({"time": iso(time.time()), "source": str(log.file) if log.file else "journal", "lines": found})
    elif found:
        say("\n".join(map(escape, found)))
    else:
        warn(f"no lines in {shown(log.file) if log.file else JOURNAL}")
    return ExitCode.DONE


def _become(command: Sequence[str]) -> int:
    if shutil.which(command[0]) is None:
        raise ServiceFault(f"{command[0]} is not on PATH: {_elsewhere()}")
    os.execvp(command[0], list(command))


def _from_command(command: Sequence[str]) -> list[str]:
    if shutil.which(command[0]) is None:
        raise ServiceFault(f"the lines are in the journal, and {command[0]} is not on PATH: {_elsewhere()}")
    answer = ask(command, 30.0)
    if not answer.done:
        raise ServiceFault(f"the journal cannot be read ({answer.why}): {_elsewhere()}")
    return answer.out.splitlines()


def _elsewhere() -> str:
    """What there is besides the log."""
    return f"what was decided stands in {Paths.from_env().journal}; all of it is shown by `ocwatchd` in the foreground"


def _from_file(path: Path, lines: int) -> list[str]:
    try:
        with path.open("rb") as file:
            file.seek(max(os.fstat(file.fileno()).st_size - LOG_TAIL, 0))
            content = file.read(LOG_TAIL)
    except FileNotFoundError:
        return []
    except OSError as fault:
        raise ServiceFault(f"{path} cannot be read: {fault.strerror or fault}") from fault
    return content.decode(errors="replace").splitlines()[-lines:] if lines else []


def _installed(manager: Manager) -> Look:
    look = manager.look()
    if look.state is FileState.ABSENT:
        manager.log()  # where there is no manager at all, that is what has to be said
        raise ServiceFault("the service is not installed; install it with: ocwatch service install")
    return look


def _told(look: Look, as_json: bool) -> int:
    if as_json:
        say_json(_view(look))
    else:
        _tell_look(look)
    return ExitCode.DONE


def _tell_look(look: Look) -> None:
    if look.state is FileState.ABSENT:
        none = look.manager == "none"
        why = f": {escape(look.phrase)}. {IN_FOREGROUND}" if none else "; install it with: ocwatch service install"
        tell(f"No service{why}")
        return
    pid = f", pid {look.pid}" if look.running else ""
    restarts = f", restarts: {look.restarts}" if look.restarts else ""
    tell(f"The service of {look.manager} is {escape(look.phrase)}{pid}{restarts}.")
    if look.said:
        tell(f"It says: {escape(look.said)}")
    if not look.enabled:
        tell("# It is not started at login: ocwatch service install")
    if look.state is FileState.OUTDATED:
        tell(f"# {shown(look.file)} is outdated: ocwatch service install")
    remark = linger_remark(look)
    if remark:
        tell(remark)


def linger_remark(look: Look) -> str | None:
    """What a person has to know about logging out; None if there is nothing to know."""
    if look.manager != "systemd" or look.lingers:
        return None
    return f"# {LINGER if look.lingers is False else LINGER_UNKNOWN}"


def _pid(pid: int) -> str:
    return f" (pid {pid})" if pid else ""


def _view(look: Look) -> dict[str, object]:
    return {
        "time": iso(time.time()),
        "manager": look.manager,
        "file": None if look.file is None else str(look.file),
        "state": look.state.value,
        "installed": look.state in (FileState.CURRENT, FileState.OUTDATED),
        "enabled": look.enabled,
        "running": look.running,
        "pid": look.pid,
        "phrase": look.phrase,
        "said": look.said or None,
        "restarts": look.restarts,
        "lingers": look.lingers,
    }
