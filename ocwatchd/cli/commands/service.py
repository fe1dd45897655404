"""`ocwatch service`: install, control and inspect the daemon as a systemd or launchd service."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from ocwatchd.cli.commands.setup_steps import shown
from ocwatchd.cli.output.escape import escape
from ocwatchd.cli.output.render import hanging, iso, say, say_json, tell, warn
from ocwatchd.config import load
from ocwatchd.errors import ExitCode, UsageError
from ocwatchd.ownership import open_followed
from ocwatchd.paths import Paths
from ocwatchd.service import (
    DETACH,
    FileState,
    Log,
    Manager,
    NoManager,
    ServiceFault,
    ServiceStatus,
    manager_for,
    stray_daemon,
)
from ocwatchd.service.commands import ask
from ocwatchd.state.blacklist.format import moment
from ocwatchd.time_words import exactly, stamp

LINGER = "The service stops when you log out. To keep it running: loginctl enable-linger"
LINGER_UNKNOWN = (
    "The service may stop when you log out (loginctl does not respond). To keep it running: loginctl enable-linger"
)
JOURNAL = "this user's journal (if it is not stored on disk, only members of the group systemd-journal can read it)"
LOG_TAIL = 1 << 20
"""Maximum number of bytes read from the end of a log file."""


def install(sandbox: bool | None, start: bool, as_json: bool = False) -> int:
    """Install or update the service. With `start`, also start it.

    Raises:
        ConfigError: Our configuration cannot be used, so the service would not start.
        ServiceFault: The service manager fails.
    """
    paths = Paths.from_env()
    load(paths)
    manager = manager_for(paths)
    _check_manager(manager, paths)
    changed = manager.install(sandbox)
    service_status = manager.status()
    stray = stray_daemon(paths, service_status)
    started = start and stray is None and (bool(changed) or not service_status.running)
    if started:
        manager.start()
        service_status = manager.status()
    if as_json:
        say_json({**_view(service_status), "changed": [str(path) for path in changed], "started": started})
        return ExitCode.DONE
    for path in changed:
        tell(f"{'Wrote' if path.exists() else 'Removed'} {shown(path)}.")
    if not changed:
        tell(f"Up to date: {shown(service_status.file)}.")
    if stray is not None:
        tell(
            f"The service was not started, because a daemon is already running{_pid(stray)}. "
            "To run it as the service: ocwatch down && ocwatch up"
        )
    _print_status(service_status)
    return ExitCode.DONE


def uninstall(as_json: bool = False) -> int:
    """Stop the service and remove its files, if it is installed.

    Raises:
        ServiceFault: The service manager fails.
    """
    manager = manager_for(Paths.from_env())
    before = manager.status()
    gone = manager.uninstall()
    if as_json:
        say_json({**_view(manager.status()), "removed": [str(path) for path in gone]})
        return ExitCode.DONE
    for path in gone:
        tell(f"Removed {shown(path)}.")
    if before.state is FileState.FOREIGN:
        warn(f"{shown(before.file)} is kept: ocwatchd did not write it")
    elif not gone:
        tell("The service is not installed.")
    return ExitCode.DONE


def start(as_json: bool = False) -> int:
    """Start the service. Return 0 even if it is already running.

    Raises:
        ConfigError: Our configuration cannot be used.
        ServiceFault: The service is not installed, another daemon is running, or the service manager fails.
    """
    paths = Paths.from_env()
    load(paths)
    manager = manager_for(paths)
    _check_manager(manager, paths)
    service_status = _installed(manager)
    stray = stray_daemon(paths, service_status)
    if stray is not None:
        raise ServiceFault(f"a daemon is already running outside the service{_pid(stray)}. To stop it: ocwatch down")
    if not service_status.running:
        manager.start()
    return _print_result(manager.status(), as_json)


def stop(as_json: bool = False) -> int:
    """Stop the service until the next login. Return 0 even if it is not running.

    Raises:
        ServiceFault: The service is not installed, or the service manager fails.
    """
    paths = Paths.from_env()
    manager = manager_for(paths)
    _check_manager(manager, paths, "No daemon is running. Without a service, `ocwatch down` stops the daemon")
    _installed(manager)
    manager.stop()
    return _print_result(manager.status(), as_json)


def status(as_json: bool = False) -> int:
    """Print the state of the service. Return 0 if it is running, otherwise 3.

    Raises:
        ServiceFault: The service manager does not respond.
    """
    service_status = manager_for(Paths.from_env()).status()
    _print_result(service_status, as_json)
    return ExitCode.DONE if service_status.running else ExitCode.DAEMON_DOWN


def logs(lines: int, follow: bool, as_json: bool = False) -> int:
    """Print the last lines of the daemon's log, from the systemd journal or the service's log file.

    Raises:
        UsageError: `follow` and `as_json` are both given.
        ServiceFault: No service is installed, or its log cannot be read.
    """
    if follow and as_json:
        raise UsageError("use either --follow or --json: a JSON document cannot be endless")
    paths = Paths.from_env()
    manager = manager_for(paths)
    if isinstance(manager, NoManager) and paths.service_log.exists():  # `ocwatch up --detach` writes this file
        log = Log(file=paths.service_log)
    else:
        _installed(manager)
        log = manager.log()
    if follow:
        command = log.command(lines, True) if log.command else ["tail", "-n", str(lines), "-F", str(log.file)]
        return _follow(command) if sys.stdout.isatty() else _become(command)
    found = _from_file(log.file, lines) if log.file else _from_command(log.command(lines, False) if log.command else ())
    if as_json:
        say_json({"time": iso(time.time()), "source": str(log.file) if log.file else "journal", "lines": found})
    elif found:
        now = time.time()
        for line in found:
            _say_event(line, now)
    else:
        warn(f"the log is empty: {shown(log.file) if log.file else JOURNAL}")
    return ExitCode.DONE


def readable(line: str, now: float) -> tuple[str, str]:
    """Return the time and the text of a line of the daemon's log, in the formats of the other commands.

    The time is empty if the line does not begin with one, for example if it is part of a message of the interpreter.
    """
    begin, _, text = line.partition(" ")
    try:
        head = stamp(moment(begin, "time"), now)
    except ValueError:
        head, text = "", line
    text = _TIME.sub(lambda found: _local(found[0], now), text)
    text = _FLAG.sub(lambda found: "=yes" if found[1] == "True" else "=no", text)
    return head, _SECONDS.sub(lambda found: f"{found[1]}={exactly(float(found[2]))}", text)


def _local(time: str, now: float) -> str:
    """Return a time of the log as a local time, or unchanged if there is no such time."""
    try:
        return stamp(moment(time, "time"), now)
    except ValueError:
        return time


_TIME = re.compile(r"(?<![^\s=])\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?Z(?!\S)")
_FLAG = re.compile(r"(?<=\w)=(True|False)(?!\S)")
_SECONDS = re.compile(r"\b((?:\w+_)?seconds)=(\d+(?:\.\d+)?)(?!\S)")


def _say_event(line: str, now: float) -> None:
    """Print a line of the daemon's log. On a terminal, wrap it between words and align the continuation lines."""
    head, text = readable(line, now)
    head = f"{head} " if head else ""
    if sys.stdout.isatty():
        say("\n".join(hanging(head, escape(text), " " * len(head))))
    else:
        say(f"{head}{escape(text)}")


