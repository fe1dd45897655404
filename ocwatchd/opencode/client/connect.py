"""Open an endpoint with the client for its generation. Only this module chooses between the clients of the two
generations.

`ClientV1` implements the `Client` protocol with the routes of OpenCode 1, and `ClientV2` with those of OpenCode 2,
where one server serves all projects.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from ocwatchd.clock import Clock
from ocwatchd.core.domain.capability import Capacity
from ocwatchd.core.domain.snapshot import Endpoint, SessionSnapshot, SessionState
from ocwatchd.opencode.client.protocol import Client, Stored
from ocwatchd.opencode.client.request import EndpointError
from ocwatchd.opencode.client.v1.responses import Session
from ocwatchd.opencode.client.v1.routes import Api
from ocwatchd.opencode.client.v1.routes import connect as connect_v1
from ocwatchd.opencode.client.v2.routes import Routes
from ocwatchd.opencode.client.v2.snapshot import turn_of
from ocwatchd.opencode.sessions.snapshots import take_snapshot


class ClientV2:
    """A client of one OpenCode 2 endpoint."""

    def __init__(self, endpoint: Endpoint, limit: float | None = None) -> None:
        """`limit` is the timeout of a call, in seconds, or None for the default. No request is sent yet."""
        self._api = Routes(endpoint) if limit is None else Routes(endpoint, limit)

    def ping(self, limit: float) -> None:
        """Check that the endpoint responds."""
        self._api.about(limit)

    def snapshot(self, session: str, stored: Session | None, clock: Clock) -> SessionSnapshot:
        """Return the snapshot of one session. `stored` is not used."""
        del stored
        return turn_of(self._api, session, clock).snapshot

    def waiting(self, directory: str, stored: Stored, clock: Clock) -> Iterator[SessionSnapshot]:
        """Yield the sessions in all projects that are waiting for a retry."""
        del directory, stored
        for session in sorted(self._api.active()):
            try:
                snapshot = turn_of(self._api, session, clock).snapshot
            except EndpointError as fault:
                if fault.status != 404:
                    raise
                continue  # the session has just been deleted
            if snapshot.state is SessionState.RETRY:
                yield snapshot

    def capacities(self, directory: str | None) -> Mapping[str, Capacity]:
        """Return the capacity of each model, by `provider/model`."""
        return self._api.models(directory)

    def models(self, directory: str | None) -> Mapping[str, frozenset[str]]:
        """Return the names of the available models, by provider."""
        found: dict[str, set[str]] = {}
        for name in self._api.models(directory):
            provider, _, model = name.partition("/")
            found.setdefault(provider, set()).add(model)
        return {provider: frozenset(models) for provider, models in found.items()}

    def agents(self, directory: str | None) -> frozenset[str]:
        """Return the names of the agents."""
        return self._api.agents(directory)

    def toast(self, text: str, variant: str, title: str | None, directory: str | None) -> None:
        """Do nothing. OpenCode 2 has no route for notices, and the session itself shows that the model was switched."""

    def stop(self, session: str, directory: str | None) -> None:
        """Interrupt the session's turn."""
        del directory
        self._api.interrupt(session)


class ClientV1:
    """A client of one OpenCode 1 endpoint."""

    def __init__(self, api: Api) -> None:
        """`api` is the API of the endpoint. No request is sent yet."""
        self._api = api

    def ping(self, limit: float) -> None:
        """Check that the endpoint responds."""
        self._api.path(limit)

    def snapshot(self, session: str, stored: Session | None, clock: Clock) -> SessionSnapshot:
        """Return the snapshot of one session."""
        return take_snapshot(self._api, stored or self._api.session(session, self._api.endpoint.directory), clock)

    def waiting(self, directory: str, stored: Stored, clock: Clock) -> Iterator[SessionSnapshot]:
        """Yield the sessions in one directory that are waiting for a retry."""
        statuses = self._api.status(directory)
        for ident in [ident for ident, status in statuses.items() if status.type == "retry"]:
            session = stored(ident) or self._api.session(ident, directory)
            yield take_snapshot(self._api, session, clock, statuses)

    def capacities(self, directory: str | None) -> Mapping[str, Capacity]:
        """Return the capacity of each model, by `provider/model`."""
        return self._api.capacities(directory)

    def models(self, directory: str | None) -> Mapping[str, frozenset[str]]:
        """Return the names of the available models, by provider."""
        return self._api.models(directory)

    def agents(self, directory: str | None) -> frozenset[str]:
        """Return the names of the agents."""
        return self._api.agents(directory)

    def toast(self, text: str, variant: str, title: str | None, directory: str | None) -> None:
        """Show a notice in the TUI."""
        self._api.toast(text, variant, title, directory)

    def stop(self, session: str, directory: str | None) -> None:
        """Abort the session's turn."""
        self._api.abort(session, directory)


def client_of(
    endpoint: Endpoint, connect: Callable[[Endpoint], Api] = connect_v1, limit: float | None = None
) -> Client:
    """Return the client for an endpoint. `connect` opens endpoints of OpenCode 1; `limit` is the timeout of a call, in
    seconds.
    """
    if endpoint.generation == 2:
        return ClientV2(endpoint, limit)
    api = connect(endpoint)
    return ClientV1(api if limit is None else Api(endpoint, limit, sharing=api))
