"""systemd's user instance: `ocwatchd.service` in the user's own unit directory."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from ocwatchd.paths import Paths
from ocwatchd.service import files, texts
from ocwatchd.service.commands import Answer, ask
from ocwatchd.service.values import FileState, Log, Look, ServiceFault

UNIT = "ocwatchd.service"
SANDBOX = "sandbox.conf"
JOURNAL = Path("/run/systemd/journal/stdout")
"""journald's socket for standard error. Where it is missing systemd throws the daemon's lines away (252)."""
START_LIMIT = 100.0
"""Seconds; systemd itself gives up after 90."""
STOP_LIMIT = 30.0
NO_NAMESPACE = "226"
"""What systemd ends a process with that it could not give its namespaces."""

_APPEND = re.compile(r"^StandardError=append:(.+)$", re.MULTILINE)
_SEEN = (
    "LoadState", "FragmentPath", "UnitFileState", "ActiveState", "SubState", "MainPID", "NRestarts", "ExecMainStatus",
    "StatusText",
)  # fmt: skip


class Systemd:
    """The manager behind `systemctl --user`."""

    name = "systemd"

    def __init__(self, paths: Paths, environ: Mapping[str, str], directory: Path, journal: Path = JOURNAL) -> None:
        """`directory` is where the manager looks for the user's own units."""
        self._paths, self._environ, self._directory, self._journal = paths, environ, directory, journal
        self._unit = directory / UNIT
        self._sandbox = directory / f"{UNIT}.d" / SANDBOX

    def look(self) -> Look:
        """How the unit and its process are."""
        seen = self._properties()
        active, pid = seen.get("ActiveState", ""), int(seen.get("MainPID") or 0)
        return Look(
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
        """Write the unit and enable it. `sandbox`: the drop-in of what needs namespaces, too; False removes it."""
        if self._state(self._properties()) is FileState.FOREIGN:
            raise ServiceFault(f"{self._unit} is there and is not ocwatchd's: it stays as it is; move it away first")
        changed = [self._unit] if files.put(self._unit, self._wanted().encode()) else []
        if sandbox is False:
            changed += files.remove([self._sandbox], [self._sandbox.parent])
        elif sandbox and files.put(self._sandbox, texts.sandbox(self._paths).encode()):
            changed.append(self._sandbox)
        self._must("daemon-reload")
        self._must("enable", UNIT)
        return changed

    def start(self) -> None:
        """Start it and wait for its word that it serves."""
        files.ready_log(self._paths.service_log)
        self._ctl("reset-failed", UNIT)  # a person asks: what failed before counts no more
        answer = self._ctl("restart", UNIT, patience=START_LIMIT)
        if not answer.done:
            raise ServiceFault(self._failure(answer))

    def stop(self) -> None:
        """End it."""
        self._must("stop", UNIT, patience=STOP_LIMIT)

    def uninstall(self) -> list[Path]:
        """End it, forget it, leave nothing."""
        seen = self._properties()
        if self._state(seen) is FileState.FOREIGN:
            return []
        if seen.get("LoadState") == "loaded":
            self._must("disable", "--now", UNIT, patience=STOP_LIMIT)
        gone = remove_files(self._directory)
        self._must("daemon-reload")
        self._ctl("reset-failed", UNIT)  # or a failed one stays in the manager's list
        return gone

    def log(self) -> Log:
        """The journal, or the file that the unit names because there is none."""
        with suppress(OSError):  # `systemctl show` tells that it is appended to a file, and not to which (252)
            place = _APPEND.search(self._unit.read_text(errors="replace"))
            if place:
                return Log(file=Path(place[1].replace("%%", "%")))
        return Log(command=_journalctl)

    def _state(self, seen: Mapping[str, str]) -> FileState:
        fragment = seen.get("FragmentPath", "")
        if fragment and not _same_file(Path(fragment), self._unit):
            return FileState.FOREIGN  # a distribution's, or linked or masked by the user
        return files.standing(self._unit, _ours, self._is_current)

    def _is_current(self, content: bytes) -> bool:
        return texts.same_unit(content.decode(errors="replace"), self._wanted())

    def _wanted(self) -> str:
        log = None if self._journal.exists() else self._paths.service_log
        return texts.unit(self._environ, texts.daemon_command(), log)

    def _properties(self) -> dict[str, str]:
        answer = self._must("show", UNIT, *(f"--property={name}" for name in _SEEN))
        return dict(line.split("=", 1) for line in answer.out.splitlines() if "=" in line)

    def _failure(self, answer: Answer) -> str:
        seen = self._properties()
        code = seen.get("ExecMainStatus", "0")
        if code == NO_NAMESPACE:
            return "this host denies the sandbox (exit code 226); without it: ocwatch service install --no-sandbox"
        why = f"exit code {code}" if code != "0" else answer.why
        return f"the service does not start: {_phrase(seen)}, {why}; its last words: ocwatch service logs"

    def _must(self, *words: str, patience: float = 10.0) -> Answer:
        answer = self._ctl(*words, patience=patience)
        if not answer.done:
            raise ServiceFault(f"systemctl --user {' '.join(words[:2])}: {answer.why}")
        return answer

    def _ctl(self, *words: str, patience: float = 10.0) -> Answer:
        return ask(["systemctl", "--user", "--no-pager", "--no-ask-password", *words], patience)


def remove_files(directory: Path) -> list[Path]:
    """Remove our unit, its drop-in and its links from a unit directory; needs no running systemd."""
    unit = directory / UNIT
    if files.standing(unit, _ours, lambda _: True) is FileState.FOREIGN:
        return []
    wants, drop_ins = directory / "default.target.wants", directory / f"{UNIT}.d"
    return files.remove([wants / UNIT, drop_ins / SANDBOX, unit], [wants, drop_ins, directory, directory.parent])


def lingers() -> bool | None:
    """Whether the user's services go on after the last logout; None where nobody can tell."""
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


def _journalctl(lines: int, follow: bool) -> Sequence[str]:
    # `cat`: our lines carry their own time, and eighty columns are few.
    tail = ["--follow"] if follow else ["--no-pager"]
    return ["journalctl", "--user", f"--user-unit={UNIT}", f"--lines={lines}", "--output=cat", "--quiet", *tail]
