"""`ocwatch up`: all that a fresh machine needs, without a question: a configuration, the plugin, then the daemon."""

from __future__ import annotations

import os
import time
from hashlib import sha256

from ocwatchd.cli.config import derived_setup
from ocwatchd.cli.escape import escape
from ocwatchd.cli.listing import status
from ocwatchd.cli.plugin import RESTART
from ocwatchd.cli.render import tell
from ocwatchd.cli.service import linger_remark
from ocwatchd.cli.steps import Report, Step, shown
from ocwatchd.config import load
from ocwatchd.config.starter import starter_for
from ocwatchd.errors import ExitCode
from ocwatchd.opencode import plugin_file
from ocwatchd.opencode.plugin_file import PluginFault, PluginState
from ocwatchd.paths import Paths
from ocwatchd.service import FileState, Look, Manager, NoManager, manager_for, stray_daemon
from ocwatchd.state import heartbeat
from ocwatchd.state.files import write_atomic, write_new

UP_LIMIT = 15.0
"""Seconds that a daemon gets until its first heartbeat; it takes half a second on an idle machine."""
LOOK_PAUSE = 0.05


def up(*, dry_run: bool = False, foreground: bool = False, as_json: bool = False) -> int:
    """Make everything so that sessions are watched over, and say what was done; at once 0 where all is so already.

    The daemon becomes a service; where no manager serves this user, it runs here until it is stopped.

    Raises:
        ConfigError: our configuration is there and cannot be used.
        ServiceFault: the service cannot be installed or started.
        OcwatchError: the daemon cannot serve this home.
    """
    paths, report = Paths.from_env(), Report(dry_run=dry_run, as_json=as_json)
    _configure(paths, report)
    load(paths)  # a broken configuration is told before anything starts
    _install_plugin(paths, report)
    manager = NoManager("the foreground was asked for") if foreground else manager_for(paths)
    look = manager.look()
    running = stray_daemon(paths, look)
    if running is not None:
        advice = "" if isinstance(manager, NoManager) else " To make it a service: ocwatch down && ocwatch up"
        text = f"Already running{', outside of any service' if advice else ''}.{advice}"
        report.add(Step("daemon", "kept", pid=running or None, text=text))
    elif isinstance(manager, NoManager):
        return _serve(paths, report, manager)
    else:
        _have_service(manager, look, report)
    return _conclude(paths, report, manager.name)


def _configure(paths: Paths, report: Report) -> None:
    """Write a first configuration, derived from the user's OpenCode, and show it; one that is there stays."""
    path = paths.config_file
    if os.path.lexists(path):
        report.add(Step("configuration", "kept", path))
        return
    start = starter_for(derived_setup(paths))
    if not report.dry_run:
        try:
            write_new(path, start.text.encode())
        except OSError as error:  # kept read-only by its owner's tools: no reason not to watch
            reason = f"{shown(path)} cannot be written ({error.strerror}): going on without a chain"
            report.add(Step("configuration", "failed", path, reason))
            return
        _remember(paths, start.text)
    report.add(Step("configuration", "wrote", path, f"{shown(path)}:\n\n{start.text}"))
    if start.primary is None or not start.targets:
        report.warn(start.remark)


def _remember(paths: Paths, text: str) -> None:
    """So that `down --purge` can tell our own words from the user's."""
    try:
        write_atomic(paths.starter_mark, sha256(text.encode()).hexdigest().encode())
    except OSError:
        return  # then it is taken for the user's, and stays


def _install_plugin(paths: Paths, report: Report) -> None:
    """What cannot be done is said and is no reason not to watch."""
    try:
        before, after = (plugin_file.look(paths),) * 2 if report.dry_run else plugin_file.install(paths)
    except PluginFault as fault:
        text = f"the companion plugin is not installed: {escape(str(fault))}"
        report.add(Step("plugin", "failed", text=text))
        return
    if before.state is PluginState.CURRENT:
        report.add(Step("plugin", "kept", after.path))
    else:
        did = "updated" if before.installed else "installed"
        report.add(Step("plugin", did, after.path, f"OpenCode's companion plugin, {shown(after.path)}. {RESTART}"))


def _have_service(manager: Manager, look: Look, report: Report) -> None:
    """Installed, current, enabled and running; what is so already is left alone."""
    as_it_should = look.enabled and look.state is FileState.CURRENT
    foreign = look.state is FileState.FOREIGN  # whoever keeps that unit decides what is in it
    if as_it_should or foreign:
        report.add(Step("service", "kept", look.file))
        if look.running:
            report.add(Step("daemon", "kept", pid=look.pid, text=f"Already running as a service of {manager.name}."))
            return
    else:
        did = "installed" if look.state is FileState.ABSENT else "updated"
        if not report.dry_run:
            manager.install()
        report.add(Step("service", did, look.file, f"the service of {manager.name}, {shown(look.file)}."))
    if not report.dry_run:
        manager.start()
        look = manager.look()
    report.add(Step("daemon", "started", pid=None if report.dry_run else look.pid, text="it."))
    remark = linger_remark(look)
    if remark and not report.dry_run and not report.as_json:
        tell(remark)


def _serve(paths: Paths, report: Report, manager: NoManager) -> int:
    from ocwatchd import daemon  # late: a service needs none of it here

    why = f"here, in the foreground, until Ctrl-C: {escape(manager.reason)}."
    if report.dry_run:
        report.add(Step("daemon", "started", text=f"the daemon {why}"))
    else:
        report.add(Step("daemon", "foreground", pid=os.getpid(), text=f"The daemon runs {why}"))
    report.end({"manager": manager.name, "state": None})
    if not report.dry_run:
        daemon.run(paths)
    return ExitCode.DONE


def _conclude(paths: Paths, report: Report, manager: str) -> int:
    """Wait for the daemon's sign of life and show its status."""
    deadline = time.monotonic() + (0.0 if report.dry_run else UP_LIMIT)
    while True:
        state = heartbeat.read(paths.heartbeat).state(time.time())
        if state == heartbeat.State.UP or time.monotonic() >= deadline:
            break
        time.sleep(LOOK_PAUSE)
    report.end({"manager": manager, "state": state})
    if report.as_json or report.dry_run:
        return ExitCode.DONE if report.dry_run or state == heartbeat.State.UP else ExitCode.DAEMON_DOWN
    return status()
