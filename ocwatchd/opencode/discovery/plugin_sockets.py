"""Find the companion plugin's socket files, and the TCP sockets of processes.

On Linux, the kernel's tables of TCP sockets are read once per search for all processes. psutil would read them again
for each process, which takes 9 ms of CPU time per process, or 0.45 s for 50 OpenCode processes, on a machine with 650
connections.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import stat
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ocwatchd.errors import NotAFile, StateError
from ocwatchd.opencode.client.transport import is_listening
from ocwatchd.ownership import check_directory, open_plain

MAX_ABOUT = 65_536
"""Maximum number of bytes read from a process's `PID.json`. The file usually has about 200 bytes."""


def own_sockets(directory: Path | None) -> list[Path]:
    """Return the socket files in a directory. The list is empty if another user could have written to the directory."""
    return [path for path in _files(directory, "*.sock") if _is_own_socket(path)]


def rival_in(directory: Path | None, pid: int) -> str | None:
    """Return the reason why the companion plugin is inactive in this process, as recorded in the process's `PID.json`.
    Return None if the plugin is active.
    """
    why = _about(directory, pid).get("standing_back")
    return why[:200] if isinstance(why, str) and why else None


def plugin_in(directory: Path | None, pid: int) -> bool:
    """Return whether the companion plugin is active in this process, according to the process's `PID.json`."""
    about = _about(directory, pid)
    return isinstance(about.get("plugin"), str) and not about.get("standing_back")


def hooks_in(directory: Path | None, pid: int) -> tuple[str, ...]:
    """Return the names of the companion plugin's hooks that this process has called, according to the process's
    `PID.json`.
    """
    hooks = _about(directory, pid).get("hooks")
    return tuple(str(hook) for hook in hooks) if isinstance(hooks, list) else ()


def _about(directory: Path | None, pid: int) -> dict[str, object]:
    try:
        (file,) = _files(directory, f"{pid}.json")
        with open(open_plain(file), "rb") as about:
            found = json.loads(about.read(MAX_ABOUT))
    except (OSError, NotAFile, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def clear_stale(directory: Path) -> None:
    """Remove the files `PID.sock` and `PID.json` of dead processes.

    A process is considered dead if its pid does not exist and its socket has no listener. Checking the pid alone is not
    enough, because the process may be running in a container.
    """
    for pid in {path.stem for path in _files(directory, "[0-9]*.*") if path.stem.isdecimal()}:
        socket = directory / f"{pid}.sock"
        if _runs(int(pid)) or (_is_own_socket(socket) and is_listening(socket)):
            continue
        with contextlib.suppress(OSError):
            socket.unlink(missing_ok=True)
            socket.with_suffix(".json").unlink(missing_ok=True)


def _files(directory: Path | None, pattern: str) -> list[Path]:
    if directory is None:
        return []
    try:
        about = directory.lstat()
        check_directory(directory)
        # If other users could write to the directory before this call, its files are ignored. `check_directory` has now
        # corrected the mode.
        closed = stat.S_ISDIR(about.st_mode) and not about.st_mode & 0o077
        return sorted(directory.glob(pattern)) if closed else []
    except (OSError, StateError):
        return []


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # the directory belongs to another user, or its name is not a pid
        return True
    return True


def _is_own_socket(path: Path) -> bool:
    try:
        about = path.lstat()
    except OSError:
        return False
    return stat.S_ISSOCK(about.st_mode) and about.st_uid == os.getuid()


_ESTABLISHED, _LISTEN = b"01", b"0A"
_SOCKET = re.compile(r"socket:\[(\d+)\]")
_TABLES = (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6))

Address = tuple[str, int]
"""Host and port."""


@dataclass(frozen=True, slots=True)
class Sockets:
    """The addresses at which a process is listening, and those that it is connected to."""

    listening: tuple[Address, ...] = ()
    connected: tuple[Address, ...] = ()


def sockets_of(pids: Iterable[int], tables: Path = Path("/proc/net")) -> dict[int, Sockets]:
    """Return the TCP sockets of each process. Processes that have ended or whose files cannot be listed are left
    out.
    """
    if not (tables / "tcp").exists():
        return {pid: found for pid in pids if (found := _by_psutil(pid)) is not None}
    by_inode = dict(_read(tables))
    return {pid: found for pid in pids if (found := _of(pid, by_inode)) is not None}


def _read(tables: Path) -> Iterator[tuple[str, tuple[bytes, Address]]]:
    """Yield the inode, the state and one address of each socket on the machine: the socket's own address if it is
    listening, otherwise its peer's address.
    """
    for name, family in _TABLES:
        try:
            lines = (tables / name).read_bytes().splitlines()[1:]
        except OSError:  # the kernel does not support IPv6
            continue
        for fields in map(bytes.split, lines):
            if len(fields) > 9 and fields[3] in (_LISTEN, _ESTABLISHED):
                address = fields[1] if fields[3] == _LISTEN else fields[2]
                yield fields[9].decode(), (fields[3], _address(address.decode(), family))


def _address(text: str, family: socket.AddressFamily) -> Address:
    """Parse an address such as `0100007F:1F90`: four-byte words in the machine's byte order, and a port."""
    host, _, port = text.partition(":")
    words = [int(host[index : index + 8], 16) for index in range(0, len(host), 8)]
    return socket.inet_ntop(family, struct.pack(f"={len(words)}I", *words)), int(port, 16)


def _of(pid: int, by_inode: dict[str, tuple[bytes, Address]]) -> Sockets | None:
    found: dict[tuple[bytes, Address], None] = {}
    try:
        for entry in os.scandir(f"/proc/{pid}/fd"):
            try:
                match = _SOCKET.fullmatch(os.readlink(entry.path))
            except OSError:  # the socket was closed in the meantime
                continue
            known = by_inode.get(match[1]) if match else None
            if known is not None:
                found[known] = None
    except OSError:
        return None
    return _sorted(found)


def _by_psutil(pid: int) -> Sockets | None:
    import psutil  # lazy import: not needed while no OpenCode is running

    try:
        process = psutil.Process(pid)
        # psutil 6 renamed this method; its old name still works, with a warning.
        connections = getattr(process, "net_connections", None) or process.connections
        found: dict[tuple[bytes, Address], None] = {}
        for each in connections(kind="tcp"):
            if each.status == "LISTEN" and each.laddr:
                found[_LISTEN, (each.laddr[0], each.laddr[1])] = None
            elif each.status == "ESTABLISHED" and each.raddr:
                found[_ESTABLISHED, (each.raddr[0], each.raddr[1])] = None
    except (psutil.Error, OSError):
        return None
    return _sorted(found)


def _sorted(found: Iterable[tuple[bytes, Address]]) -> Sockets:
    by_state = {
        wanted: tuple(address for state, address in found if state == wanted) for wanted in (_LISTEN, _ESTABLISHED)
    }
    return Sockets(by_state[_LISTEN], by_state[_ESTABLISHED])
