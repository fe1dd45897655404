"""Questions that we no longer wait for: their connections stay open until OpenCode has answered.

Closing one interrupts what is at work for it. 1.14.48, asked for its providers in a cold start, was loading them for a
prompt as well, and that prompt was then never run.
"""

from __future__ import annotations

import socket
import threading
import time
from collections import Counter
from collections.abc import Hashable

PATIENCE = 60.0
"""Seconds that a connection stays open; a cold start under load took up to 45 s (1.14.48)."""
PER_DOOR, MOST = 8, 64
"""Connections kept open at one door, and in all. Further ones are closed at once: the first asked for the work that the
others wait for, too."""
REST = 1.0
"""Seconds for the rest of an answer that has begun: closing before it is read would break it off."""
_CHUNK = 64 * 1024


class Unanswered:
    """Keeps connections open, each on a thread of its own that ends with it. Thread-safe."""

    def __init__(self, patience: float = PATIENCE, per_door: int = PER_DOOR, most: int = MOST) -> None:
        """`patience` in seconds."""
        self._patience, self._per_door, self._most = patience, per_door, most
        self._kept: Counter[Hashable] = Counter()
        self._lock = threading.Lock()

    def keep(self, door: Hashable, sock: socket.socket) -> None:
        """Take over this socket, whose request was sent whole, and close it once it has been answered."""
        with self._lock:
            if self._kept[door] >= self._per_door or self._kept.total() >= self._most:
                sock.close()
                return
            self._kept[door] += 1
        threading.Thread(target=self._wait, args=(door, sock), name="unanswered", daemon=True).start()

    def _wait(self, door: Hashable, sock: socket.socket) -> None:
        try:
            with sock:
                sock.settimeout(self._patience)
                sock.recv(1)
                sock.settimeout(REST)
                end = time.monotonic() + REST
                while sock.recv(_CHUNK) and time.monotonic() < end:
                    pass
        except OSError:
            return  # not answered, or the other side closed it
        finally:
            with self._lock:
                self._kept[door] -= 1
                if not self._kept[door]:
                    del self._kept[door]