def _follow(command: Sequence[str]) -> int:
    """Print the lines of a command that follows the log, until the user or the command ends it."""
    _check_program(command)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, errors="replace") as process:
        try:
            for line in process.stdout or ():
                _say_event(line.rstrip("\n"), time.time())
                sys.stdout.flush()
        except BaseException:
            process.terminate()
            raise
    return process.returncode


def _become(command: Sequence[str]) -> int:
    _check_program(command)
    os.execvp(command[0], list(command))


def _check_program(command: Sequence[str]) -> None:
    if shutil.which(command[0]) is None:
        raise ServiceFault(f"{command[0]} is not on PATH: {_other_sources()}")


def _from_command(command: Sequence[str]) -> list[str]:
    if shutil.which(command[0]) is None:
        raise ServiceFault(f"the log is in the systemd journal, and {command[0]} is not on PATH: {_other_sources()}")
    answer = ask(command, 30.0)
    if not answer.done:
        raise ServiceFault(f"the journal cannot be read ({answer.why}): {_other_sources()}")
    return answer.out.splitlines()


def _other_sources() -> str:
    """Return a phrase that says where the daemon's decisions are recorded and how to see its whole log."""
    return f"the decisions are in {Paths.from_env().journal}; to see the whole log, run `ocwatchd` in the foreground"


