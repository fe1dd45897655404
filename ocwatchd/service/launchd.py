"""Manage the services `dev.ocwatchd` and `dev.ocwatchd.share` in ~/Library/LaunchAgents with launchd.

This module follows the manual pages launchctl(1) and launchd.plist(5). The tests do not run on macOS. They check the
format of the property list, and replace launchctl with a stub.
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
from ocwatchd.service.values import DAEMON, SHARE, FileState, Log, Service, ServiceFault, ServiceStatus

BOOT_TRIES, BOOT_PAUSE = 5, 1.0
"""Maximum number of attempts to load a job, and the interval between them in seconds.

`bootout` returns before the job has been removed. Until the job has been removed, `bootstrap` fails with 5
(Input/output error).
"""

_PID = re.compile(r"^\s*pid = (\d+)$", re.MULTILINE)
_STATE = re.compile(r"^\s*state = (.+)$", re.MULTILINE)
_RUNS = re.compile(r"^\s*runs = (\d+)$", re.MULTILINE)


class Launchd:
    """The service manager launchd, used through `launchctl`."""

    name = "launchd"

    def __init__(self, paths: Paths, environ: Mapping[str, str], service: Service = DAEMON) -> None:
        """Store the arguments. No program is run yet."""
        self._paths, self._environ, self._service = paths, environ, service
        self._file = paths.home / "Library" / "LaunchAgents" / f"{service.label}.plist"
        self._known_domain: str | None = None

    def status(self) -> ServiceStatus:
        """Return the state of the job and its process."""
        state = files.standing(self._file, self._ours, lambda content: texts.same_plist(content, self._wanted()))
        job = self._print()
        pid, words, runs = _PID.search(job.out), _STATE.search(job.out), _RUNS.search(job.out)
        unloaded = "not installed" if state is FileState.ABSENT else "not loaded"
        return ServiceStatus(
            self.name,
            self._file,
            state,
            enabled=state in (FileState.CURRENT, FileState.OUTDATED),  # RunAtLoad starts the job at login
            running=job.done and pid is not None,
            pid=int(pid[1]) if job.done and pid else None,
            phrase=words[1] if job.done and words else unloaded,
            restarts=max(int(runs[1]) - 1, 0) if job.done and runs else None,
            lingers=False,
        )

    def install(self, sandbox: bool | None = None, /) -> list[Path]:
        """Write the property list, which launchd loads at login. `sandbox` is not supported."""
        if sandbox:
            raise ServiceFault("--sandbox is for systemd; launchd has no such option")
        if files.standing(self._file, self._ours, lambda _: True) is FileState.FOREIGN:
            raise ServiceFault(
                f"{self._file} exists, but ocwatchd did not write it, so it is left unchanged; move it away first"
            )
        return [self._file] if files.put(self._file, self._wanted()) else []

    def start(self) -> None:
        """Start the job by loading its property list again, because a job that is already loaded would keep the old
        one.
        """
        files.ready_log(self._service.log(self._paths))
        self._boot_out()
        for attempt in range(BOOT_TRIES):
            if attempt:
                time.sleep(BOOT_PAUSE)
            answer = ask(["launchctl", "bootstrap", self._domain, str(self._file)])
            if answer.done:
                return
        raise ServiceFault(f"launchctl bootstrap {self._domain}: {answer.why}")

    def stop(self) -> None:
        """Unload the job. Its file is kept, so the job starts again at the next login."""
        self._boot_out()

    def uninstall(self) -> list[Path]:
        """Unload the job and remove its file. Uninstalling the daemon also uninstalls the share service."""
        beside: list[Path] = []
        if self._service is DAEMON and self._file.with_name(f"{SHARE.label}.plist").exists():
            beside = Launchd(self._paths, self._environ, SHARE).uninstall()
        if files.standing(self._file, self._ours, lambda _: True) is FileState.FOREIGN:
            return beside
        self._boot_out()
        return [*beside, *files.remove([self._file], [])]

    def log(self) -> Log:
        """Return the log file that the property list names."""
        return Log(file=self._service.log(self._paths))

    def _boot_out(self) -> None:
        if not self._print().done:
            return
        answer = ask(["launchctl", "bootout", f"{self._domain}/{self._service.label}"], 30.0)
        if not answer.done and self._print().done:
            raise ServiceFault(f"launchctl bootout {self._domain}/{self._service.label}: {answer.why}")

    def _print(self) -> Answer:
        return ask(["launchctl", "print", f"{self._domain}/{self._service.label}"])

    @property
    def _domain(self) -> str:
        """Return the domain of the user's desktop, or the user's own domain if there is no desktop, for example over
        ssh.
        """
        if self._known_domain is None:
            desktop = f"gui/{os.getuid()}"
            self._known_domain = desktop if ask(["launchctl", "print", desktop]).done else f"user/{os.getuid()}"
        return self._known_domain

    def _wanted(self) -> bytes:
        return texts.plist(
            self._environ, texts.command_of(self._service), self._service.log(self._paths), self._service
        )

    def _ours(self, content: bytes) -> bool:
        try:
            document = plistlib.loads(content)
        except (ValueError, plistlib.InvalidFileException):
            return False
        return isinstance(document, dict) and document.get("Label") == self._service.label
