"""Check this machine: OpenCode, its logs and endpoints, the companion plugin, the daemon, and our files."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from ocwatchd.doctor.values import Check, Facts, Running, Severity
from ocwatchd.opencode.discovery.earlier import STARTED_BEFORE_WHY
from ocwatchd.state.heartbeat import unserved
from ocwatchd.time_words import span

OLDEST = (1, 0)
"""The oldest version of OpenCode with which ocwatchd is tested."""
MIN_WATCHES, MIN_INSTANCES = 1024, 16
"""Minimum inotify limits that pass the check. ocwatchd needs one instance and a few watches, but an editor may use most
of what the system permits.
"""
MAX_AHEAD = 120.0
"""Maximum time, in seconds, by which a timestamp in our files may be in the future. If a timestamp is further ahead,
the clock is assumed to have been set back.
"""
MAX_JOURNAL = 64 << 20
"""Size of the journal, in bytes, above which doctor reports it. The daemon limits the journal to 8 MiB."""
MIN_FREE = 16 << 20
"""Minimum free disk space, in bytes, that passes the check."""
DECISIVE = frozenset(("prompt", "retry"))
"""The companion plugin's hooks in OpenCode 2 that act before or at a limit."""
WITHOUT_HOOKS = "nothing to do: ocwatchd moves its sessions through OpenCode's own API after the first limit"
RESTORE = "restore that file from a backup, or move it away to start over"
UNIT = "ocwatch service install"


def opencode_program(facts: Facts) -> Iterator[Check]:
    """Check the installed OpenCode."""
    if facts.program is None:
        remedy = "install OpenCode or add its directory to PATH; `oc-smart` and `ocwatch restart` need it"
        yield Check("opencode-program", Severity.WARNING, "`opencode` is not on PATH", remedy)
    elif facts.program_fault:
        yield Check("opencode-program", Severity.ERROR, facts.program_fault, "reinstall OpenCode")
    elif facts.generation == 2:
        yield Check("opencode-program", Severity.OK, f"{facts.program}, OpenCode 2, version {facts.version}")
    elif facts.version and _numbers(facts.version) != (0, 0, 0) and _numbers(facts.version)[:2] < OLDEST:
        seen = f"{facts.program} is version {facts.version}, older than 1.0"
        yield Check("opencode-program", Severity.WARNING, seen, "upgrade OpenCode, then: ocwatch drill")
    else:
        yield Check("opencode-program", Severity.OK, f"{facts.program}, version {facts.version}")


def opencode_running(facts: Facts) -> Iterator[Check]:
    """Check which versions of OpenCode are running."""
    if not facts.running:
        yield Check("opencode-running", Severity.INFO, "no running OpenCode process uses this home directory")
        return
    versions = {found.opencode for found in facts.running if found.opencode}
    listed = f" (version {', '.join(sorted(versions, key=_numbers))})" if versions else ""
    seen = (
        f"{_count(len(facts.running), 'running OpenCode process uses', 'running OpenCode processes use')} "
        f"this home directory{listed}"
    )
    if facts.version and versions - {facts.version}:
        remedy = f"restart processes with another version when convenient: version {facts.version} is installed"
        yield Check("opencode-running", Severity.INFO, seen, remedy)
    else:
        yield Check("opencode-running", Severity.OK, seen)


def logs(facts: Facts) -> Iterator[Check]:
    """Check that there are logs, and that the daemon reads them."""
    for directory in facts.logs:
        if directory.files is None:
            severity = Severity.WARNING if facts.running or directory.trouble else Severity.INFO
            seen = f"{directory.path} {directory.trouble or 'does not exist yet'}"
            remedy = (
                "check its owner and permissions"
                if directory.trouble
                else "nothing to do: OpenCode creates it at its first start"
            )
            yield Check("log-directory", severity, seen, remedy)
        else:
            last = "none yet" if directory.newest is None else f"last line {_ago(facts.now - directory.newest)}"
            seen = f"{directory.path}: {_count(directory.files, 'log', 'logs')}, {last}"
            yield Check("log-directory", Severity.OK, seen)
    if facts.daemon.unread_log:
        yield Check(
            "log-lines", Severity.ERROR, facts.daemon.unread_log, "restart the daemon: ocwatch down && ocwatch up"
        )


def daemon(facts: Facts) -> Iterator[Check]:
    """Check that the daemon is running and reading logs."""
    found = facts.daemon
    if found.state == "up":
        yield Check("daemon", Severity.OK, f"running, pid {found.pid}, last heartbeat {_ago(found.beat_age or 0)}")
    elif found.state == "deaf":
        since = "never" if found.beat_age is None else _ago(found.beat_age)
        seen = f"stalled: pid {found.pid} is running, but its last heartbeat was {since}"
        yield Check(
            "daemon",
            Severity.ERROR,
            seen,
            f"stop it (kill {found.pid}; kill -9 {found.pid} if that fails), then: ocwatch up",
        )
    else:
        seen = "not running: limited sessions are not moved"
        if facts.plugin.state in ("current", "outdated"):
            seen += "; new prompts still avoid models in the blacklist"
        yield Check("daemon", Severity.WARNING, seen, "start it: ocwatch up")
    for session, phrase, command in found.waiting:
        yield Check("session", Severity.WARNING, f"{session}: {phrase}", f"ocwatch {command}")
    for line in found.health:
        yield Check(
            "daemon-health",
            Severity.WARNING,
            line,
            "correct the problem that the finding describes; the daemon keeps running in the meantime",
        )


