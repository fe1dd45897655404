"""`ocwatch up`: set up the configuration, the companion plugin and the service, and start the daemon.

On a terminal, it asks one question: which fallbacks to use. If the user does not answer within 8 seconds, it uses all
suggested fallbacks, so it never hangs.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256

from ocwatchd import DOCUMENTATION
from ocwatchd.cli.commands.config import derived_setup, write_schema
from ocwatchd.cli.commands.down import end_daemon
from ocwatchd.cli.commands.plugin import RESTART
from ocwatchd.cli.commands.run import installed_opencode
from ocwatchd.cli.commands.service import linger_remark
from ocwatchd.cli.commands.setup_steps import Report, Step, shown
from ocwatchd.cli.commands.status import status
from ocwatchd.cli.output.escape import escape
from ocwatchd.cli.output.render import COMMAND_INDENT, say, tell
from ocwatchd.config import load
from ocwatchd.config.starter import Starter, starter_for
from ocwatchd.core.text.amounts import span
from ocwatchd.errors import ExitCode, OpenCodeUnreachable, UsageError
from ocwatchd.opencode.discovery.earlier import EarlierProcess, earlier_processes
from ocwatchd.opencode.plugin import install as plugin_file
from ocwatchd.opencode.plugin.install import PluginFault, PluginState
from ocwatchd.opencode.process.program import about_program
from ocwatchd.paths import Paths
from ocwatchd.service import FileState, Manager, NoManager, ServiceStatus, manager_for, stray_daemon
from ocwatchd.service.files import ready_log
from ocwatchd.state import heartbeat
from ocwatchd.state.files import write_atomic, write_new

ABOUT_2 = f"its sessions are moved through its own API. The differences are described in {DOCUMENTATION}/opencode2.md"
ASKED = "you asked for --foreground"
"""The reason that is printed when the option --foreground prevents the installation of a service."""
UP_LIMIT = 15.0
"""Timeout, in seconds, for the daemon's first heartbeat, which takes half a second on an idle machine."""
POLL_INTERVAL = 0.05
"""Interval, in seconds, between checks for the heartbeat."""
ASK_TIMEOUT = 8.0
"""Timeout, in seconds, for the user's answer. Afterwards, the suggestions are used, so that `up` never hangs in a
script.
"""


def up(
    *,
    dry_run: bool = False,
    foreground: bool = False,
    detach: bool = False,
    yes: bool = False,
    as_json: bool = False,
) -> int:
    """Set up all components, start the daemon, and print each step. Components that are already set up are not changed.

    The daemon runs as a service. If this user has no service manager, it runs in the foreground, or with `detach` in
    the background. A daemon of another version is restarted. On a terminal, `up` asks which fallbacks a first
    configuration should contain, unless `yes` is given.

    Raises:
        ConfigError: Our configuration exists and cannot be used.
        ServiceFault: The service cannot be installed or started.
        UsageError: `foreground` and `detach` are both given.
        OcwatchError: The daemon cannot start.
    """
    if foreground and detach:
        raise UsageError("use either --foreground or --detach, not both")
    paths, report = Paths.from_env(), Report(dry_run=dry_run, as_json=as_json)
    _configure(paths, report, ask=not yes)
    load(paths)  # report a broken configuration before starting anything
    _install_plugin(paths, report)
    _report_generation(report)
    earlier = _report_earlier_processes(paths, report)
    manager = NoManager(ASKED) if foreground else manager_for(paths)
    service_status = manager.status()
    running = stray_daemon(paths, service_status)
    outdated = running is not None and heartbeat.read(paths.heartbeat).code not in ("", heartbeat.code_mark())
    if running and outdated and not foreground:
        text = f"the daemon (pid {running}), which belonged to another version of ocwatchd."
        report.add(Step("daemon", "ended", pid=running, text=text))
        if not dry_run:
            end_daemon(paths, running)
        if isinstance(manager, NoManager):
            _detach(paths, report)
        else:
            _have_service(manager, service_status, report)
    elif running is not None:
        advice = "" if isinstance(manager, NoManager) else " To make it a service: ocwatch down && ocwatch up"
        text = f"The daemon is already running{', but not as a service' if advice else ''}.{advice}"
        report.add(Step("daemon", "kept", pid=running or None, text=text))
    elif detach and isinstance(manager, NoManager):
        _detach(paths, report)
    elif isinstance(manager, NoManager):
        return _serve(paths, report, manager)
    else:
        _have_service(manager, service_status, report)
    return _conclude(paths, report, manager.name, earlier, running if outdated and not foreground else None)


