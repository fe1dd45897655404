"""Manage `ocwatchd.service` and `ocwatchd-share.service` with systemd's user instance."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from ocwatchd.ownership import read_followed
from ocwatchd.paths import Paths
from ocwatchd.service import files, texts
from ocwatchd.service.commands import Answer, ask
from ocwatchd.service.values import DAEMON, SERVICES, SHARE, FileState, Log, Service, ServiceFault, ServiceStatus

SANDBOX = "sandbox.conf"
JOURNAL = Path("/run/systemd/journal/stdout")
"""The journald socket for standard error. Without it, systemd drops the daemon's output (systemd 252)."""
UNIT_CAP = 1 << 20
"""Maximum number of bytes that are read from a unit."""
START_LIMIT = 100.0
"""Timeout, in seconds, for a start. systemd gives up after 90 s."""
STOP_LIMIT = 30.0
NO_NAMESPACE = "226"
"""The exit status of a process whose namespaces systemd could not create."""

_APPEND = re.compile(r"^StandardError=append:(.+)$", re.MULTILINE)
_SEEN = (
    "LoadState", "FragmentPath", "UnitFileState", "ActiveState", "SubState", "MainPID", "NRestarts", "ExecMainStatus",
    "StatusText",
)  # fmt: skip


class Systemd:
    """The service manager systemd, used through `systemctl --user`."""

    name = "systemd"

    def __init__(
        self,
        paths: Paths,
        environ: Mapping[str, str],
        directory: Path,
        journal: Path = JOURNAL,
        service: Service = DAEMON,
    ) -> None:
        """Store the arguments. `directory` contains the user's units, and `journal` is journald's socket."""
        self._paths, self._environ, self._directory, self._journal = paths, environ, directory, journal
        self._service, self._name = service, service.unit
        self._unit = directory / self._name
        self._sandbox = directory / f"{self._name}.d" / SANDBOX

    def status(self) -> ServiceStatus:
        """Return the state of the unit and its process."""
        seen = self._properties()
        active, pid = seen.get("ActiveState", ""), int(seen.get("MainPID") or 0)
        return ServiceStatus(
            self.name,
            self._unit,
            self._state(seen),
            seen.get("UnitFileState", "").startswith("enabled"),
            active in ("active", "reloading"),
            pid or None,
            _phrase(seen),
            seen.get("StatusText", ""),
            int(seen.get("NRestarts") or 0),
            lingers(),
        )

    def install(self, sandbox: bool | None = None, /) -> list[Path]:
        """Write the unit and enable it.

        If `sandbox` is True, the sandbox drop-in, which needs namespaces, is also written. False removes it, and None
        changes nothing.
        """
        if self._state(self._properties()) is FileState.FOREIGN:
            raise ServiceFault(
                f"{self._unit} exists, but ocwatchd did not write it, so it is left unchanged; move it away first"
            )
        changed = [self._unit] if files.put(self._unit, os.fsencode(self._wanted())) else []
        if sandbox is False:
            changed += files.remove([self._sandbox], [self._sandbox.parent])
        elif sandbox and files.put(self._sandbox, os.fsencode(texts.sandbox(self._paths))):
            changed.append(self._sandbox)
        self._must("daemon-reload")
        self._must("enable", self._name)
        return changed

    def start(self) -> None:
        """Start the service and wait until it reports that it is ready."""
        files.ready_log(self._service.log(self._paths))
        self._ctl("reset-failed", self._name)  # earlier failures must not block a start that the user asked for
        answer = self._ctl("restart", self._name, patience=START_LIMIT)
        if not answer.done:
            raise ServiceFault(self._failure(answer))

    def stop(self) -> None:
        """Stop the service."""
        self._must("stop", self._name, patience=STOP_LIMIT)

    def uninstall(self) -> list[Path]:
        """Stop the service and remove its files. Uninstalling the daemon also uninstalls the share service."""
        beside: list[Path] = []
        if self._service is DAEMON and (self._directory / SHARE.unit).exists():
            beside = Systemd(self._paths, self._environ, self._directory, self._journal, SHARE).uninstall()
        seen = self._properties()
        if self._state(seen) is FileState.FOREIGN:
            return beside
        if seen.get("LoadState") == "loaded":
            self._must("disable", "--now", self._name, patience=STOP_LIMIT)
        gone = [*beside, *remove_files(self._directory, (self._service,))]
        self._must("daemon-reload")
        self._ctl("reset-failed", self._name)  # otherwise, a failed unit remains in the manager's list
        return gone

    def log(self) -> Log:
        """Return the log file that the unit names, or else the command that shows the journal."""
        with suppress(OSError):  # the unit itself is read, because `systemctl show` does not report the path (252)
            place = _APPEND.search(read_followed(self._unit, UNIT_CAP).decode(errors="replace"))
            if place:
                return Log(file=Path(place[1].replace("%%", "%")))
        return Log(command=partial(_journalctl, self._name))

    def _state(self, seen: Mapping[str, str]) -> FileState:
        fragment = seen.get("FragmentPath", "")
        if fragment and not _same_file(Path(fragment), self._unit):
            return FileState.FOREIGN  # a distribution has installed the unit, or the user has linked or masked it
        return files.standing(self._unit, _ours, self._is_current)

    def _is_current(self, content: bytes) -> bool:
        return texts.same_unit(content.decode(errors="replace"), self._wanted())

    def _wanted(self) -> str:
        log = None if self._journal.exists() else self._service.log(self._paths)
        return texts.unit(self._environ, texts.command_of(self._service), log, self._service)

    def _properties(self) -> dict[str, str]:
        answer = self._must("show", self._name, *(f"--property={name}" for name in _SEEN))
        return dict(line.split("=", 1) for line in answer.out.splitlines() if "=" in line)

    def _failure(self, answer: Answer) -> str:
        seen = self._properties()
        code = seen.get("ExecMainStatus", "0")
        if code == NO_NAMESPACE:
            return (
                "this host does not permit the sandbox (exit code 226); to install the service without it: "
                "ocwatch service install --no-sandbox"
            )
        why = f"exit code {code}" if code != "0" else answer.why
        return f"the service did not start: {_phrase(seen)}, {why}; to see its output: ocwatch service logs"

    def _must(self, *words: str, patience: float = 10.0) -> Answer:
        answer = self._ctl(*words, patience=patience)
        if not answer.done:
            raise ServiceFault(f"systemctl --user {' '.join(words[:2])}: {answer.why}")
        return answer

    def _ctl(self, *words: str, patience: float = 10.0) -> Answer:
        return ask(["systemctl", "--user", "--no-pager", "--no-ask-password", *words], patience)


