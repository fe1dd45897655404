"""Wake-up hints from the file system: one watch per directory, on its nearest existing parent while it is missing.

Hints only: watchdog dies silently when its directory is removed, delays events after a rename, and macOS says nothing
while the writer holds the file open. Whoever is woken looks for himself, and looks without being woken too. The one
importer of watchdog.
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
"""Seconds before a watch that the system refused is tried again."""

HINTS_KEPT = 4096

_LIMITS = {
    errno.ENOSPC: "the limit of inotify watches is reached (fs.inotify.max_user_watches)",
    errno.EMFILE: "the limit of inotify instances or open files is reached (fs.inotify.max_user_instances)",
}

Identity = tuple[int, int]


@dataclass(slots=True)
class _Place:
    """One directory to be watched, and what is watched for it at present."""

    wanted: Path
    watched: Path | None = None
    identity: Identity | None = None
    watch: ObservedWatch | None = None
    refused: float = float("-inf")


class Waker:
    """Calls `wake` from a thread of its own whenever something may have changed in one of the directories."""

    def __init__(self, directories: Sequence[Path], wake: Callable[[], None], say: Callable[[str], None]) -> None:
        """Nothing is watched before `start`. `say` is told once of each loss and each recovery."""
        self._places = [_Place(path) for path in directories]
        self._wake = wake
        self._say = say
        self._observer: Any = None
        self._hints: set[str] = set()
        self._lock = threading.Lock()
        self._trouble: dict[Path, str] = {}

    def start(self) -> None:
        """Begin; a system without file-system events is said, not raised."""
        try:
            self._observer = self._new_observer()
            self._observer.start()
        except (ImportError, OSError, RuntimeError) as error:
            self._observer = None
            self._lost(Path("/"), f"no file-system events ({error}): looking every second")
            return
        self._recovered(Path("/"))
        self.check(0.0)

    def _new_observer(self) -> Any:
        from watchdog.observers import Observer  # 6 MiB and 40 ms: only who watches pays for it

        observer = Observer()
        observer.daemon = True
        return observer

    def _schedule(self, target: Path) -> ObservedWatch:
        worth = _worth_waking(files=any(place.wanted == target for place in self._places))
        handler = _Handler(self._changed)
        watch: ObservedWatch = self._observer.schedule(handler, str(target), recursive=False, event_filter=worth)
        return watch

    def check(self, now: float) -> None:
        """Put watches back in place: call this about once a second. Heals removed directories and a dead observer."""
        if self._observer is not None and not self._observer.is_alive():
            self._lost(Path("/"), "the file-system watcher died: starting another one, looking every second meanwhile")
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
        except OSError as error:
            place.refused = now
            reason = _LIMITS.get(error.errno or 0, error.strerror or str(error))
            self._lost(place.wanted, f"cannot watch {target}: {reason}; looking every second")
            return
        self._recovered(place.wanted)
        self._changed(None)  # what happened before the watch was in place is seen by looking

    def _unwatch(self, place: _Place) -> None:
        watch, place.watch = place.watch, None
        shared = any(other.watch == watch for other in self._places)
        if watch is not None and not shared:
            with contextlib.suppress(KeyError, OSError, RuntimeError):  # it may have gone with its directory
                self._observer.unschedule(watch)

    def _changed(self, path: str | None) -> None:
        with self._lock:
            if path is not None and len(self._hints) < HINTS_KEPT:
                self._hints.add(path)
        self._wake()

    def hints(self) -> set[Path]:
        """The files that changed since the last call."""
        with self._lock:
            hints, self._hints = self._hints, set()
        return set(map(Path, hints))

    def health(self) -> list[str]:
        """What does not work at present, for a person; empty if all is well."""
        return list(self._trouble.values())

    def _lost(self, what: Path, why: str) -> None:
        if self._trouble.get(what) != why:
            self._trouble[what] = why
            self._say(why)

    def _recovered(self, what: Path) -> None:
        if self._trouble.pop(what, None) is not None:
            self._say(f"watching {what} again")

    def stop(self) -> None:
        """End the thread."""
        observer, self._observer = self._observer, None
        if observer is not None:
            observer.stop()
            if observer.is_alive():
                observer.join(2.0)


class _Handler:
    """What watchdog calls. Not a FileSystemEventHandler, so that this module needs no import of it at class level."""

    def __init__(self, changed: Callable[[str | None], None]) -> None:
        self._report = changed

    def dispatch(self, event: FileSystemEvent) -> None:
        for raw in (event.src_path, getattr(event, "dest_path", "")):
            if raw:
                self._report(raw if isinstance(raw, str) else raw.decode(errors="surrogateescape"))


def _worth_waking(*, files: bool) -> list[type[FileSystemEvent]]:
    """What the system is asked to tell: of a directory of logs that a file grew, of a parent what appears in it.

    Not what our own looking causes (opened, closed), which would wake us twice a second. And no renames of files:
    watchdog holds back every event behind a rename for 500 ms. A renamed file is found by the next look, what is
    written into it, or into its successor, at once.
    """
    from watchdog import events

    if files:
        return [events.FileModifiedEvent, events.FileDeletedEvent, events.DirDeletedEvent]
    return [events.DirCreatedEvent, events.DirMovedEvent, events.DirDeletedEvent]


def _nearest(path: Path) -> tuple[Path, Identity | None]:
    """The directory itself, or the nearest parent that exists, and which one it is."""
    candidate = path
    while True:
        with contextlib.suppress(OSError):
            seen = candidate.stat()
            if stat.S_ISDIR(seen.st_mode):
                return candidate, (seen.st_dev, seen.st_ino)
        if candidate == candidate.parent:
            return candidate, None
        candidate = candidate.parent