def _configure(paths: Paths, report: Report, ask: bool) -> None:
    """Write and print a first configuration, derived from the user's OpenCode setup. An existing configuration is
    kept.
    """
    path = paths.config_file
    if not report.dry_run:
        write_schema(paths)
    if os.path.lexists(path):
        report.add(Step("configuration", "kept", path))
        return
    setup = derived_setup(paths)
    start = starter_for(setup, schema=paths.schema)
    asked = ask and not report.dry_run and not report.as_json and sys.stdin.isatty() and sys.stdout.isatty()
    if asked and len(start.targets) > 1:
        start = starter_for(setup, _ask(start), paths.schema)
    if not report.dry_run:
        try:
            write_new(path, start.text.encode())
        except OSError as error:  # a read-only configuration directory must not keep the daemon from starting
            reason = f"{shown(path)} cannot be written ({error.strerror}), so the daemon starts without fallback chains"
            report.add(Step("configuration", "failed", path, reason))
            return
        _remember(paths, start.text)
    chosen = f" {start.primary} falls back to {', '.join(start.targets)}." if start.primary and start.targets else ""
    text = f"{shown(path)}.{escape(chosen)} To change this, edit the file:"
    report.add(Step("configuration", "wrote", path, text, verbatim=start.text))
    if start.primary is None or not start.targets:
        report.warn(escape(start.remark_on(path)))


def _ask(start: Starter) -> tuple[str, ...]:
    """Ask the user which of the suggested fallbacks to use, and return them in the user's order. Return all suggestions
    if the user gives no valid answer.
    """
    say(escape(f"Fall back from {start.primary} to:"))
    for number, model in enumerate(start.targets, 1):
        say(escape(f"  {number}  {model}"))
    say(f"(If you do not answer within {span(ASK_TIMEOUT)}, all of them are used in this order.)")
    print("Numbers in the order you want, or Enter for all in this order: ", end="", flush=True)
    answer = ""
    if select.select([sys.stdin], [], [], ASK_TIMEOUT)[0]:
        answer = sys.stdin.readline()
    else:
        print(flush=True)
    numbers = [int(word) for word in answer.replace(",", " ").split() if word.isdecimal()]
    chosen = [start.targets[number - 1] for number in numbers if 0 < number <= len(start.targets)]
    return tuple(dict.fromkeys(chosen)) or start.targets


def _report_earlier_processes(paths: Paths, report: Report) -> list[EarlierProcess]:
    """Report the OpenCode processes started without the companion plugin, and how to restart each."""
    earlier = earlier_processes(paths)
    if report.dry_run:  # the plugin would be installed by now
        earlier = [replace(one, installed=True) for one in earlier]
    for one in earlier:
        text = escape(f"{one.place} {one.why}. To load the companion plugin, {one.way}:")
        command = f"{COMMAND_INDENT}{escape(one.again)}"
        report.add(Step("opencode", "found", pid=one.pid, text=f"{text}\n{command}"))
    return earlier


