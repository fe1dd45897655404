"""Watch directories for changes, so that the daemon polls immediately. Only this module imports watchdog.

Each directory has one watch. While the directory is missing, its nearest existing parent is watched instead. Events are
only hints, because watchdog stops silently when its directory is removed, delays events after a rename, and on macOS
reports nothing while the writer keeps the file open. The daemon therefore also polls at regular intervals.
"""

from __future__ import annotations

import contextlib
import errno
import stat
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from watchdog.events import FileSystemEvent
    from watchdog.observers.api import ObservedWatch

RETRY = 60.0
"""Delay, in seconds, before a watch that the system has refused is requested again."""

MAX_HINTS = 4096
"""Maximum number of changed files that are recorded between two polls."""

_LIMITS = {
    errno.ENOSPC: "the maximum number of inotify watches was reached (fs.inotify.max_user_watches)",
    errno.EMFILE: "the maximum number of inotify instances or open files was reached (fs.inotify.max_user_instances)",
}

Identity = tuple[int, int]
"""Device and inode, which identify a directory."""


@dataclass(slots=True)
class _Place:
    """A directory to watch (`wanted`), and the directory that is actually watched (`watched`). While `wanted` is
    missing, its nearest existing parent is watched.
    """

    wanted: Path
    watched: Path | None = None
    identity: Identity | None = None
    watch: ObservedWatch | None = None
    refused: float = float("-inf")


class Waker:
    """Watches several directories, and calls `wake` from its own thread whenever a log may have changed."""

    def __init__(self, directories: Sequence[Path], wake: Callable[[], None], say: Callable[[str], None]) -> None:
        """Store the arguments. `start` begins to watch. `say` is called with a message whenever a watch is lost or
        restored.
        """
        self._places = [_Place(path) for path in directories]
        self._wake = wake
        self._say = say
        self._observer: Any = None
        self._hints: set[str] = set()
        self._lock = threading.Lock()
        self._trouble: dict[Path, str] = {}

    def start(self) -> None:
        """Start watching. If the system provides no file-system events, report this with `say` instead of raising an
        exception.
        """
        try:
            self._observer = self._new_observer()
            self._observer.start()
        except (ImportError, OSError, RuntimeError) as error:
            self._observer = None
            self._lost(Path("/"), f"no file-system events ({error}): polling every second")
            return
        self._recovered(Path("/"))
        self.check(0.0)

    def _new_observer(self) -> Any:
        from watchdog.observers import Observer  # lazy import: it takes 6 MiB and 40 ms

        observer = Observer()
        observer.daemon = True
        return observer

    def _schedule(self, target: Path) -> ObservedWatch:
        worth = _worth_waking(files=any(place.wanted == target for place in self._places))
        handler = _Handler(self._changed)
        watch: ObservedWatch = self._observer.schedule(handler, str(target), recursive=False, event_filter=worth)
        return watch

    def check(self, now: float) -> None:
        """Restore lost watches after a directory was removed or the observer has stopped. Call this about once a
        second.
        """
        if self._observer is not None and not self._observer.is_alive():
            self._lost(
                Path("/"),
                "the file-system watcher has stopped: ocwatchd restarts it, and polls every second in the meantime",
            )
            for place in self._places:
                place.watch, place.watched, place.identity = None, None, None
            self.start()
        if self._observer is not None:
            for place in self._places:
                self._place(place, now)

    def _place(self, place: _Place, now: float) -> None:
        target, which = _nearest(place.wanted)
        if place.watch is not None and (target, which) == (place.watched, place.identity):
            return
        if place.watch is None and 0 <= now - place.refused < RETRY:
            return
        self._unwatch(place)
        try:
            place.watch = self._schedule(target)
            place.watched, place.identity = target, which
        except (OSError, ValueError) as error:
            place.refused, number = now, error.errno if isinstance(error, OSError) else None
            reason = _LIMITS.get(number or 0) or getattr(error, "strerror", None) or str(error)
            self._lost(place.wanted, f"cannot watch {target}: {reason}; polling every second")
            return
        self._recovered(place.wanted)
        self._changed(None)  # the poll that this triggers finds changes from before the watch was set

    def _unwatch(self, place: _Place) -> None:
        watch, place.watch = place.watch, None
        shared = any(other.watch == watch for other in self._places)
        if watch is not None and not shared:
            # the watch may have been removed together with its directory
            with contextlib.suppress(KeyError, OSError, RuntimeError):
                self._observer.unschedule(watch)

    def _changed(self, path: str | None) -> None:
        with self._lock:
            if path is not None and len(self._hints) < MAX_HINTS:
                self._hints.add(path)
        self._wake()

    def hints(self) -> set[Path]:
        """Return the files that have changed since the last call."""
        with self._lock:
            hints, self._hints = self._hints, set()
        return set(map(Path, hints))

    def health(self) -> list[str]:
        """Return a message for the user about each watch that is currently not working."""
        return list(self._trouble.values())

    def _lost(self, what: Path, why: str) -> None:
        if self._trouble.get(what) != why:
            self._trouble[what] = why
            self._say(why)

    def _recovered(self, what: Path) -> None:
        if self._trouble.pop(what, None) is not None:
            self._say(f"watching {what} again")

    def stop(self) -> None:
        """Stop watching, and stop the thread."""
        observer, self._observer = self._observer, None
        if observer is not None:
            observer.stop()
            if observer.is_alive():
                observer.join(2.0)


class _Handler:
    """The event handler that watchdog calls.

    It does not inherit from FileSystemEventHandler, so that this module need not import that class.
    """

    def __init__(self, changed: Callable[[str | None], None]) -> None:
        self._report = changed

    def dispatch(self, event: FileSystemEvent) -> None:
        for raw in (event.src_path, getattr(event, "dest_path", "")):
            if raw:
                self._report(raw if isinstance(raw, str) else raw.decode(errors="surrogateescape"))


def _worth_waking(*, files: bool) -> list[type[FileSystemEvent]]:
    """Return the types of events to watch for: changes of files in a directory of logs (if `files` is True), or new
    directories in a parent directory.

    Events caused by ocwatchd's own polling (opened, closed) are excluded, because they would wake the daemon twice a
    second. Renames of files are excluded, because watchdog delays all events by 500 ms after a rename. The next poll
    finds a renamed file, and writes to it or to its successor are reported immediately.
    """
    from watchdog import events  # lazy import: polling without watches does not need it

    if files:
        return [events.FileModifiedEvent, events.FileDeletedEvent, events.DirDeletedEvent]
    return [events.DirCreatedEvent, events.DirMovedEvent, events.DirDeletedEvent]


def _nearest(path: Path) -> tuple[Path, Identity | None]:
    """Return the directory, or its nearest existing parent if the directory does not exist, together with the device
    and inode. These are None if not even the root directory can be examined.
    """
    candidate = path
    while True:
        with contextlib.suppress(OSError, ValueError):
            seen = candidate.stat()
            if stat.S_ISDIR(seen.st_mode):
                return candidate, (seen.st_dev, seen.st_ino)
        if candidate == candidate.parent:
            return candidate, None
        candidate = candidate.parent
