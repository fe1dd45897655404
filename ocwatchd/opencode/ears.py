"""Listens at every door: OpenCode's own event stream tells of a retry at once, its log up to a second late.

Measured on 1.18.33, 1.3.2, 1.1.65 and 1.0.185: `/global/event` carries `session.status` of every directory of the
process. One thread per door, blocked in a read; streamed text passes by as bytes and is never parsed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable

from ocwatchd.clock import Clock, SystemClock
from ocwatchd.core.messages import Heard
from ocwatchd.core.views import Door
from ocwatchd.opencode.api import Api, connect
from ocwatchd.opencode.http import DoorError, Trouble
from ocwatchd.opencode.records import Json, mapping, text

MOST = 64
"""Doors listened at; more OpenCode processes than that are heard through their logs."""
ROUTE = "/global/event"
WANTED = (b'"session.status"', b'"session.error"')
"""Events of other kinds are passed over unread."""


class Ears:
    """Keeps one listener per open door. Thread-safe."""

    def __init__(
        self,
        hear: Callable[[Heard], None],
        modern: Callable[[], bool],
        connect: Callable[[Door], Api] = connect,
        clock: Clock | None = None,
    ) -> None:
        """`hear` is called from the listeners' threads. `modern` says that OpenCode is 1.17 or newer here, as its log
        shows, so that its long list of routes need not be asked for the one wanted. `connect` shares that list with
        whoever asks there next: on 1.0.185 it takes 0.5 s the first time, and a limited session should not wait for it.
        """
        self._hear, self._modern, self._connect, self._clock = hear, modern, connect, clock or SystemClock()
        self._listening: set[Door] = set()
        self._mute: set[Door] = set()
        self._lock = threading.Lock()

    def listen(self, doors: Iterable[Door]) -> None:
        """Listen at these doors too. A listener ends with its door; the next call begins it anew."""
        for door in doors:
            with self._lock:
                if door in self._listening or door in self._mute or len(self._listening) >= MOST:
                    continue
                self._listening.add(door)
            threading.Thread(target=self._follow, args=(door,), name=f"ears {door.address}", daemon=True).start()

    def _follow(self, door: Door) -> None:
        try:
            api = self._connect(door)
            if not self._modern() and not api.has(ROUTE, None):
                self._mute.add(door)
                return
            for event in api.events(None, only=WANTED):
                session = troubled(event)
                if session is not None:
                    self._hear(Heard(session, self._clock.now()))
        except DoorError as fault:  # closed, or never open: the log tells what we then miss
            if fault.trouble in (Trouble.GARBAGE, Trouble.TOO_LARGE):
                self._mute.add(door)
        finally:
            with self._lock:
                self._listening.discard(door)


def troubled(event: Json) -> str | None:
    """The session of which an event says that a request was refused or a turn failed; None for other events."""
    properties = mapping(event.get("properties"))
    status = mapping(properties.get("status"))
    if event.get("type") == "session.error" or status.get("type") == "retry":
        return text(properties.get("sessionID"))
    return None
