"""Write and read daemon.json, the heartbeat of the daemon's main loop.

A running process does not prove that the daemon works, because its loop may be stuck. The daemon is `up` if the process
is running and the heartbeat is fresh.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence

from ocwatchd.state.blacklist.format import moment
from ocwatchd.state.safe_read import StateError, read_plain, write_unsynced

TYPE_CHECKING = False  # defined here because importing it from `typing` takes 5 ms of CPU time
if TYPE_CHECKING:
    from pathlib import Path  # for type checkers only: the import takes 5 ms of CPU time

    from ocwatchd.paths import Paths

VERSION = 1
FRESH = 10.0
"""Age, in seconds, above which a heartbeat is stale. The loop writes one every two seconds."""


class State:
    """The states of the daemon as other processes see it. The values are part of the JSON contract."""

    UP = "up"
    STALLED = "deaf"  # the process is running, but its loop writes no heartbeat
    DOWN = "down"


def write(
    path: Path,
    pid: int,
    started: float,
    beat: float,
    following: Sequence[str],
    sessions: Sequence[Mapping[str, object]] = (),
    health: Sequence[str] = (),
    configuration: Mapping[str, object] | None = None,
    endpoints: Sequence[Mapping[str, object]] = (),
    without_fallback: Sequence[str] = (),
    unknown_models: Sequence[str] = (),
    code: str = "",
    earlier: Sequence[Mapping[str, object]] = (),
) -> None:
    """Replace the heartbeat atomically but without fsync, because it is worthless after a power failure.

    `sessions` contains objects with the keys `session`, `phrase` and others. `health` contains the faults as phrases
    for the user; an empty list means that there are none. `configuration` has the keys `file`, `loaded` and `problem`.
    `endpoints` contains an object with the keys `pid`, `address`, `generation`, `plugin` and `trouble` for each
    OpenCode process that has an endpoint or whose sessions cannot be served. `without_fallback` contains the models in
    use that have no fallback. `unknown_models` contains the configured models that OpenCode does not offer. `code` is
    the `code_mark` of the daemon's program. `earlier` describes the OpenCode processes that run without the companion
    plugin.

    Raises:
        OSError: The file could not be written.
    """
    document = {
        "version": VERSION,
        "pid": pid,
        "started": _iso(started),
        "beat": _iso(beat),
        "following": list(following),
        "sessions": [dict(session) for session in sessions],
        "health": list(health),
        "configuration": configuration,
        "endpoints": [dict(endpoint) for endpoint in endpoints],
        "without_fallback": list(without_fallback),
        "unknown_models": list(unknown_models),
        "code": code,
        "earlier": [dict(process) for process in earlier],
    }
    write_unsynced(path, json.dumps(document).encode())


class Heartbeat:
    """The last heartbeat. `pid` is 0 and times are None if the file is missing or unreadable."""

    __slots__ = (
        "beat",
        "code",
        "configuration",
        "earlier",
        "endpoints",
        "following",
        "health",
        "pid",
        "sessions",
        "started",
        "unknown_models",
        "without_fallback",
    )

    def __init__(self, raw: Mapping[str, object]) -> None:
        """Store the fields that have the right type. All other fields are treated as missing."""
        pid = raw.get("pid")
        self.pid = pid if isinstance(pid, int) and not isinstance(pid, bool) and 0 < pid < 1 << 31 else 0
        self.started = _epoch(raw.get("started"))
        self.beat = _epoch(raw.get("beat"))
        self.following = [str(item) for item in _items(raw, "following")]
        self.sessions = [item for item in _items(raw, "sessions") if isinstance(item, dict)]
        self.health = [str(item) for item in _items(raw, "health")]
        configuration = raw.get("configuration")
        self.configuration = configuration if isinstance(configuration, dict) else None
        self.endpoints = [item for item in _items(raw, "endpoints") if isinstance(item, dict)]
        earlier = [item for item in _items(raw, "earlier") if isinstance(item, dict)]
        self.earlier = [item for item in earlier if _epoch(item.get("started")) is not None]
        code = raw.get("code")
        self.code = code if isinstance(code, str) else ""
        self.without_fallback = [str(item) for item in _items(raw, "without_fallback")]
        self.unknown_models = [str(item) for item in _items(raw, "unknown_models")]

    def state(self, now: float) -> str:
        """Return the daemon's state (a value of `State`), based on the process table and the age of the heartbeat."""
        if not self.pid or not alive(self.pid):
            return State.DOWN
        fresh = self.beat is not None and abs(now - self.beat) < FRESH
        return State.UP if fresh else State.STALLED


