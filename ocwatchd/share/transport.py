"""The interface and the status of a transport. A transport carries records between machines through a server or a
folder.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from ocwatchd.core.sharing.knowledge import ServerTime
from ocwatchd.core.sharing.record import Record
from ocwatchd.state.share_status import Link


@dataclass(frozen=True, slots=True)
class Condition:
    """The status of a transport: its state, the time at which this state began (epoch seconds), and the reason for a
    fault.

    `others` is the number of other connected machines, and `nodes` are their labels, if known. `offset` is the server's
    clock minus ours, and `latency` is the duration of a request, both in seconds.
    """

    state: str = Link.CONNECTING
    since: float = 0.0
    why: str = ""
    others: int | None = None
    nodes: tuple[str, ...] = ()
    offset: float | None = None
    latency: float | None = None


class Transport(Protocol):
    """Sends and receives records as lines. The methods do not block, and do not raise an error if the server or the
    folder fails.
    """

    place: str
    """The server's address without its password, or the path of the folder, for messages."""
    kind: str
    """`server` or `folder`."""

    def start(self) -> None:
        """Start the transport."""

    def offer(self, records: Iterable[Record]) -> None:
        """Send these records to the other machines, immediately or as soon as the server or folder can be reached."""

    def take(self) -> list[bytes]:
        """Return the lines received since the last call. The lines have not been validated."""

    def server_time(self) -> ServerTime | None:
        """Return the clock that determines the times in records, or None if it is not known yet."""

    def condition(self) -> Condition:
        """Return the current status of the transport."""

    def stop(self) -> None:
        """Stop the transport within two seconds."""