def generation(facts: Facts) -> Iterator[Check]:
    """Check that ocwatchd can move the sessions of every running OpenCode process."""
    for seen in unserved(facts.endpoint_statuses):
        yield Check("opencode-generation", Severity.ERROR, seen, "correct the problem that the finding describes")


def database(facts: Facts) -> Iterator[Check]:
    """Check that OpenCode 2 has not taken over the database of an OpenCode 1 that is still in use."""
    if facts.migrated is None:
        return
    older = [str(run.pid) for run in facts.running if run.generation == 1]
    taken = f"OpenCode 2 has migrated {facts.migrated}, so OpenCode 1 can no longer use it"
    if older:
        seen = f"{taken}: process {', '.join(older)} finds no session (Session not found, code 500)"
        remedy = "stop it and continue with OpenCode 2, which lists these sessions but cannot show their messages"
        yield Check("opencode-database", Severity.ERROR, seen, f"{remedy}. To keep using OpenCode 1: {RESTORE}")
    elif facts.program is not None and facts.generation == 1:
        yield Check(
            "opencode-database", Severity.WARNING, taken, f"start OpenCode 2. To keep using OpenCode 1: {RESTORE}"
        )


def endpoints(facts: Facts) -> Iterator[Check]:
    """Check that every running OpenCode process has an endpoint."""
    older = [found for found in facts.running if found.generation == 1]
    shut = [found for found in older if not found.endpoint and not found.runs_once]
    if older and not shut:
        yield Check(
            "doors",
            Severity.OK,
            f"{_count(facts.endpoints, 'endpoint', 'endpoints')}; every running OpenCode process can be reached",
        )
    for found in shut:
        where = f" in {found.directory}" if found.directory else ""
        seen = (
            f"{found.place or f'OpenCode {found.pid}{where}'} cannot be reached: its sessions cannot be moved in place"
        )
        yield Check("doors", Severity.WARNING, seen, _unreachable_remedy(found, facts), found.again)
    for trouble in facts.endpoint_troubles:
        yield Check(
            "doors",
            Severity.WARNING,
            trouble,
            "correct the problem that the finding describes, or restart that OpenCode process",
        )


def _unreachable_remedy(found: Running, facts: Facts) -> str:
    if facts.plugin.state in ("absent", "foreign") and found.remedy:  # this remedy includes the installation
        return found.remedy
    if facts.plugin.state != "current":
        return f"ocwatch plugin install, then {found.remedy or 'restart that OpenCode process'}"
    if found.plugin is None:
        how = found.remedy or "restart it, or use `ocwatch restart`"
        return f"it {found.why or STARTED_BEFORE_WHY}: {how}"
    return (
        "the companion plugin is loaded but has no endpoint: start OpenCode with `--port`, or use `ocwatch restart`; "
        "to test the plugin: ocwatch drill"
    )


def plugin(facts: Facts) -> Iterator[Check]:
    """Check that the companion plugin matches this ocwatchd's version and is loaded."""
    found = facts.plugin
    install = "ocwatch plugin install"
    if found.trouble:
        yield Check("plugin", Severity.WARNING, found.trouble, "check its owner and permissions")
    elif found.state == "current":
        yield Check("plugin", Severity.OK, f"{found.path}, version {found.installed}")
        for run in facts.running:
            if run.generation == 2 and run.listens and (run.plugin is None or DECISIVE.isdisjoint(run.hooks)):
                yield Check("plugin", Severity.INFO, _without_hooks(run), WITHOUT_HOOKS)
    elif found.state == "outdated":
        if found.installed == found.shipped:
            seen = f"{found.path} was changed or is incomplete"
            yield Check("plugin", Severity.WARNING, seen, f"restore it: {install}")
        else:
            seen = f"{found.path} is version {found.installed}, but this ocwatchd has version {found.shipped}"
            yield Check("plugin", Severity.WARNING, seen, install)
    elif found.state == "foreign":
        seen = f"ocwatchd did not write {found.path}"
        yield Check("plugin", Severity.WARNING, seen, f"move it away, then: {install}")
    else:
        seen = "not installed: plain TUIs cannot be reached, and new prompts for limited models are not redirected"
        yield Check("plugin", Severity.WARNING, seen, install)
    old = [run.pid for run in facts.running if run.plugin and found.shipped and run.plugin != found.shipped]
    if old and found.state == "current":
        seen = f"another version of the plugin is loaded in OpenCode (pid {', '.join(map(str, old))})"
        yield Check("plugin", Severity.INFO, seen, "restart OpenCode when convenient")
    if found.last_error:
        remedy = "report it, and attach the archive created by: ocwatch doctor --bundle FILE"
        yield Check("plugin-errors", Severity.WARNING, found.last_error, remedy)