def code_mark() -> str:
    """Return a checksum of the installed program. It changes with an upgrade, and differs between virtual
    environments.
    """
    import zlib  # lazy import: needed only when the daemon starts, and by `up`

    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100, PTH120 (as below)
    found = zlib.crc32(package.encode())
    for directory, inner, files in os.walk(package):
        inner.sort()
        for name in sorted(files):
            if name.endswith((".py", ".js", ".json")):
                with open(os.path.join(directory, name), "rb") as file:  # noqa: PTH118, PTH123 (as below)
                    found = zlib.crc32(f"\n{name}\n".encode() + file.read(), found)
    return f"{found:08x}"


def remember_program(paths: Paths) -> None:
    """Record the location of this program, so that the companion plugin becomes inactive if the program is removed
    without `ocwatch down`.

    Errors are ignored, because the plugin remains active without the record.
    """
    from contextlib import suppress  # lazy import: commands that read the heartbeat must start fast

    from ocwatchd.state.files import write_atomic

    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100, PTH120 (as below)
    with suppress(OSError, StateError):
        write_atomic(paths.state_dir / "program", f"{package}/opencode/plugin/rate-limit-fallback.js\n".encode())
        (paths.state_dir / "uninstalled").unlink(missing_ok=True)


def running(endpoints: Iterable[Mapping[str, object]]) -> list[Mapping[str, object]]:
    """Return the endpoints whose process is still running. The daemon may not yet have noticed that a process has
    ended.
    """
    pids = [(one, one.get("pid")) for one in endpoints]
    return [one for one, pid in pids if not isinstance(pid, int) or alive(pid)]


def unserved(endpoints: Iterable[Mapping[str, object]]) -> list[str]:
    """Return a sentence about each endpoint whose sessions the daemon cannot move."""
    found = [(one.get("pid"), one.get("trouble")) for one in endpoints]
    troubles = [(pid, trouble) for pid, trouble in found if isinstance(trouble, str) and trouble]
    return [f"OpenCode {pid}: {trouble}" if isinstance(pid, int) else trouble for pid, trouble in troubles]


def read(path: str | os.PathLike[str]) -> Heartbeat:
    """Return the last heartbeat, or an empty heartbeat if the file is missing or unreadable. Never raises."""
    try:
        raw = json.loads(read_plain(path))
    except (OSError, StateError, ValueError, RecursionError):
        raw = None
    return Heartbeat(raw if isinstance(raw, dict) else {})


def alive(pid: int) -> bool:
    """Return whether the process is running. A zombie is not considered running."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (ProcessLookupError, OverflowError):
        return False
    return not _is_zombie(pid)


def _is_zombie(pid: int) -> bool:
    """Return whether the process has ended but has not been reaped, which happens in containers without an init
    process.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123 (pathlib takes 5 ms of CPU time)
            return file.read().rpartition(b")")[2].split()[:1] == [b"Z"]
    except OSError:  # macOS has no /proc, so zombies are not recognized there
        return False


def _items(raw: Mapping[str, object], name: str) -> list[object]:
    value = raw.get(name)
    return value if isinstance(value, list) else []


def _iso(epoch: float) -> str:
    from ocwatchd.clock import rfc3339  # lazy import: commands that only read must start fast

    return rfc3339(epoch)


def _epoch(value: object) -> float | None:
    try:
        return moment(value, "time")
    except ValueError:
        return None
