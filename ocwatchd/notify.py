"""Telling the person: a desktop notification and a toast in OpenCode, each matter once. Never fatal, never a shell."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections import OrderedDict
from datetime import datetime

from ocwatchd.core.messages import Tell
from ocwatchd.core.views import Door
from ocwatchd.opencode.api import Api
from ocwatchd.opencode.http import DoorError

MOST_MATTERS = 1000
"""Matters remembered, so that none is told twice."""
PATIENCE = 5.0
"""Seconds that a notification program may take."""


class Notifier:
    """Called from worker threads; remembers what was told in this life of the daemon."""

    def __init__(self) -> None:
        """Nothing was told yet."""
        self._told: OrderedDict[str, None] = OrderedDict()

    def tell(self, notice: Tell) -> None:
        """Show it, unless this matter was told before."""
        if notice.matter in self._told:
            return
        self._told[notice.matter] = None
        if len(self._told) > MOST_MATTERS:
            self._told.popitem(last=False)
        text = _worded(notice)
        if notice.door is not None:
            _toast(notice.door, notice.title, text, notice.directory)
        _desktop(notice.title, text)


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
