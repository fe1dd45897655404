"""Notify the user with a desktop notification, a toast in OpenCode, the user's own command, or ntfy.

The field `matter` of a notice names its subject, and only one notice is shown for each subject. No shell is used. A
notice that cannot be shown is skipped. A failing command is reported once on standard error.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections import OrderedDict
from collections.abc import Callable
from datetime import datetime
from functools import partial

from ocwatchd.clock import rfc3339
from ocwatchd.config.model import NoticeSettings
from ocwatchd.core.domain.snapshot import Endpoint
from ocwatchd.core.engine.messages import Notify
from ocwatchd.core.text.redact import reason_of
from ocwatchd.opencode.client.connect import client_of
from ocwatchd.opencode.client.request import EndpointError
from ocwatchd.time_words import span, when

MAX_SHOWN = 1000
"""Maximum number of subjects (`matter`) that are stored. The user is notified of a stored subject only once."""
PATIENCE = 5.0
"""Timeout of a notification program, in seconds."""
COMMAND_PATIENCE = 30.0
"""Timeout of the user's own command, in seconds. The command may contact a server."""
PUBLISH = (sys.executable, "-P", "-m", "ocwatchd.daemon.ntfy")
"""The command that publishes a notice on an ntfy server."""


class Notifier:
    """Shows notices, and stores their subjects (`matter`) until the daemon exits. The methods are called from worker
    threads.
    """

    def __init__(
        self,
        settings: NoticeSettings | None = None,
        say: Callable[[str], None] = lambda _: None,
        run_elsewhere: Callable[[Endpoint, Callable[[], None]], None] = lambda _, work: work(),
        name_of: Callable[[str], str] = lambda _: "",
    ) -> None:
        """Store the arguments.

        `say` prints a line to standard error. `run_elsewhere` runs, in a separate lane, work that waits for an
        endpoint, because a toast in a hung OpenCode must not delay other notices. `name_of` returns the name of a
        session by its id, or an empty string if the user has only one session.
        """
        self._name_of = name_of
        self._settings = settings or NoticeSettings()
        self._say, self._run_elsewhere = say, run_elsewhere
        self._shown: OrderedDict[str, None] = OrderedDict()
        self._faults: dict[str, str | None] = {}

    def configure(self, settings: NoticeSettings) -> None:
        """Use these settings from now on."""
        self._settings = settings

    def notify(self, notice: Notify) -> None:
        """Show a notice, unless a notice with the same `matter` was shown before."""
        if notice.matter in self._shown:
            return
        self._shown[notice.matter] = None
        if len(self._shown) > MAX_SHOWN:
            self._shown.popitem(last=False)
        # Names come from logs, so neither the desktop nor the terminal that shows the toast may interpret their
        # content.
        title, text = reason_of(notice.title), reason_of(self._worded(notice))
        settings, now = self._settings, datetime.now().astimezone()
        if settings.toast and notice.endpoint is not None:
            self._run_elsewhere(notice.endpoint, partial(_toast, notice.endpoint, title, text, notice.directory))
        if settings.silent_at(now.hour * 60 + now.minute):
            return
        if settings.desktop:
            _desktop(title, text)
        if settings.command:
            self._run(settings.command, notice, title, text, now.timestamp())
        if settings.ntfy is not None:
            event = {"address": settings.ntfy, "title": f"OpenCode: {title}", "text": text or title}
            self._report("ntfy", _fault_of("ntfy", PUBLISH, json.dumps(event).encode()))

    def _worded(self, notice: Notify) -> str:
        """Return the text of a notice with its time. If the user has several sessions, the session's name precedes the
        text.
        """
        text = notice.text
        if notice.at is not None:
            text = f"{text} until {when(notice.at, time.time())}".strip()
        name = self._name_of(notice.session) if notice.session else ""
        return f"{name}: {text}" if name else text

    def _run(self, command: tuple[str, ...], notice: Notify, title: str, text: str, now: float) -> None:
        """Run the user's own command. Report a failure, unless the previous run failed in the same way."""
        until = None if notice.at is None else rfc3339(notice.at)
        event = {"version": 1, "time": rfc3339(now), "title": title, "text": text, "session": notice.session,
                 "directory": notice.directory, "until": until}  # fmt: skip
        self._report("command", _fault_of(command[0], command, json.dumps(event).encode()))

    def _report(self, key: str, fault: str | None) -> None:
        """Print why a notice could not be delivered through the setting `notifications.KEY`, unless the previous notice
        failed in the same way.
        """
        if fault is not None and fault != self._faults.get(key):
            self._say(f"notifications.{key}: {fault}")
        self._faults[key] = fault


def _toast(endpoint: Endpoint, title: str, text: str, directory: str | None) -> None:
    try:
        client_of(endpoint).toast(text or title, "warning", title, directory)
    except EndpointError:
        return  # a server without a TUI cannot show toasts, but the user still gets the desktop notification


def _fault_of(name: str, command: tuple[str, ...], event: bytes) -> str | None:
    """Run a command with `event` on its standard input. Return a description of the failure, or None if the command
    succeeded. For our own program, the description includes its last line on standard error.
    """
    try:
        done = subprocess.run(command, input=event, timeout=COMMAND_PATIENCE, check=False, capture_output=True)
    except subprocess.TimeoutExpired:
        return f"{name} was stopped after {span(COMMAND_PATIENCE)}"
    except OSError as error:
        return f"{name}: {error.strerror or error}"
    if not done.returncode:
        return None
    # The output of the user's command is not printed, because it may contain data that must not appear in a bug report.
    last = done.stderr.decode(errors="replace").strip().rpartition("\n")[2] if command is PUBLISH else ""
    return f"the notice was not published: {last}" if last else f"{name} exited with code {done.returncode}"


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
        # Texts are passed as arguments, because a provider's text must never run as a script.
        script = "on run argv\ndisplay notification (item 2 of argv) with title (item 1 of argv)\nend run"
        return ["osascript", "-e", script, f"OpenCode: {title}", text]
    program = shutil.which("notify-send")
    # The `--` is needed because a title may begin with a dash.
    return [program, "--app-name=ocwatchd", "--", f"OpenCode: {title}", notification_body(text)] if program else None


def notification_body(text: str) -> str:
    """Return `text` escaped for notify-send, which decodes C escapes (`\\033` is an escape character) and markup."""
    return text.replace("\\", "\\\\").replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
