"""Checks of what runs and lies on this machine: OpenCode, its logs and doors, the plugin, the daemon, our files."""

from __future__ import annotations

from collections.abc import Iterator

from ocwatchd.doctor.values import Check, Facts, Running, Severity

OLDEST = (1, 0)
"""The oldest OpenCode that this project is shown to work with."""
WATCHES, INSTANCES = 1024, 16
"""Fewer inotify watches or instances than these are used up by an editor; we need one instance and a few watches."""
AHEAD = 120.0
"""Seconds by which a time of ours may lie ahead before the clock must have been set back."""
JOURNAL_MOST = 64 << 20
"""Bytes. The journal keeps itself below 8 MiB."""
FREE_LEAST = 16 << 20
UNIT = "ocwatch service install"


def opencode_program(facts: Facts) -> Iterator[Check]:
    """Which OpenCode would be started?"""
    if facts.program is None:
        remedy = "install OpenCode, or add its directory to PATH; `oc-smart` and `restart` need it"
        yield Check("opencode-program", Severity.WARNING, "`opencode` is not on PATH", remedy)
    elif facts.program_fault:
        yield Check("opencode-program", Severity.ERROR, facts.program_fault, "reinstall OpenCode")
    elif facts.version and _numbers(facts.version)[:2] < OLDEST:
        seen = f"{facts.program} is version {facts.version}, older than 1.0"
        yield Check("opencode-program", Severity.WARNING, seen, "upgrade OpenCode, then: ocwatch drill")
    else:
        yield Check("opencode-program", Severity.OK, f"{facts.program}, version {facts.version}")


def opencode_running(facts: Facts) -> Iterator[Check]:
    """Which versions run?"""
    if not facts.running:
        yield Check("opencode-running", Severity.INFO, "no OpenCode runs in this home")
        return
    versions = {found.opencode for found in facts.running if found.opencode}
    listed = f", version {', '.join(sorted(versions, key=_numbers))}" if versions else ""
    seen = f"{_count(len(facts.running), 'OpenCode runs', 'OpenCodes run')} in this home{listed}"
    if facts.version and versions - {facts.version}:
        remedy = f"those of another version than the installed {facts.version} keep it until they are started again"
        yield Check("opencode-running", Severity.INFO, seen, remedy)
    else:
        yield Check("opencode-running", Severity.OK, seen)


def logs(facts: Facts) -> Iterator[Check]:
    """Are there logs, and does the daemon hear what is written?"""
    for directory in facts.logs:
        if directory.files is None:
            severity = Severity.WARNING if facts.running or directory.trouble else Severity.INFO
            seen = f"{directory.path}: {directory.trouble or 'not there yet'}"
            remedy = "see who owns it" if directory.trouble else "OpenCode makes it at its first start"
            yield Check("log-directory", severity, seen, remedy)
        else:
            last = "none written yet" if directory.newest is None else f"last line {_ago(facts.now - directory.newest)}"
            seen = f"{directory.path}: {_count(directory.files, 'log', 'logs')}, {last}"
            yield Check("log-directory", Severity.OK, seen)
    if facts.daemon.unheard:
        yield Check("log-lines", Severity.ERROR, facts.daemon.unheard, "start the daemon again: ocwatch up")


def daemon(facts: Facts) -> Iterator[Check]:
    """Does it run, and hear?"""
    found = facts.daemon
    if found.state == "up":
        yield Check("daemon", Severity.OK, f"up, pid {found.pid}, last beat {_ago(found.beat_age or 0)}")
    elif found.state == "deaf":
        since = "never" if found.beat_age is None else _ago(found.beat_age)
        seen = f"pid {found.pid} lives, but its last beat was {since}"
        yield Check("daemon", Severity.ERROR, seen, f"end it (kill {found.pid}; kill -9 if it stays), then: ocwatch up")
    else:
        seen = "not running: limited sessions are not moved; known cooldowns still steer new prompts"
        yield Check("daemon", Severity.WARNING, seen, "start it: ocwatch up")
    for line in found.health:
        yield Check(
            "daemon-health", Severity.WARNING, line, "this is the daemon's own complaint; it goes on without it"
        )


def doors(facts: Facts) -> Iterator[Check]:
    """Can running sessions be reached?"""
    shut = [found for found in facts.running if not found.door and not found.runs_once]
    if facts.running and not shut:
        yield Check("doors", Severity.OK, f"{_count(facts.doors, 'door', 'doors')} open, every OpenCode can be reached")
    for found in shut:
        where = f" in {found.directory}" if found.directory else ""
        seen = f"no door into OpenCode {found.pid}{where}: its sessions cannot be moved in place"
        yield Check("doors", Severity.WARNING, seen, _way_in(found, facts))
    for trouble in facts.door_troubles:
        yield Check("doors", Severity.WARNING, trouble, "as it says; or start that OpenCode again")


def _way_in(found: Running, facts: Facts) -> str:
    if facts.plugin.state != "current":
        return "ocwatch plugin install, then start that OpenCode again"
    if found.plugin is None:
        return "it was started before the plugin was installed: start it again, or use `ocwatch restart`"
    return "this OpenCode gives plugins no way in: use `--port`, or `ocwatch restart`; see: ocwatch drill"


