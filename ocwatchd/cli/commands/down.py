"""`ocwatch down`: what `ocwatch up` made is undone; what was learnt and configured stays, unless it is purged."""

from __future__ import annotations

import os
import shutil
import signal
import time
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

from ocwatchd.cli.steps import Report, Step, shown
from ocwatchd.errors import ExitCode, OcwatchError
from ocwatchd.opencode import plugin_file
from ocwatchd.opencode.plugin_file import PluginState
from ocwatchd.paths import Paths
from ocwatchd.service import FileState, Look, Manager, manager_for, stray_daemon
from ocwatchd.state import daemonlock

PATIENCE = ((signal.SIGTERM, 8.0), (signal.SIGKILL, 5.0))
"""Seconds after each signal; the daemon ends within 5 s of the first, and no end of it loses anything."""
LOOK_PAUSE = 0.05


def down(*, purge: bool = False, dry_run: bool = False, as_json: bool = False) -> int:
    """End the daemon, remove service and plugin, and say so. 0 also where nothing was there.

    `purge`: our state directory too, and the configuration if it is still what `ocwatch up` wrote.

    Raises:
        OcwatchError: something of it is still there; the message says what.
    """
    paths, report = Paths.from_env(), Report(dry_run=dry_run, as_json=as_json)
    manager = manager_for(paths)
    look = manager.look()
    stray = stray_daemon(paths, look)
    _remove_service(manager, look, report)
    _end_daemon(paths, look, stray, report)
    _remove_plugin(paths, report)
    if purge:
        _purge(paths, report)
    else:
        report.add(Step("state", "kept", paths.state_dir, "Configuration and state stay; without them: --purge"))
    report.end({"manager": manager.name})
    return ExitCode.DONE


def _remove_service(manager: Manager, look: Look, report: Report) -> None:
    if look.state is FileState.FOREIGN:
        if not report.dry_run:
            manager.stop()
        text = (
            f"The service stays: {shown(look.file)} is not ocwatchd's. It is stopped; disable it where it comes from."
        )
        report.add(Step("service", "kept", look.file, text))
        return
    gone = [look.file] if report.dry_run and look.state is not FileState.ABSENT and look.file else []
    if not report.dry_run:
        gone = manager.uninstall()
    if look.running:
        report.add(Step("daemon", "ended", pid=look.pid, text=f"the daemon (pid {look.pid})."))
    for path in gone:
        report.add(Step("service", "removed", path, f"{shown(path)}."))
    if not gone:
        report.add(Step("service", "kept", text="No service is installed."))


def _end_daemon(paths: Paths, look: Look, pid: int | None, report: Report) -> None:
    """The daemon that runs outside of a service."""
    if pid is None:
        if not look.running:
            report.add(Step("daemon", "kept", text="No daemon runs."))
        return
    if pid == 0:
        raise OcwatchError(
            "a daemon runs, and which process it is cannot be told for sure: end it where it was started"
        )
    if not report.dry_run:
        _end(paths, pid)
    report.add(Step("daemon", "ended", pid=pid, text=f"the daemon (pid {pid})."))


def _end(paths: Paths, pid: int) -> None:
    for number, patience in PATIENCE:
        with suppress(ProcessLookupError):
            os.kill(pid, number)
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            if daemonlock.holder(paths.daemon_lock, paths.heartbeat) != pid:
                return
            time.sleep(LOOK_PAUSE)
    raise OcwatchError(f"the daemon (pid {pid}) does not end, not even by SIGKILL; look for what it hangs in")


def _remove_plugin(paths: Paths, report: Report) -> None:
    found = plugin_file.look(paths)
    ours = found.state in (PluginState.CURRENT, PluginState.OUTDATED)
    gone = ours if report.dry_run else bool(plugin_file.uninstall(paths))
    if gone:
        path = shown(found.path)
        text = f"OpenCode's companion plugin, {path}. OpenCode processes that run now keep it until they end."
        report.add(Step("plugin", "removed", found.path, text))
    if found.state is PluginState.FOREIGN:
        report.add(Step("plugin", "kept", found.path, f"{shown(found.path)} is not ocwatchd's and stays."))
    elif not gone:
        report.add(Step("plugin", "kept", found.path, "The companion plugin is not installed."))


def _purge(paths: Paths, report: Report) -> None:
    config, untouched = paths.config_file, _is_as_written(paths)
    if untouched:
        if not report.dry_run:
            config.unlink()
        report.add(Step("configuration", "removed", config, f"{shown(config)}: it was as `ocwatch up` wrote it."))
    elif os.path.lexists(config):
        report.add(Step("configuration", "kept", config, f"Your configuration stays: {shown(config)}."))
    for directory in (paths.state_dir, paths.cache_dir):
        if os.path.lexists(directory):
            if not report.dry_run:
                _remove_tree(directory)
            report.add(Step("state", "removed", directory, f"{shown(directory)}."))


def _is_as_written(paths: Paths) -> bool:
    """Whether our configuration is, byte for byte, the starter that we wrote: everything else is the user's."""
    try:
        if paths.config_file.is_symlink():
            return False
        return sha256(paths.config_file.read_bytes()).hexdigest() == paths.starter_mark.read_text().strip()
    except (OSError, ValueError):
        return False


def _remove_tree(directory: Path) -> None:
    if directory.is_symlink():
        raise OcwatchError(f"{directory} is a link: what it points to is not removed; do it by hand")
    try:
        shutil.rmtree(directory)
    except OSError as fault:
        raise OcwatchError(f"{fault.filename or directory} cannot be removed: {fault.strerror or fault}") from fault
