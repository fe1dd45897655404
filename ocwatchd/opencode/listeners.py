"""Find out which user's process is listening at a TCP port of this machine before anything is sent to the port.

A process that receives a server password, a prompt or a session's text must belong to this user. Checking only the port
number is not sufficient: while OpenCode is not running, any user can listen there, and `localhost` may resolve to two
addresses.
"""

from __future__ import annotations

import ipaddress
import os
import re
import socket
import struct
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ocwatchd.ownership import user_name

if TYPE_CHECKING:
    import psutil

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
SocketAddress = tuple[str, int] | tuple[str, int, int, int]

TABLES = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
"""The kernel's lists of TCP sockets of all users (Linux)."""


class NotOurs(OSError):
    """Raised if another user's process is listening at the address, or the owner is unknown. The message does not end
    with a period.
    """


@dataclass(frozen=True, slots=True)
class Listener:
    """A listening socket. `mark` identifies the socket: its inode, or the pid of the process that holds it."""

    address: IpAddress
    user: int
    mark: int


@dataclass(frozen=True, slots=True)
class Place:
    """An address to connect to, and this user's sockets that listen there."""

    family: int
    address: SocketAddress
    listeners: frozenset[Listener]


def places(host: str, port: int, resolve: Callable[..., list[Any]] = socket.getaddrinfo) -> list[Place]:
    """Return every address that `host` resolves to, with its listeners.

    Raises:
        NotOurs: Another user is listening at one of the addresses, or one of them is not on this machine.
        OSError: The name cannot be resolved.
    """
    found = resolve(host, port, type=socket.SOCK_STREAM)
    table = listeners(port)
    return [Place(family, address, _own(table, address)) for family, _, _, _, address in dict.fromkeys(found)]


def unchanged(place: Place) -> bool:
    """Return whether the same sockets are still listening at this address.

    If the same sockets are listening before and after a connection is made, the connection leads to one of them. At any
    time, all listeners at a port belong to one user, and a connection that has not been accepted yet is closed together
    with its listener.
    """
    return _own(listeners(place.address[1]), place.address) == place.listeners


def listeners(port: int) -> list[Listener]:
    """Return the sockets that are listening at this port: those of all users on Linux, only this user's on other
    systems.

    Raises:
        NotOurs: The system does not list the sockets.
    """
    if sys.platform != "linux":
        return of_own_processes(port)
    with suppress(OSError):  # the kernel does not support socket diagnostics, or a sandbox forbids them
        return from_kernel(port)
    try:
        return from_tables(port)
    except OSError as fault:
        raise NotOurs(f"the owner of port {port} is unknown ({fault.filename}: {fault.strerror})") from fault


def _own(table: Iterable[Listener], address: SocketAddress) -> frozenset[Listener]:
    """Return this user's listeners at an address.

    Raises:
        NotOurs: Another user listens there, or the address is not on this machine.
    """
    there = ipaddress.ip_address(address[0].partition("%")[0])
    if not there.is_loopback:
        raise NotOurs(f"{address[0]} is not on this machine")
    found = _reached(list(table), there)
    for listener in found:
        if listener.user != os.geteuid():
            name = f"[{there}]" if there.version == 6 else str(there)
            raise NotOurs(
                f"{user_name(listener.user)} is listening at {name}:{address[1]}, so ocwatchd sends nothing to it"
            )
    return frozenset(found)


def _reached(table: list[Listener], there: IpAddress) -> list[Listener]:
    """Return the listeners that a connection to this address can reach.

    A socket at `::` accepts IPv4 connections if no IPv4 socket does.
    """
    same = [found for found in table if _plain(found.address) == there or _is_any(found.address, there.version)]
    if same or there.version == 6:
        return same
    return [found for found in table if _is_any(found.address, 6)]


def _plain(address: IpAddress) -> IpAddress:
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def _is_any(address: IpAddress, version: int) -> bool:
    plain = _plain(address)
    return plain.version == version and plain.is_unspecified


# ---- socket files

_SOL_LOCAL, _LOCAL_PEERCRED, _XUCRED = 0, 1, struct.Struct("=II68x")
"""Socket option and struct with which macOS identifies the peer of a socket file: version, user, groups."""