def _from_file(path: Path, lines: int) -> list[str]:
    try:
        with open(open_followed(path), "rb") as file:  # noqa: PTH123 (a descriptor)
            file.seek(max(os.fstat(file.fileno()).st_size - LOG_TAIL, 0))
            content = file.read(LOG_TAIL)
    except FileNotFoundError:
        return []
    except OSError as fault:
        raise ServiceFault(f"{path} cannot be read: {fault.strerror or fault}") from fault
    return content.decode(errors="replace").splitlines()[-lines:] if lines else []


def _check_manager(manager: Manager, paths: Paths, idle: str = DETACH) -> None:
    """Raise a ServiceFault if this user has no service manager. `idle` is the advice if no daemon is running."""
    if isinstance(manager, NoManager):
        advice = _without_service(paths, manager.status(), idle)
        raise ServiceFault(f"no service manager can be used: {manager.reason}. {advice}")


def _without_service(paths: Paths, service_status: ServiceStatus, idle: str = DETACH) -> str:
    """Return what to do if there is no service manager, without a period at the end."""
    running = stray_daemon(paths, service_status)
    if running is None:
        return idle
    return f"The daemon is running without a service{_pid(running)}. To stop it: ocwatch down"


def _installed(manager: Manager) -> ServiceStatus:
    service_status = manager.status()
    if service_status.state is FileState.ABSENT:
        manager.log()  # called only because it raises an exception if there is no service manager
        raise ServiceFault("the service is not installed. To install it: ocwatch service install")
    return service_status


def _print_result(service_status: ServiceStatus, as_json: bool) -> int:
    if as_json:
        say_json(_view(service_status))
    else:
        _print_status(service_status)
    return ExitCode.DONE


def _print_status(service_status: ServiceStatus) -> None:
    if service_status.state is FileState.ABSENT:
        none = service_status.manager == "none"
        why = (
            f": {escape(service_status.phrase)}. {_without_service(Paths.from_env(), service_status)}"
            if none
            else ". To install one: ocwatch service install"
        )
        tell(f"No service is installed{why}")
        return
    pid = f", pid {service_status.pid}" if service_status.running else ""
    restarts = f", restarts: {service_status.restarts}" if service_status.restarts else ""
    tell(f"The {service_status.manager} service is {escape(service_status.phrase)}{pid}{restarts}.")
    if service_status.said:
        tell(f"The daemon reports: {escape(service_status.said)}")
    if not service_status.enabled:
        tell("# The service does not start at login. To change that: ocwatch service install")
    if service_status.state is FileState.OUTDATED:
        tell(f"# {shown(service_status.file)} is outdated. To update it: ocwatch service install")
    remark = linger_remark(service_status)
    if remark:
        tell(remark)


def linger_remark(service_status: ServiceStatus) -> str | None:
    """Return a warning if the service stops, or may stop, when the user logs out; otherwise, return None."""
    if service_status.manager != "systemd" or service_status.lingers:
        return None
    return f"# {LINGER if service_status.lingers is False else LINGER_UNKNOWN}"


def _pid(pid: int) -> str:
    return f" (pid {pid})" if pid else ""


def _view(service_status: ServiceStatus) -> dict[str, object]:
    return {
        "time": iso(time.time()),
        "manager": service_status.manager,
        "file": None if service_status.file is None else str(service_status.file),
        "state": service_status.state.value,
        "installed": service_status.state in (FileState.CURRENT, FileState.OUTDATED),
        "enabled": service_status.enabled,
        "running": service_status.running,
        "pid": service_status.pid,
        "phrase": service_status.phrase,
        "said": service_status.said or None,
        "restarts": service_status.restarts,
        "lingers": service_status.lingers,
    }
