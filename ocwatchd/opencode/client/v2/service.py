"""Read the address and the password of OpenCode 2's background service from its registration.

While its service runs, OpenCode 2 keeps `service.json` in its state directory, or `service-CHANNEL.json` for channels
other than `latest` and `next` (0.0.0-next-16350). The files are never written, and are read only after a check of their
owner and mode.
"""

from __future__ import annotations

import ipaddress
import json
import os
import stat
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from ocwatchd.core.domain.snapshot import TcpAddress

USER = "opencode"
"""The user name of OpenCode 2's basic authentication, which cannot be configured (0.0.0-next-16350)."""
PASSWORDS = ("OPENCODE_PASSWORD", "OPENCODE_SERVER_PASSWORD")
"""Environment variables that may contain a server's password. The first one takes precedence."""
MAX_BYTES = 65_536
"""Maximum number of bytes read from a registration. A registration has about 170 bytes."""


@dataclass(frozen=True, slots=True)
class Service:
    """A registered service. Its `repr` omits the password, because endpoints are printed and written to the journal."""

    file: Path
    pid: int
    address: TcpAddress
    version: str | None
    password: str | None = field(repr=False)

    @property
    def auth(self) -> str | None:
        """The value of the Authorization header, or None if there is no password."""
        return basic(self.password) if self.password else None


def registered(state: Path) -> tuple[list[Service], list[str]]:
    """Return the services registered in OpenCode's state directory, and a message for each unusable file."""
    services, troubles = [], []
    try:
        files = sorted(path for path in state.iterdir() if _is_registration(path.name))
    except OSError:
        return [], []
    for path in files:
        try:
            services.append(_parsed(path, _read_private(path)))
        except FileNotFoundError:
            continue  # the service has just ended
        except (OSError, ValueError, RecursionError) as fault:
            troubles.append(f"{path} is not used: {getattr(fault, 'strerror', None) or fault}")
    return services, troubles


def registrations(state: Path) -> frozenset[tuple[str, int, int]]:
    """Return the name, inode and modification time of each registration. The result changes when a service starts or
    exits.
    """
    try:
        with os.scandir(state) as entries:
            found = [
                (entry.name, entry.stat(follow_symlinks=False)) for entry in entries if _is_registration(entry.name)
            ]
    except OSError:
        return frozenset()
    return frozenset((name, about.st_ino, about.st_mtime_ns) for name, about in found)


def basic(password: str) -> str:
    """Return the Authorization value for a password."""
    return "Basic " + b64encode(f"{USER}:{password}".encode()).decode()


def auth_in(environ: Mapping[str, str]) -> str | None:
    """Return the Authorization value for a server with this environment, or None if the server has no password."""
    password = next((value for name in PASSWORDS if (value := environ.get(name))), None)
    return basic(password) if password else None


def _is_registration(name: str) -> bool:
    return name == "service.json" or (name.startswith("service-") and name.endswith(".json"))


def _read_private(path: Path) -> bytes:
    """Return the content of a file that only this user can read or write.

    Raises:
        OSError: The file cannot be opened.
        ValueError: It is not a regular file, belongs to another user, or is accessible to other users.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        about = os.fstat(fd)
        if not stat.S_ISREG(about.st_mode):
            raise ValueError("it is not a plain file")
        if about.st_uid != os.getuid():
            raise ValueError("it belongs to another user")
        if about.st_mode & 0o077:
            raise ValueError(f"its mode is {stat.S_IMODE(about.st_mode):04o}, but it must be 0600")
        return os.read(fd, MAX_BYTES)
    finally:
        os.close(fd)


def _parsed(path: Path, data: bytes) -> Service:
    raw = json.loads(data)
    if not isinstance(raw, dict):
        raise ValueError("it does not contain a JSON object")
    pid, url, version, password = (raw.get(name) for name in ("pid", "url", "version", "password"))
    if not isinstance(pid, int) or isinstance(pid, bool) or not 0 < pid < 1 << 31:
        raise ValueError("it contains no valid process id")
    return Service(
        file=path,
        pid=pid,
        address=_address(url),
        version=version if isinstance(version, str) else None,
        password=password if isinstance(password, str) and password else None,
    )


def _address(url: object) -> TcpAddress:
    parts = urlsplit(url if isinstance(url, str) else "")
    host, port = parts.hostname or "", parts.port
    if parts.scheme != "http" or port is None:
        raise ValueError("it contains no http:// address")
    if host != "localhost" and not ipaddress.ip_address(host).is_loopback:
        raise ValueError(f"{host} is not on this machine")
    return TcpAddress(host, port)
