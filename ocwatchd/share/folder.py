"""Share cooldowns through a folder that is synchronized by other means (bind mount, Syncthing, NFS).

The folder contains one file per machine. Each machine writes only its own file, so that synchronization never causes a
conflict. Each file contains all records that its machine knows, so a machine that was offline does not miss any record.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path

from ocwatchd.clock import Clock
from ocwatchd.core.sharing.knowledge import ServerTime
from ocwatchd.core.sharing.merge import MAX_RECORDS
from ocwatchd.core.sharing.record import MAX_BYTES, NODE, Record
from ocwatchd.ownership import read_followed
from ocwatchd.share.transport import Condition
from ocwatchd.state.files import StateError, write_atomic
from ocwatchd.state.share_status import Link

SUFFIX = ".cooldowns"
MAX_FILE = MAX_RECORDS * (MAX_BYTES + 1)
"""Maximum size, in bytes, of another machine's file. Our own file is never larger."""
MAX_NODES = 64
"""Maximum number of other machines whose files are read."""
READABLE = 0o644
"""Mode of our file. A container of another user may have to read it, and its content is not private."""
RETRY = 30.0
"""Delay, in seconds, before a failed write of our file is tried again."""
READ_AGAIN = 60.0
"""Time, in seconds, after which unchanged files are read again. This is needed because a record from a machine whose
clock is ahead has a time in the future, and becomes valid only later.
"""

_FILE = re.compile(rf"({NODE.pattern}){re.escape(SUFFIX)}")
_Mark = tuple[int, int, int]


class FolderShare:
    """The transport that uses a team's folder. Each machine uses its own clock for the times in records."""

    kind = "folder"

    def __init__(self, folder: Path, node: str, known: Callable[[], Iterable[Record]], clock: Clock) -> None:
        """`known` returns all records to write to our file. `node` is the label of this machine."""
        self.place = str(folder)
        self._folder, self._node, self._known, self._clock = folder, node, known, clock
        self._own = folder / f"{node}{SUFFIX}"
        self._marks: dict[str, _Mark] = {}
        self._forgot = clock.now()
        self._written: bytes | None = None
        self._unwritten_since: float | None = 0.0
        self._condition = Condition(since=clock.now())

    def start(self) -> None:
        """Write our file, so that this machine is visible to other machines."""
        self.offer(())

    def offer(self, records: Iterable[Record]) -> None:
        """Write our file with all known records, which include `records`."""
        del records  # `known` also returns these records
        self._write()

    def take(self) -> list[bytes]:
        """Return the lines of other machines' files that have changed. If the last write of our own file failed, try it
        again.
        """
        if self._unwritten_since is not None and abs(self._clock.now() - self._unwritten_since) >= RETRY:
            self._write()
        if abs(self._clock.now() - self._forgot) >= READ_AGAIN:
            self._marks, self._forgot = {}, self._clock.now()
        lines: list[bytes] = []
        nodes: list[str] = []
        try:
            for entry in sorted(self._folder.iterdir())[: MAX_NODES * 4]:
                named = _FILE.fullmatch(entry.name)
                if named is not None and named[1] != self._node and len(nodes) < MAX_NODES:
                    nodes.append(named[1])
                    lines += self._news(entry)
        except OSError as fault:
            self._fail(fault.strerror or str(fault))
            return []
        self._recover(tuple(nodes))
        return lines

    def server_time(self) -> ServerTime | None:
        """Return this machine's clock, because a folder has no clock."""
        return ServerTime()

    def condition(self) -> Condition:
        """Return the current status of the folder."""
        return self._condition

    def stop(self) -> None:
        """Do nothing, because this transport has no thread."""

    def _news(self, path: Path) -> list[bytes]:
        """Return the lines of another machine's file if the file has changed. If the file cannot be read, the next call
        tries again.
        """
        try:
            info = path.stat()
            mark = (info.st_ino, info.st_mtime_ns, info.st_size)
            if self._marks.get(path.name) == mark:
                return []
            data = read_followed(path, MAX_FILE)
        except OSError:
            return []
        self._marks[path.name] = mark
        return [line for line in data.split(b"\n") if line]

    def _write(self) -> None:
        data = b"".join(record.line().encode() + b"\n" for record in self._known())
        if data == self._written and self._own.exists():
            return
        try:
            # The folder is not created: if it is not mounted yet, the mount would later hide our file.
            if not self._folder.is_dir():
                raise FileNotFoundError(2, "there is no such folder")
            write_atomic(self._own, data, READABLE)
        except (OSError, StateError) as fault:
            self._unwritten_since = self._clock.now()
            self._fail(getattr(fault, "strerror", None) or str(fault))
            return
        self._written, self._unwritten_since = data, None

    def _fail(self, why: str) -> None:
        if self._condition.state != Link.GONE or self._condition.why != why:
            self._condition = Condition(Link.GONE, self._clock.now(), why)

    def _recover(self, nodes: tuple[str, ...]) -> None:
        if self._unwritten_since is not None:
            return
        connected = self._condition.state == Link.CONNECTED
        since = self._condition.since if connected else self._clock.now()
        self._condition = Condition(Link.CONNECTED, since, others=len(nodes), nodes=nodes)