def remove_files(directory: Path, services: Sequence[Service] = SERVICES) -> list[Path]:
    """Remove our units, their drop-ins and their links from a unit directory. systemd need not be running."""
    gone: list[Path] = []
    for service in services:
        unit = directory / service.unit
        if files.standing(unit, _ours, lambda _: True) is FileState.FOREIGN:
            continue
        wants, drop_ins = directory / "default.target.wants", directory / f"{service.unit}.d"
        places = [wants / service.unit, drop_ins / SANDBOX, unit]
        gone += files.remove(places, [wants, drop_ins, directory, directory.parent])
    return gone


def lingers() -> bool | None:
    """Return whether the user's services continue after the user's last logout, or None if this is unknown."""
    answer = ask(["loginctl", "show-user", str(os.getuid()), "--property=Linger", "--value"])
    return {"yes": True, "no": False}.get(answer.out.strip()) if answer.done else None


def _ours(content: bytes) -> bool:
    return content.startswith(texts.MARKER.encode())


def _same_file(one: Path, other: Path) -> bool:
    return one == other or one.resolve() == other.resolve()


def _phrase(seen: Mapping[str, str]) -> str:
    if seen.get("LoadState") == "not-found":
        return "not installed"
    return f"{seen.get('ActiveState', '?')} ({seen.get('SubState', '?')})"


def _journalctl(unit: str, lines: int, follow: bool) -> Sequence[str]:
    # The format `cat` omits journald's timestamp. Our lines already contain one, and a terminal of 80 columns has
    # little space.
    tail = ["--follow"] if follow else ["--no-pager"]
    return ["journalctl", "--user", f"--user-unit={unit}", f"--lines={lines}", "--output=cat", "--quiet", *tail]