def plugin(facts: Facts) -> Iterator[Check]:
    """Is the companion plugin the one of this ocwatchd, and loaded?"""
    found = facts.plugin
    install = "ocwatch plugin install"
    if found.trouble:
        yield Check("plugin", Severity.WARNING, found.trouble, "see who owns it")
    elif found.state == "current":
        yield Check("plugin", Severity.OK, f"{found.path}, version {found.installed}")
    elif found.state == "outdated":
        seen = f"{found.path} is version {found.installed}, not as shipped ({found.shipped})"
        yield Check("plugin", Severity.WARNING, seen, install)
    elif found.state == "foreign":
        yield Check("plugin", Severity.WARNING, f"{found.path} is not ocwatchd's", f"move it away, then: {install}")
    else:
        seen = "not installed: plain TUIs cannot be reached, and prompts for a limited model are not sent elsewhere"
        yield Check("plugin", Severity.WARNING, seen, install)
    old = [run.pid for run in facts.running if run.plugin and found.shipped and run.plugin != found.shipped]
    if old and found.state == "current":
        seen = f"another version of the plugin is loaded in OpenCode {', '.join(map(str, old))}"
        yield Check("plugin", Severity.INFO, seen, "start these again when it suits you")
    if found.last_error:
        yield Check("plugin-errors", Severity.WARNING, found.last_error, "report it: ocwatch doctor --bundle FILE")


def rivals(facts: Facts) -> Iterator[Check]:
    """Does anything else move sessions?"""
    remedy = "keep one of the two: where another one is active, ours prevents nothing and leaves each limit to it first"
    active = list(dict.fromkeys(found.standing_back for found in facts.running if found.standing_back))
    for why in active:
        yield Check("rival-plugin", Severity.WARNING, why, remedy)
    for name in facts.rivals:
        if not any(name.split()[0] in why for why in active):
            yield Check("rival-plugin", Severity.WARNING, f"another fallback plugin is installed: {name}", remedy)


def service(facts: Facts) -> Iterator[Check]:
    """Does the daemon come back by itself?"""
    found = facts.service
    if found.file is None:
        why = f"; {found.unserved}" if found.unserved else ""
        seen = f"no user service: the daemon ends with its terminal{why}"
        yield Check("service", Severity.INFO, seen, UNIT if found.unserved is None else None)
    elif not found.there:
        seen = f"{found.file} starts {found.program}, which is not there"
        yield Check("service", Severity.ERROR, seen, f"{UNIT}, which writes it anew")
    elif facts.daemon.state == "down":
        yield Check(
            "service", Severity.WARNING, f"{found.file} is there, the daemon does not run", "ocwatch service start"
        )
    else:
        yield Check("service", Severity.OK, found.file)


def file_modes(facts: Facts) -> Iterator[Check]:
    """Are our files this user's alone?"""
    for found in facts.open_modes:
        if not found.own:
            seen = f"{found.path} belongs to another user"
            yield Check("file-mode", Severity.ERROR, seen, f"remove it, or: sudo chown $USER {found.path}")
        else:
            seen = f"{found.path} has mode {found.mode:04o}: others of this machine get in"
            yield Check("file-mode", Severity.WARNING, seen, f"chmod go= {found.path}")
    if not facts.open_modes:
        yield Check("file-mode", Severity.OK, "our files are yours alone")


def inotify(facts: Facts) -> Iterator[Check]:
    """Does the system give enough file watches?"""
    if facts.inotify is None:
        return
    watches, instances = facts.inotify
    seen = f"{watches} watches, {instances} instances a user"
    if watches < WATCHES or instances < INSTANCES:
        remedy = (
            "sudo sysctl fs.inotify.max_user_watches=65536 fs.inotify.max_user_instances=128; till then once a second"
        )
        yield Check("inotify", Severity.WARNING, seen, remedy)
    else:
        yield Check("inotify", Severity.OK, seen)


def clock(facts: Facts) -> Iterator[Check]:
    """Has the clock been set back?"""
    ahead = (facts.newest_of_ours or 0.0) - facts.now
    if ahead > AHEAD:
        seen = f"our files name a time {ahead:.0f} s ahead: the clock was set back"
        yield Check("clock", Severity.WARNING, seen, "set it right; cooldowns end when the clock says so")
    else:
        yield Check("clock", Severity.OK, "it goes forward")


def our_files(facts: Facts) -> Iterator[Check]:
    """Are the register and the journal sound, and is there room for more?"""
    for problem in facts.register_problems:
        yield Check("register", Severity.WARNING, problem, "the daemon sets a damaged file aside and begins a new one")
    if facts.journal_bytes > JOURNAL_MOST:
        seen = f"the journal has {facts.journal_bytes >> 20} MiB; it should keep itself below 8"
        yield Check("journal", Severity.WARNING, seen, "remove it; it is rewritten from nothing")
    else:
        yield Check("journal", Severity.OK, f"{facts.journal_bytes >> 10} KiB")
    if facts.state_free is not None and facts.state_free < FREE_LEAST:
        seen = f"{facts.state_free >> 20} MiB are free where our state lies"
        yield Check(
            "disk", Severity.WARNING, seen, "make room: cooldowns are kept in memory only while nothing can be written"
        )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.partition("-")[0].split(".") if part.isdecimal())


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


def _ago(seconds: float) -> str:
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit} ago"
    return f"{max(seconds, 0):.0f} s ago"
