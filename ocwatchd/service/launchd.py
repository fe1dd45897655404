"""launchd's domain of the user: `dev.ocwatchd` in ~/Library/LaunchAgents.

Written against launchctl(1) and launchd.plist(5), checked by the shape of the file and with a stand-in for launchctl:
the project's tests do not run on macOS.
"""

from __future__ import annotations

import os
import plistlib
import re
import time
from collections.abc import Mapping
from pathlib import Path

from ocwatchd.paths import Paths
from ocwatchd.service import files, texts
from ocwatchd.service.commands import Answer, ask
from ocwatchd.service.values import FileState, Log, Look, ServiceFault

LABEL = "dev.ocwatchd"
BOOT_TRIES, BOOT_PAUSE = 5, 1.0
"""bootout returns before the job is gone, and a bootstrap until then fails with 5 (Input/output error)."""

_PID = re.compile(r"^\s*pid = (\d+)$", re.MULTILINE)
_STATE = re.compile(r"^\s*state = (.+)$", re.MULTILINE)
_RUNS = re.compile(r"^\s*runs = (\d+)$", re.MULTILINE)


class Launchd:
    """The manager behind `launchctl`."""

    name = "launchd"

    def __init__(self, paths: Paths, environ: Mapping[str, str]) -> None:
        """Nothing is asked before it is needed."""
        self._paths, self._environ = paths, environ
        self._file = paths.home / "Library" / "LaunchAgents" / f"{LABEL}.plist"
        self._known_domain: str | None = None

    def look(self) -> Look:
        """How the job and its process are."""
        state = files.standing(self._file, _ours, lambda content: texts.same_plist(content, self._wanted()))
        job = self._print()
        pid, words, runs = _PID.search(job.out), _STATE.search(job.out), _RUNS.search(job.out)
        return Look(
            self.name,
            self._file,
            state,
            enabled=state in (FileState.CURRENT, FileState.OUTDATED),  # RunAtLoad, and launchd loads the directory
            running=job.done and pid is not None,
            pid=int(pid[1]) if job.done and pid else None,
            phrase=words[1]
            if job.done and words
            else "not loaded"
            if state is not FileState.ABSENT
            else "not installed",
            restarts=max(int(runs[1]) - 1, 0) if job.done and runs else None,
            lingers=False,
        )

    def install(self, sandbox: bool | None = None, /) -> list[Path]:
        """Write the plist; launchd loads it at login. There is no `sandbox`."""
        if sandbox:
            raise ServiceFault("--sandbox is systemd's: launchd has nothing like it")
        if files.standing(self._file, _ours, lambda _: True) is FileState.FOREIGN:
            raise ServiceFault(f"{self._file} is there and is not ocwatchd's: it stays as it is; move it away first")
        return [self._file] if files.put(self._file, self._wanted()) else []

    def start(self) -> None:
        """Load it anew: a loaded job keeps the plist of before. RunAtLoad starts it."""
        files.ready_log(self._paths.service_log)
        self._boot_out()
        for attempt in range(BOOT_TRIES):
            if attempt:
                time.sleep(BOOT_PAUSE)
            answer = ask(["launchctl", "bootstrap", self._domain, str(self._file)])
            if answer.done:
                return
        raise ServiceFault(f"launchctl bootstrap {self._domain}: {answer.why}")

    def stop(self) -> None:
        """Unload it; the file stays, and brings it back at the next login."""
        self._boot_out()

    def uninstall(self) -> list[Path]:
        """Unload it and remove its file."""
        if files.standing(self._file, _ours, lambda _: True) is FileState.FOREIGN:
            return []
        self._boot_out()
        return files.remove([self._file], [])

    def log(self) -> Log:
        """The file that the plist names."""
        return Log(file=self._paths.service_log)

    def _boot_out(self) -> None:
        if not self._print().done:
            return
        answer = ask(["launchctl", "bootout", f"{self._domain}/{LABEL}"], 30.0)
        if not answer.done and self._print().done:
            raise ServiceFault(f"launchctl bootout {self._domain}/{LABEL}: {answer.why}")

    def _print(self) -> Answer:
        return ask(["launchctl", "print", f"{self._domain}/{LABEL}"])

    @property
    def _domain(self) -> str:
        """The desktop's domain, or the one that is there over ssh without a desktop."""
        if self._known_domain is None:
            desktop = f"gui/{os.getuid()}"
            self._known_domain = desktop if ask(["launchctl", "print", desktop]).done else f"user/{os.getuid()}"
        return self._known_domain

    def _wanted(self) -> bytes:
        return texts.plist(self._environ, texts.daemon_command(), self._paths.service_log)


def _ours(content: bytes) -> bool:
    try:
        document = plistlib.loads(content)
    except (ValueError, plistlib.InvalidFileException):
        return False
    return isinstance(document, dict) and document.get("Label") == LABEL
