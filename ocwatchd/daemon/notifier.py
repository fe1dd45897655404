"""Telling the person: a desktop notice, a toast in OpenCode, a command of theirs; each matter once. Never a shell.

Nothing here is fatal: what cannot be told is passed over, and a command that fails is said on standard error once.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Callable
from datetime import datetime

from ocwatchd.clock import rfc3339
from ocwatchd.config.model import NoticeSettings
from ocwatchd.core.messages import Tell
from ocwatchd.core.reason import reason_of
from ocwatchd.core.views import Door
from ocwatchd.opencode.api import Api
from ocwatchd.opencode.http import DoorError

MOST_MATTERS = 1000
"""Matters remembered, so that none is told twice."""
PATIENCE = 5.0
"""Seconds that a notification program may take."""
COMMAND_PATIENCE = 30.0
"""Seconds that the person's own command may take: it may ask a server of theirs."""


class Notifier:
    """Called from worker threads; remembers what was told in this life of the daemon."""

    def __init__(self, settings: NoticeSettings | None = None, say: Callable[[str], None] = lambda _: None) -> None:
        """Nothing was told yet. `settings` may be exchanged; `say` takes a line for standard error."""
        self.settings = settings or NoticeSettings()
        self._say = say
        self._told: OrderedDict[str, None] = OrderedDict()
        self._fault: str | None = None

    def tell(self, notice: Tell) -> None:
        """Show it, unless this matter was told before."""
        if notice.matter in self._told:
            return
        self._told[notice.matter] = None
        if len(self._told) > MOST_MATTERS:
            self._told.popitem(last=False)
        # Names come from logs: a terminal behind the toast, or the desktop, must not obey what stands in them.
        title, text = reason_of(notice.title), reason_of(_worded(notice))
        settings, now = self.settings, datetime.now().astimezone()
        if settings.toast and notice.door is not None:
            _toast(notice.door, title, text, notice.directory)
        if settings.silent_at(now.hour * 60 + now.minute):
            return
        if settings.desktop:
            _desktop(title, text)
        if settings.command:
            self._run(settings.command, notice, title, text, now.timestamp())

    def _run(self, command: tuple[str, ...], notice: Tell, title: str, text: str, now: float) -> None:
        """The person's own command; the first of several equal faults is said."""
        until = None if notice.at is None else rfc3339(notice.at)
        event = {"version": 1, "time": rfc3339(now), "title": title, "text": text, "session": notice.session,
                 "directory": notice.directory, "until": until}  # fmt: skip
        fault = _fault_of(command, json.dumps(event).encode())
        if fault is not None and fault != self._fault:
            self._say(f"notifications.command: {fault}")
        self._fault = fault


def _worded(notice: Tell) -> str:
    if notice.at is None:
        return notice.text
    moment = datetime.fromtimestamp(notice.at).astimezone()
    day = "" if moment.date() == datetime.now().astimezone().date() else f"{moment:%a %d %b} "
    return f"{notice.text} until {day}{moment:%H:%M:%S}".strip()


def _toast(door: Door, title: str, text: str, directory: str | None) -> None:
    try:
        Api(door).toast(text or title, "warning", title, directory)
    except DoorError:
        return  # a server without a TUI shows none, and the desktop notice is there


def _fault_of(command: tuple[str, ...], event: bytes) -> str | None:
    try:
        done = subprocess.run(command, input=event, timeout=COMMAND_PATIENCE, check=False, capture_output=True)
    except subprocess.TimeoutExpired:
        return f"{command[0]} was ended after {COMMAND_PATIENCE:.0f} s"
    except OSError as error:
        return f"{command[0]}: {error.strerror or error}"
    return f"{command[0]} ended with {done.returncode}" if done.returncode else None


def _desktop(title: str, text: str) -> None:
    command = _command(title, text)
    if command is None:
        return
    try:
        subprocess.run(command, timeout=PATIENCE, check=False, stdin=subprocess.DEVNULL, capture_output=True)
    except (OSError, subprocess.TimeoutExpired):
        return


def _command(title: str, text: str) -> list[str] | None:
    if sys.platform == "darwin":
        # Arguments, not script text: what a provider wrote must never be run.
        script = "on run argv\ndisplay notification (item 2 of argv) with title (item 1 of argv)\nend run"
        return ["osascript", "-e", script, f"OpenCode: {title}", text]
    program = shutil.which("notify-send")
    # `--` because a title may begin with a dash.
    return [program, "--app-name=ocwatchd", "--", f"OpenCode: {title}", text] if program else None
