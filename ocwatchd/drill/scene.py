"""What the drill's steps work with: the private home, the door in use, the person who types, and bounded waiting."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from typing import TypeVar

from ocwatchd.config.rules import builtin
from ocwatchd.core.limits import Certainty, LimitEvent
from ocwatchd.core.reading import Reading
from ocwatchd.core.views import Door, UnixAddress
from ocwatchd.drill.home import DrillHome
from ocwatchd.drill.provider import PRIMARY
from ocwatchd.errors import OcwatchError
from ocwatchd.opencode.api import Api
from ocwatchd.opencode.http import DoorError, Request, exchange
from ocwatchd.opencode.private import stop_group
from ocwatchd.opencode.program import last_words
from ocwatchd.opencode.records import mapping
from ocwatchd.state.entries import Entry, read_entries
from ocwatchd.state.journal import Journal

POLL = 0.02
REST = 5.0
"""Seconds that a session gets to come to rest; on an idle machine it is at rest before it is asked."""
AFTER_TURN = 0.3
"""Seconds after a turn before the next prompt: a person takes longer, and one that comes within the milliseconds in
which OpenCode's loop exits is lost (seen on 1.0.185)."""
PROMPT = "This is a fire drill: {}."
KEEP = "run it again with --keep and send the directory with a bug report"

Found = TypeVar("Found")


class StepFailed(OcwatchError):
    """What was expected did not come. `fatal`: the steps after it have nothing left to show."""

    def __init__(self, expected: str, seen: str, remedy: str, *, fatal: bool = False) -> None:
        """Sentences without a full stop."""
        super().__init__(f"expected {expected}; seen: {seen}")
        self.expected, self.seen, self.remedy, self.fatal = expected, seen, remedy, fatal


class Scene:
    """One drill's home, the session in it, and the time that is left."""

    def __init__(self, home: DrillHome, budget: float) -> None:
        """`budget`: seconds for everything; afterwards nothing is waited for any more."""
        self.home, self.session = home, ""
        self.door: Door
        self._deadline = time.monotonic() + budget

    # ---- waiting, never for ever

    def left(self, seconds: float) -> float:
        """`seconds`, or what is left for the drill if that is less."""
        return max(min(seconds, self._deadline - time.monotonic()), 0.01)

    def slow_down(self, seconds: float) -> None:
        """So much longer may the whole take: the machine was seen to be slow."""
        self._deadline += seconds

    @property
    def over(self) -> bool:
        """Whether the time for the whole drill is used up."""
        return time.monotonic() >= self._deadline

    def poll(self, look: Callable[[], Found | None], seconds: float) -> Found | None:
        """What `look` finds as soon as it is true; None if it is not within `seconds`."""
        until = time.monotonic() + self.left(seconds)
        while True:
            found = look()
            if found or time.monotonic() > until:
                return found or None
            time.sleep(POLL)

    # ---- the person at the keyboard

    def new_session(self) -> str:
        """A new session's id.

        Raises:
            StepFailed: OpenCode makes none.
            DoorError: the door does not answer.
        """
        answer = json.loads(self._post("/session", {}))
        session = mapping(answer).get("id")
        if not isinstance(session, str):
            raise StepFailed("a new session", f"{answer!r:.100}", KEEP, fatal=True)
        return session

    def prompt_when_free(self, which: str) -> float:
        """Send a prompt in the session; in a new one if the move has left that one stuck. When it was sent.

        Raises:
            DoorError: the door does not answer.
        """
        if self.poll(self.idle, REST):
            time.sleep(AFTER_TURN)
        else:
            self.session = self.new_session()
        return self.prompt(which)

    def prompt(self, which: str) -> float:
        """Send a prompt for the primary, as a TUI names its model with every prompt; when, in epoch seconds.

        Raises:
            DoorError: the door does not answer.
        """
        provider, _, model = PRIMARY.partition("/")
        parts = [{"type": "text", "text": PROMPT.format(which)}]
        body = {"parts": parts, "model": {"providerID": provider, "modelID": model}}
        sent = time.time()
        self._post(f"/session/{self.session}/prompt_async", body)
        return sent

    def _post(self, path: str, body: Mapping[str, object]) -> bytes:
        return exchange(self.door, Request("POST", path, json.dumps(body).encode()), self.left(10))

    # ---- what is looked at

    def answering_socket(self) -> Door | None:
        """The door that the plugin has opened; its file is there a moment before it answers (1.1.65)."""
        for path in self.home.paths.doors.glob("*.sock"):
            door = Door(UnixAddress(str(path)), self.door.pid, str(self.home.project))
            with suppress(DoorError):
                Api(door).path(self.left(1.0))
                return door
        return None

    def idle(self) -> bool:
        """Whether the session rests."""
        return self.session not in Api(self.door).status(str(self.home.project))

    def entry(self) -> Entry | None:
        """The primary on the register."""
        return read_entries(self.home.paths.blacklist).entries.get(PRIMARY)

    def known_end(self) -> Entry | None:
        """The same, as soon as its end is no guess."""
        entry = self.entry()
        return entry if entry is not None and entry.told_by != "backoff" else None

    def verified(self) -> bool:
        """Whether the daemon has written down that the session was moved."""
        return any(entry.get("what") == "moved" for entry in Journal(self.home.paths.journal).read())

    def logged(self) -> LimitEvent | None:
        """The first sure limit in OpenCode's own log."""
        rules = builtin()
        for path in sorted(self.home.paths.log_dir.glob("*.log")):
            for found in Reading(rules, file=str(path)).feed(path.read_bytes()):
                if isinstance(found, LimitEvent) and found.verdict.certainty is Certainty.SURE:
                    return found
        return None

    # ---- the daemon

    def start_daemon(self, stack: ExitStack, environ: Mapping[str, str]) -> subprocess.Popen[bytes]:
        """`ocwatchd` beside an OpenCode of this environment; it ends with the stack."""
        with self.home.output("daemon").open("wb") as sink:
            daemon = subprocess.Popen(
                [sys.executable, "-m", "ocwatchd"],
                cwd=self.home.project,
                env=self.home.daemon_environ(environ),
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                start_new_session=True,
            )
        stack.callback(stop_group, daemon, 5.0)
        return daemon

    def daemon_said(self) -> str:
        """The end of what it has said."""
        return last_words(self.home.output("daemon")) or "nothing"
