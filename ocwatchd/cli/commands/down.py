"""`ocwatch down`: undo `ocwatch up`. Without --purge, state and configuration are kept."""

from __future__ import annotations

import os
import shutil
import signal
import time
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

from ocwatchd.cli.commands.setup_steps import Report, Step, shown
from ocwatchd.errors import ExitCode, OcwatchError
from ocwatchd.opencode.plugin import install as plugin_file
from ocwatchd.opencode.plugin.install import PluginState
from ocwatchd.paths import Paths
from ocwatchd.service import FileState, Manager, ServiceStatus, manager_for, stray_daemon
from ocwatchd.state import daemon_lock as daemonlock
from ocwatchd.state.safe_read import StateError, read_plain

END_SIGNALS = ((signal.SIGTERM, 8.0), (signal.SIGKILL, 5.0))
"""The signals that end the daemon, in order, each with the time, in seconds, to wait for the daemon to exit.

The daemon exits within 5 s of SIGTERM. SIGKILL does not lose data either.
"""
POLL_INTERVAL = 0.05
"""Interval, in seconds, between checks of whether the daemon has exited."""


def down(*, purge: bool = False, dry_run: bool = False, as_json: bool = False) -> int:
    """Stop the daemon, remove the service and the plugin, and print each step. Return 0.

    `purge` also removes our state directory, and the configuration if it has not changed since `ocwatch up` wrote it.

    Raises:
        OcwatchError: A component could not be stopped or removed. The message names it.
    """
    paths, report = Paths.from_env(), Report(dry_run=dry_run, as_json=as_json)
    manager = manager_for(paths)
    service_status = manager.status()
    stray = stray_daemon(paths, service_status)
    _remove_service(manager, service_status, report)
    _end_daemon(paths, service_status, stray, report)
    _remove_plugin(paths, report)
    if purge:
        _purge(paths, report)
    else:
        report.add(
            Step(
                "state",
                "kept",
                paths.state_dir,
                "Configuration and state are kept. To remove them too: ocwatch down --purge",
            )
        )
    report.end({"manager": manager.name})
    return ExitCode.DONE


def _remove_service(manager: Manager, service_status: ServiceStatus, report: Report) -> None:
    if service_status.state is FileState.FOREIGN:
        if not report.dry_run:
            manager.stop()
        file = shown(service_status.file)
        text = f"The service is stopped but kept: ocwatchd did not write {file}. Disable it yourself."
        report.add(Step("service", "kept", service_status.file, text))
        return
    gone = (
        [service_status.file]
        if report.dry_run and service_status.state is not FileState.ABSENT and service_status.file
        else []
    )
    if not report.dry_run:
        gone = manager.uninstall()
    if service_status.running:
        report.add(Step("daemon", "ended", pid=service_status.pid, text=f"the daemon (pid {service_status.pid})."))
    for path in gone:
        report.add(Step("service", "removed", path, f"{shown(path)}."))
    if not gone:
        report.add(Step("service", "kept", text="No service is installed."))


def _end_daemon(paths: Paths, service_status: ServiceStatus, pid: int | None, report: Report) -> None:
    """Stop a daemon that is not running as a service. A `pid` of 0 means that the process id is unknown."""
    if pid is None:
        if not service_status.running:
            report.add(Step("daemon", "kept", text="No daemon is running."))
        return
    if pid == 0:
        raise OcwatchError(
            "a daemon is running, but its process id is unknown. Stop it in the terminal where it was started"
        )
    if not report.dry_run:
        end_daemon(paths, pid)
    report.add(Step("daemon", "ended", pid=pid, text=f"the daemon (pid {pid})."))


def end_daemon(paths: Paths, pid: int) -> None:
    """Stop the daemon, and return when it has exited.

    Raises:
        OcwatchError: The daemon is still running after SIGKILL.
    """
    for number, seconds in END_SIGNALS:
        with suppress(ProcessLookupError):
            os.kill(pid, number)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if daemonlock.holder(paths.daemon_lock, paths.heartbeat) != pid:
                return
            time.sleep(POLL_INTERVAL)
    raise OcwatchError(
        f"the daemon (pid {pid}) is still running after SIGKILL. It may be waiting for a disk or a network file "
        "system. When it has ended, run this command again"
    )


def _remove_plugin(paths: Paths, report: Report) -> None:
    found = plugin_file.find_plugin(paths)
    ours = found.state in (PluginState.CURRENT, PluginState.OUTDATED)
    gone = ours if report.dry_run else bool(plugin_file.uninstall(paths))
    if gone:
        path = shown(found.path)
        text = f"OpenCode's companion plugin, {path}. Running OpenCode processes use it until they end."
        report.add(Step("plugin", "removed", found.path, text))
    if found.state is PluginState.FOREIGN:
        report.add(Step("plugin", "kept", found.path, f"{shown(found.path)} is kept: ocwatchd did not write it."))
    elif not gone:
        report.add(Step("plugin", "kept", found.path, "The companion plugin is not installed."))


def _purge(paths: Paths, report: Report) -> None:
    config, untouched = paths.config_file, _is_as_written(paths)
    if untouched:
        if not report.dry_run:
            config.unlink()
        report.add(
            Step(
                "configuration",
                "removed",
                config,
                f"{shown(config)}: it had not changed since `ocwatch up` wrote it.",
            )
        )
    elif os.path.lexists(config):
        report.add(Step("configuration", "kept", config, f"Your configuration is kept: {shown(config)}."))
    for directory in (paths.state_dir, paths.cache_dir):
        if os.path.lexists(directory):
            if not report.dry_run:
                _remove_tree(directory)
            report.add(Step("state", "removed", directory, f"{shown(directory)}."))


def _is_as_written(paths: Paths) -> bool:
    """Return whether the configuration is identical, byte for byte, to the one that `ocwatch up` wrote."""
    try:
        if paths.config_file.is_symlink():
            return False
        written, mark = read_plain(paths.config_file), read_plain(paths.starter_mark)
        return sha256(written).hexdigest() == mark.decode().strip()
    except (OSError, StateError, ValueError):
        return False


def _remove_tree(directory: Path) -> None:
    if directory.is_symlink():
        raise OcwatchError(f"{directory} is a symbolic link, so its target is not removed. Remove it yourself")
    try:
        shutil.rmtree(directory)
    except OSError as fault:
        raise OcwatchError(f"{fault.filename or directory} cannot be removed: {fault.strerror or fault}") from fault