def _detach(paths: Paths, report: Report) -> None:
    """Start the daemon in the background, in its own session. The daemon writes to the service's log file."""
    pid = None
    if not report.dry_run:
        ready_log(paths.service_log)
        with os.fdopen(
            os.open(paths.service_log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o600), "ab"
        ) as log:
            daemon = subprocess.Popen(
                [sys.executable, "-P", "-m", "ocwatchd"],
                cwd=paths.home, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        pid = daemon.pid
    text = "the daemon in the background. To stop it: ocwatch down. To see its log: ocwatch logs"
    report.add(Step("daemon", "started", pid=pid, text=f"{text}."))


def _remember(paths: Paths, text: str) -> None:
    """Store the hash of the first configuration, with which `down --purge` detects later changes."""
    try:
        write_atomic(paths.starter_mark, sha256(text.encode()).hexdigest().encode())
    except OSError:
        return  # without the hash, `down --purge` keeps the file


def _install_plugin(paths: Paths, report: Report) -> None:
    """Install or update the companion plugin. A failure is reported, but does not keep the daemon from starting."""
    try:
        before, after = (plugin_file.find_plugin(paths),) * 2 if report.dry_run else plugin_file.install(paths)
    except PluginFault as fault:
        text = f"the companion plugin is not installed: {escape(str(fault))}"
        report.add(Step("plugin", "failed", text=text))
        return
    if before.state is PluginState.CURRENT:
        report.add(Step("plugin", "kept", after.path))
    else:
        did = "updated" if before.installed else "installed"
        report.add(Step("plugin", did, after.path, f"OpenCode's companion plugin, {shown(after.path)}. {RESTART}"))


def _report_generation(report: Report) -> None:
    """If OpenCode 2 is installed, print how ocwatchd handles it. A program that does not work is ignored here; `ocwatch
    doctor` reports it.
    """
    program = installed_opencode()
    try:
        about = about_program(program, os.environ) if program else None
    except OpenCodeUnreachable:
        return
    if about is not None and about.generation == 2:
        text = f"{shown(program)} is OpenCode 2 (version {escape(about.number)}): {ABOUT_2}"
        report.add(Step("opencode", "found", program, text))


def _have_service(manager: Manager, service_status: ServiceStatus, report: Report) -> None:
    """Install, enable and start the service. Steps that are already done are skipped."""
    as_it_should = service_status.enabled and service_status.state is FileState.CURRENT
    foreign = service_status.state is FileState.FOREIGN  # a unit that ocwatchd did not write is not changed
    if as_it_should or foreign:
        report.add(Step("service", "kept", service_status.file))
        if service_status.running and heartbeat.read(Paths.from_env().heartbeat).code in ("", heartbeat.code_mark()):
            report.add(
                Step(
                    "daemon",
                    "kept",
                    pid=service_status.pid,
                    text=f"The daemon is already running as a {manager.name} service.",
                )
            )
            return
    else:
        did = "installed" if service_status.state is FileState.ABSENT else "updated"
        if not report.dry_run:
            manager.install()
        report.add(
            Step("service", did, service_status.file, f"the {manager.name} service, {shown(service_status.file)}.")
        )
    if not report.dry_run:
        manager.start()
        service_status = manager.status()
    report.add(Step("daemon", "started", pid=None if report.dry_run else service_status.pid, text="the daemon."))
    remark = linger_remark(service_status)
    if remark and not report.dry_run and not report.as_json:
        tell(remark)


def _serve(paths: Paths, report: Report, manager: NoManager) -> int:
    from ocwatchd.daemon import loop as daemon  # lazy import: not needed if the daemon runs as a service

    why = f"in the foreground of this terminal until you press Ctrl-C, because {escape(manager.reason)}."
    if manager.reason != ASKED:
        why += " To run it in the background instead: ocwatch up --detach"
    if report.dry_run:
        report.add(Step("daemon", "started", text=f"the daemon {why}"))
    else:
        report.add(Step("daemon", "foreground", pid=os.getpid(), text=f"The daemon runs {why}"))
    report.end({"manager": manager.name, "state": None})
    if not report.dry_run:
        daemon.run(paths)
    return ExitCode.DONE


def _conclude(paths: Paths, report: Report, manager: str, earlier: Sequence[EarlierProcess], ended: int | None) -> int:
    """Wait for the first heartbeat of the daemon, print its status, and return the exit code.

    `ended` is the process id of the daemon that `up` stopped, if any; its last heartbeat is ignored.
    """
    deadline = time.monotonic() + (0.0 if report.dry_run else UP_LIMIT)
    while True:
        beat = heartbeat.read(paths.heartbeat)
        state = beat.state(time.time())
        if (state == heartbeat.State.UP and beat.pid != ended) or time.monotonic() >= deadline:
            break
        time.sleep(POLL_INTERVAL)
    report.end({"manager": manager, "state": state, "earlier": [one.as_json() for one in earlier]})
    if report.as_json or report.dry_run:
        return ExitCode.DONE if report.dry_run or state == heartbeat.State.UP else ExitCode.DAEMON_DOWN
    return status(instead="restart the OpenCode processes named above, then try it: ocwatch drill" if earlier else None)