def _without_hooks(run: Running) -> str:
    """Return the finding for an OpenCode 2 process that calls none of our hooks, like the preview 0.0.0-next-16350."""
    loaded = "has not called the hooks `prompt` or `retry` of the companion plugin yet"
    so_far = "has not loaded the companion plugin yet" if run.plugin is None else loaded
    return f"OpenCode {run.pid} (OpenCode 2) {so_far}; until then, each prompt hits a limit once before it is moved"


def rivals(facts: Facts) -> Iterator[Check]:
    """Check that no other fallback plugin is installed or active."""
    remedy = (
        "remove one of the two plugins: while the other one is active, ocwatchd's plugin acts only after a limit, "
        "not before it"
    )
    active = list(dict.fromkeys(found.standing_back for found in facts.running if found.standing_back))
    for why in active:
        yield Check("rival-plugin", Severity.WARNING, why, remedy)
    for name in facts.rivals:
        if not any(name.split()[0] in why for why in active):
            yield Check("rival-plugin", Severity.WARNING, f"another fallback plugin is installed: {name}", remedy)


def service(facts: Facts) -> Iterator[Check]:
    """Check that a service starts the daemon at login."""
    found = facts.service
    if found.file is None:
        why = f"; {found.unserved}" if found.unserved else ""
        seen = f"no service is installed, so nothing restarts the daemon after it exits{why}"
        yield Check("service", Severity.INFO, seen, UNIT if found.unserved is None else None)
    elif not found.there:
        seen = f"{found.file} starts {found.program}, which does not exist"
        yield Check("service", Severity.ERROR, seen, f"install the service again: {UNIT}")
    elif facts.daemon.state == "down":
        yield Check(
            "service",
            Severity.WARNING,
            f"{found.file} is installed, but the daemon is not running",
            "ocwatch service start",
        )
    else:
        yield Check("service", Severity.OK, found.file)


def file_modes(facts: Facts) -> Iterator[Check]:
    """Check that only this user can access our files."""
    for found in facts.open_modes:
        if not found.own:
            seen = f"{found.path} belongs to {found.owner}, not to you"
            remedy = found.repair or f"sudo chown $USER {shlex.quote(found.path)}"
            yield Check("file-mode", Severity.ERROR, seen, remedy)
        else:
            seen = f"{found.path} has mode {found.mode:04o}, so other users of this machine can access it"
            yield Check("file-mode", Severity.WARNING, seen, f"chmod go= {shlex.quote(found.path)}")
    if not facts.open_modes:
        yield Check("file-mode", Severity.OK, "only you can access ocwatchd's files")


def inotify(facts: Facts) -> Iterator[Check]:
    """Check that the system allows enough file watches."""
    if facts.inotify is None:
        return
    watches, instances = facts.inotify
    seen = f"{watches} watches and {instances} instances are allowed per user"
    if watches < MIN_WATCHES or instances < MIN_INSTANCES:
        remedy = (
            "sudo sysctl fs.inotify.max_user_watches=65536 fs.inotify.max_user_instances=128; "
            "until then, logs are checked once a second"
        )
        yield Check("inotify", Severity.WARNING, seen, remedy)
    else:
        yield Check("inotify", Severity.OK, seen)


def clock(facts: Facts) -> Iterator[Check]:
    """Check that the clock has not been set back."""
    ahead = (facts.newest_time or 0.0) - facts.now
    if ahead > MAX_AHEAD:
        seen = f"ocwatchd's files contain a time that is {span(ahead)} in the future, so the clock was set back"
        yield Check("clock", Severity.WARNING, seen, "correct the system clock, because cooldowns depend on it")
    else:
        yield Check("clock", Severity.OK, "the clock has not been set back")


def our_files(facts: Facts) -> Iterator[Check]:
    """Check the blacklist, the journal, and the free disk space."""
    for problem in facts.blacklist_problems:
        yield Check(
            "register",
            Severity.WARNING,
            problem,
            "nothing to do: the daemon renames a damaged file and starts a new one",
        )
    if facts.journal_bytes > MAX_JOURNAL:
        seen = f"the size of the journal is {facts.journal_bytes >> 20} MiB; at most 8 MiB is expected"
        yield Check("journal", Severity.WARNING, seen, "remove it; the daemon starts a new one")
    else:
        yield Check("journal", Severity.OK, f"the size of the journal is {facts.journal_bytes >> 10} KiB")
    if facts.state_free is not None and facts.state_free < MIN_FREE:
        seen = f"only {facts.state_free >> 20} MiB is free in the file system of ocwatchd's state directory"
        yield Check(
            "disk",
            Severity.WARNING,
            seen,
            "free some space: while the disk is full, the daemon keeps cooldowns only in memory",
        )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.partition("-")[0].split(".") if part.isdecimal())


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


def _ago(seconds: float) -> str:
    return f"{span(seconds)} ago"
