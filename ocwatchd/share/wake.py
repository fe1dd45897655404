"""Wait until a watched file is replaced, or until another thread ends the wait.

Linux reports a replaced file through inotify; elsewhere the share process checks its files twenty times a second.
`logs.watcher` is not used, because our files are replaced by renaming, and watchdog delays events by 500 ms after a
rename.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import struct
import sys
import time
from collections.abc import Mapping
from pathlib import Path

_MOVED_TO, _CLOSE_WRITE = 0x80, 0x8
_EVENT = struct.Struct("iIII")
POLL = 0.05
"""Interval, in seconds, between checks on systems without inotify."""


class Wake:
    """Waits for a given time, but stops waiting early if a watched file is replaced or written, or if a thread calls
    `wake`.
    """

    def __init__(self, watched: Mapping[Path, frozenset[str] | None]) -> None:
        """`watched` maps each directory to the names of the files to watch in it, or to None to watch all its files."""
        self._watched = watched
        self._read, self._write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC) if hasattr(os, "pipe2") else _pipe()
        self._inotify = _inotify()
        self._open = tuple(end for end in (self._read, self._write, self._inotify) if end is not None)
        self._names: dict[int, frozenset[str] | None] = {}
        self.watch()

    def watch(self) -> None:
        """Watch the directories. This must be called again from time to time, because directories can appear or be
        replaced.
        """
        if self._inotify is None:
            return
        libc = ctypes.CDLL(None, use_errno=True)
        for directory, names in self._watched.items():
            number = libc.inotify_add_watch(self._inotify, os.fsencode(directory), _MOVED_TO | _CLOSE_WRITE)
            if number >= 0:
                self._names[number] = names

    def wake(self) -> None:
        """End the current wait, or the next wait if none is in progress."""
        with contextlib.suppress(BlockingIOError):  # if the pipe is full, the waiting thread wakes anyway
            if self._open:
                os.write(self._write, b".")

    def wait(self, seconds: float) -> None:
        """Wait for an event, but at most `seconds` seconds."""
        deadline = time.monotonic() + seconds
        sources = [self._read] if self._inotify is None else [self._read, self._inotify]
        while (left := deadline - time.monotonic()) > 0:
            patience = left if self._inotify is not None else min(left, POLL)
            ready, _, _ = select.select(sources, (), (), patience)
            if self._read in ready:
                with contextlib.suppress(BlockingIOError):
                    os.read(self._read, 4096)
                return
            if self._inotify is None or (self._inotify in ready and self._matters()):
                return

    def _matters(self) -> bool:
        assert self._inotify is not None
        try:
            data = os.read(self._inotify, 65536)
        except BlockingIOError:
            return False
        matters, at = False, 0
        while at + _EVENT.size <= len(data):
            number, mask, _, length = _EVENT.unpack_from(data, at)
            name = data[at + _EVENT.size : at + _EVENT.size + length].rstrip(b"\0").decode(errors="replace")
            at += _EVENT.size + length
            names = self._names.get(number, frozenset())
            matters |= bool(mask & (_MOVED_TO | _CLOSE_WRITE)) and (names is None or name in names)
        return matters

    def close(self) -> None:
        """Close the descriptors. Further calls do nothing."""
        descriptors, self._open = self._open, ()
        for descriptor in descriptors:
            os.close(descriptor)


def _inotify() -> int | None:
    """Return an inotify descriptor. Return None if the system has no inotify, or if the user's maximum number of
    instances has been reached.
    """
    if not sys.platform.startswith("linux"):
        return None
    number: int = ctypes.CDLL(None, use_errno=True).inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    return number if number >= 0 else None


def _pipe() -> tuple[int, int]:
    ends = os.pipe()
    for end in ends:
        os.set_blocking(end, False)
    return ends
