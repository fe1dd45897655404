"""The interface of the clients for both generations of OpenCode."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

from ocwatchd.clock import Clock
from ocwatchd.core.domain.capability import Capacity
from ocwatchd.core.domain.snapshot import SessionSnapshot
from ocwatchd.opencode.client.v1.responses import Session

Stored = Callable[[str], Session | None]
"""Returns a session from the message store, or None if the store does not contain it."""


class Client(Protocol):
    """A client of one endpoint. Its methods raise only EndpointError."""

    def ping(self, limit: float) -> None:
        """Check that the endpoint responds within `limit` seconds."""
        ...

    def snapshot(self, session: str, stored: Session | None, clock: Clock) -> SessionSnapshot:
        """Return the snapshot of one session. Passing `stored` saves one request."""
        ...

    def waiting(self, directory: str, stored: Stored, clock: Clock) -> Iterator[SessionSnapshot]:
        """Yield the sessions in a directory that are waiting for a retry. The client for OpenCode 2 ignores
        `directory`, and yields the waiting sessions of all directories.
        """
        ...

    def capacities(self, directory: str | None) -> Mapping[str, Capacity]:
        """Return the capacity of each model, by `provider/model`."""
        ...

    def models(self, directory: str | None) -> Mapping[str, frozenset[str]]:
        """Return the names of the available models, by provider."""
        ...

    def agents(self, directory: str | None) -> frozenset[str]:
        """Return the names of the agents."""
        ...

    def toast(self, text: str, variant: str, title: str | None, directory: str | None) -> None:
        """Show a notice in the TUI, if this version of OpenCode supports notices."""
        ...

    def stop(self, session: str, directory: str | None) -> None:
        """Stop the session's turn."""
        ...