def check_peer(sock: socket.socket) -> None:
    """Check that this connection to a socket file leads to a process of this user.

    Raises:
        NotOurs: The connection leads to another user's process.
        OSError: The owner is unknown.
    """
    if sys.platform == "linux":
        _, user, _ = struct.unpack("3I", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    else:
        _, user = _XUCRED.unpack(sock.getsockopt(_SOL_LOCAL, _LOCAL_PEERCRED, _XUCRED.size))
    if user != os.geteuid():
        raise NotOurs(f"{user_name(user)} is listening there, so ocwatchd sends nothing to it")


# ---- Linux

_SOCK_DIAG, _BY_FAMILY, _TCP, _LISTENING = 4, 20, 6, 1 << 10
_REQUEST_DUMP, _INTERRUPTED = 0x301, 0x10
_DONE, _ERROR = 3, 2
_HEADER = struct.Struct("=IHHII")
"""Header of a netlink message: length, type, flags, sequence number, port."""
_REQUEST = struct.Struct("=BBBBI HH32x4x8x")
"""The struct inet_diag_req_v2: family, protocol, extensions, padding, states, then the ports."""
_ENTRY = struct.Struct("=B3x4x16s16x4x8x4x4x4xII")
"""The fields of the struct inet_diag_msg that are used: family, source address, user, inode."""
_ANSWER_TIMEOUT = 1.0
"""Timeout, in seconds, for the kernel's response."""


def from_kernel(port: int) -> list[Listener]:
    """Return the listeners at a port from the kernel's socket diagnostics.

    This takes 0.15 ms. Reading the same information from /proc took 16 ms on a machine with 2^18 hash buckets.

    Raises:
        OSError: The kernel does not respond.
    """
    with socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC, _SOCK_DIAG) as asking:
        asking.settimeout(_ANSWER_TIMEOUT)
        return [found for family in (socket.AF_INET, socket.AF_INET6) for found in _dump(asking, family, port)]


def _dump(asking: socket.socket, family: int, port: int) -> Iterator[Listener]:
    body = _REQUEST.pack(family, _TCP, 0, 0, _LISTENING, socket.htons(port), 0)
    asking.sendto(_HEADER.pack(_HEADER.size + len(body), _BY_FAMILY, _REQUEST_DUMP, family, 0) + body, (0, 0))
    while True:
        data = asking.recv(1 << 16)
        while len(data) >= _HEADER.size:
            length, kind, flags, _, _ = _HEADER.unpack_from(data)
            if kind == _DONE:
                return
            if kind == _ERROR or flags & _INTERRUPTED or length < _HEADER.size + _ENTRY.size:
                raise OSError("the kernel does not list listeners")
            of, source, user, inode = _ENTRY.unpack_from(data, _HEADER.size)
            yield Listener(ipaddress.ip_address(source[: 4 if of == socket.AF_INET else 16]), user, inode)
            data = data[(length + 3) & ~3 :]


def from_tables(port: int) -> list[Listener]:
    """Return the listeners at a port from the tables in /proc.

    Raises:
        OSError: The tables cannot be read.
    """
    return [found for table in TABLES for found in _rows(table, port)]


@lru_cache(maxsize=64)
def _row(port: int) -> re.Pattern[bytes]:
    """Return a pattern that matches the line of a listening socket (state 0A) in /proc/net/tcp. Its groups are address,
    user and inode.
    """
    queues_and_timers = rb" [0-9A-F:]+ [0-9A-F:]+ [0-9A-F]+"
    return re.compile(
        rb"^ *\d+: ([0-9A-F]+):%04X \S+ 0A%s +(\d+) +\d+ (\d+) " % (port, queues_and_timers), re.MULTILINE
    )


def _rows(table: Path, port: int) -> list[Listener]:
    """Return the listeners in one table. The IPv6 table is missing if the kernel has no IPv6."""
    try:
        lines = table.read_bytes()
    except FileNotFoundError:
        if table is TABLES[0]:
            raise
        return []
    return [Listener(_address(row[1]), int(row[2]), int(row[3])) for row in _row(port).finditer(lines)]


def _address(text: bytes) -> IpAddress:
    """Parse an address in hexadecimal 32-bit words, each in the byte order of this machine."""
    words = (int(text[at : at + 8], 16).to_bytes(4, sys.byteorder) for at in range(0, len(text), 8))
    return ipaddress.ip_address(b"".join(words))


# ---- other systems

_holders: dict[int, int] = {}
"""The pid of the process that last listened at each port. It is checked first, because checking all processes takes up
to 0.3 s.
"""


def of_own_processes(port: int) -> list[Listener]:
    """Return this user's listeners at a port, as found in the socket lists of this user's processes.

    On macOS, only root can list the sockets of other users. However, two users cannot share a port of one address
    family on macOS, so if this user listens at the port, no other user does.
    """
    import psutil  # lazy import: not needed while no OpenCode is running

    found: list[Listener] = []
    first = _holders.get(port)
    for pid in [*([first] if first else []), *psutil.pids()]:
        try:
            process = psutil.Process(pid)
            if process.uids().effective == os.geteuid():
                found = _held(process, port)
        except (psutil.Error, OSError):
            continue
        if found:
            _holders[port] = pid
            break
    return found


def _held(process: psutil.Process, port: int) -> list[Listener]:
    # psutil 6 renamed this method; its old name still works, with a warning.
    connections = getattr(process, "net_connections", None) or process.connections
    held = [found for found in connections(kind="tcp") if found.status == "LISTEN" and found.laddr]
    pid, user = process.pid, os.geteuid()
    return [Listener(ipaddress.ip_address(found.laddr[0]), user, pid) for found in held if found.laddr[1] == port]
