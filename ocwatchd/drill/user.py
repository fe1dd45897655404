"""Simulate the drill's user for each generation of OpenCode: the user's actions and observations.

The steps are the same for both generations. OpenCode 2 differs in four ways. Its log contains nothing about a refused
attempt, but the session's durable record does. The plugin opens no socket, because the daemon uses OpenCode's own API.
A prompt does not name a model, so a terminal selects the session's model beforehand. Only the releases, not the
preview, call the hook that sends a prompt to the fallback in advance.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Protocol

from ocwatchd.config.active_rules import builtin
from ocwatchd.core.domain.snapshot import Endpoint, UnixAddress
from ocwatchd.core.domain.types import Certainty, LimitEvent, ModelRef
from ocwatchd.core.engine.messages import Failure
from ocwatchd.core.parsing.reader import Reading
from ocwatchd.drill.home import DrillHome
from ocwatchd.drill.provider import PRIMARY
from ocwatchd.opencode.client.request import EndpointError, Request
from ocwatchd.opencode.client.transport import exchange
from ocwatchd.opencode.client.v1.routes import Api
from ocwatchd.opencode.client.v2.events import EventReader
from ocwatchd.opencode.client.v2.routes import Routes
from ocwatchd.opencode.discovery.plugin_sockets import hooks_in, plugin_in
from ocwatchd.opencode.sessions.messages import mapping, text
from ocwatchd.state import heartbeat

FEW = 20
"""Maximum number of messages that are read from a session. A drill writes fewer messages."""
PREVENTING_HOOK = "prompt"
"""The companion plugin's hook in OpenCode 2 that sends a prompt for a limited model to the fallback."""


class User(Protocol):
    """A simulated OpenCode user. Every method raises EndpointError if the endpoint does not respond."""

    endpoint_expected: str
    """The text that the endpoint check (step `endpoint`) prints as its expectation if it fails."""
    endpoint_seen: str
    """The text that the endpoint check (step `endpoint`) reports if it passes."""
    record_says: str
    """The text that the check of OpenCode's own record (step `log`) prints as its expectation if it fails."""

    def open_project(self) -> None:
        """Make the first request that names the project. OpenCode then loads the project's plugins."""
        ...

    def plugin_endpoint(self) -> Endpoint | None:
        """Return the endpoint for the later steps if the plugin is active in OpenCode. Return None if it is not active
        yet.
        """
        ...

    def missing_endpoint(self) -> str:
        """Return a phrase that describes what is missing if there is no endpoint."""
        ...

    def new_session(self) -> str | None:
        """Create a session and return its id. Return None if OpenCode does not create a session."""
        ...

    def prompt(self, session: str, words: str) -> None:
        """Send a prompt for the primary."""
        ...

    def select_primary(self, session: str) -> None:
        """Select the primary for the session again, like an open terminal that still shows the primary."""
        ...

    def has_returned(self, session: str) -> bool:
        """Return whether the next prompt goes to the primary."""
        ...

    def is_idle(self, session: str) -> bool:
        """Return whether the session is idle."""
        ...

    def prompts(self, session: str) -> int:
        """Return the number of user prompts in the session."""
        ...

    def limit_on_record(self, session: str) -> str | None:
        """Return a description of the limit in OpenCode's own record, or None if the record does not contain a definite
        limit yet.
        """
        ...

    def prevents(self) -> bool:
        """Return whether this OpenCode version calls the plugin before a prompt is sent."""
        ...


class UserOfV1:
    """A user of OpenCode 1, whose TUI names the model with every prompt."""

    endpoint_expected = "a socket of the plugin that answers like OpenCode itself"
    endpoint_seen = "its socket answers like OpenCode's own API"
    record_says = "a limit in OpenCode's log that the rules recognize"

    def __init__(self, home: DrillHome, endpoint: Endpoint, limit: float) -> None:
        """Store the values. `limit` is the timeout of a call in seconds."""
        self._home, self.endpoint, self._limit = home, endpoint, limit

    def open_project(self) -> None:
        """Request the list of the project's busy sessions."""
        Api(self.endpoint, self._limit).status(str(self._home.project))

    def plugin_endpoint(self) -> Endpoint | None:
        """Return the plugin's socket if it responds. The socket's file appears shortly before the socket responds
        (1.1.65).
        """
        for path in self._home.paths.endpoints.glob("*.sock"):
            endpoint = Endpoint(UnixAddress(str(path)), self.endpoint.pid, str(self._home.project))
            with suppress(EndpointError):
                Api(endpoint).path(1.0)
                return endpoint
        return None

    def missing_endpoint(self) -> str:
        """Return a phrase that describes what was found instead of a responding socket."""
        if any(self._home.paths.endpoints.glob("*.sock")):
            return "a socket that does not respond"
        return "no socket: the plugin is not loaded, or cannot open one"

    def new_session(self) -> str | None:
        """Create a session and return its id."""
        return text(mapping(json.loads(self._post("/session", {}))).get("id"))

    def prompt(self, session: str, words: str) -> None:
        """Send a prompt that names the primary."""
        provider, _, model = PRIMARY.partition("/")
        body = {"parts": [{"type": "text", "text": words}], "model": {"providerID": provider, "modelID": model}}
        self._post(f"/session/{session}/prompt_async", body)

    def select_primary(self, session: str) -> None:
        """Do nothing, because each prompt names the primary."""

    def has_returned(self, session: str) -> bool:
        """Return True, because each prompt names the primary."""
        del session
        return True

    def is_idle(self, session: str) -> bool:
        """Return whether the session is idle, that is, not among the busy sessions."""
        return session not in Api(self.endpoint).status(str(self._home.project))

    def prompts(self, session: str) -> int:
        """Count the user's messages."""
        return sum(message.user for message in Api(self.endpoint).messages(session, str(self._home.project), FEW))

    def limit_on_record(self, session: str) -> str | None:
        """Return the first definite limit in OpenCode's log."""
        del session
        rules = builtin()
        for path in sorted(self._home.paths.log_dir.glob("*.log")):
            for found in Reading(rules, file=str(path)).feed(path.read_bytes()):
                if isinstance(found, LimitEvent) and found.verdict.certainty is Certainty.SURE:
                    return f"{found.verdict.kind or 'limit'} of {found.ref}, rule {found.verdict.rule}"
        return None

    def prevents(self) -> bool:
        """Return True, because every OpenCode 1 version calls the hook `chat.message`."""
        return True

    def _post(self, path: str, body: Mapping[str, object]) -> bytes:
        return exchange(self.endpoint, Request("POST", path, json.dumps(body).encode()), self._limit)


class UserOfV2:
    """A user of OpenCode 2, whose terminals select the session's model and then send the prompt."""

    endpoint_expected = "the plugin loaded in OpenCode, and an endpoint that the daemon uses"
    endpoint_seen = "OpenCode has loaded the plugin, and the daemon follows OpenCode's events"
    record_says = "a limit in the session's durable record that the rules recognize"

    def __init__(self, home: DrillHome, endpoint: Endpoint, limit: float) -> None:
        """Store the values. `limit` is the timeout of a call in seconds."""
        self._home, self.endpoint = home, endpoint
        self._api = Routes(endpoint, limit)

    def open_project(self) -> None:
        """Request the list of the project's plugins."""
        self._api.plugins(str(self._home.project))

    def plugin_endpoint(self) -> Endpoint | None:
        """Return OpenCode's own endpoint if the daemon uses it and the plugin is loaded. Return None if either
        condition is not met yet.
        """
        return self.endpoint if self._loaded() and self._served() else None

    def missing_endpoint(self) -> str:
        """Return a phrase that says which of the two conditions is not met."""
        missing = [] if self._loaded() else ["the plugin is not loaded"]
        missing += [] if self._served() else [f"the daemon does not use the endpoint of process {self.endpoint.pid}"]
        return " and ".join(missing) or "both, but too late"

    def _loaded(self) -> bool:
        return plugin_in(self._home.paths.endpoints, self.endpoint.pid or 0)

    def _served(self) -> bool:
        known = heartbeat.read(self._home.paths.heartbeat).endpoints
        return any(one.get("pid") == self.endpoint.pid and not one.get("trouble") for one in known)

    def new_session(self) -> str | None:
        """Create a session and return its id."""
        return self._api.create(str(self._home.project))

    def prompt(self, session: str, words: str) -> None:
        """Send a prompt to the session's model: the configured model or the one selected last."""
        self._api.prompt(session, {"text": words})

    def select_primary(self, session: str) -> None:
        """Select the primary, as the preview's terminal does before each prompt."""
        provider, _, model = PRIMARY.partition("/")
        self._api.switch_model(session, ModelRef(provider, model))

    def has_returned(self, session: str) -> bool:
        """Return whether the session has returned to the primary."""
        return str(self._api.session(session).model) == PRIMARY

    def is_idle(self, session: str) -> bool:
        """Return whether the session is idle, that is, not among the busy sessions."""
        return session not in self._api.active()

    def prompts(self, session: str) -> int:
        """Count the user's messages."""
        return sum(entry.get("type") == "user" for entry in self._api.messages(session, FEW))

    def limit_on_record(self, session: str) -> str | None:
        """Return the first definite limit in the session's durable record."""
        reader, rules = EventReader(), builtin()
        for event in self._api.log(session, 0):
            failure = reader.feed(event, live=False)
            verdict = rules.classify(failure.facts) if isinstance(failure, Failure) else None
            if isinstance(failure, Failure) and verdict and verdict.certainty is Certainty.SURE:
                return f"{verdict.kind or 'limit'} of {failure.model}, rule {verdict.rule}"
        return None

    def prevents(self) -> bool:
        """Return whether OpenCode has called the preventing hook; the preview 0.0.0-next-16350 never does."""
        return PREVENTING_HOOK in hooks_in(self._home.paths.endpoints, self.endpoint.pid or 0)


def user_of(home: DrillHome, endpoint: Endpoint, limit: float) -> User:
    """Return a simulated user for the OpenCode process at this endpoint. `limit` is the timeout of a call in
    seconds.
    """
    kind = UserOfV2 if endpoint.generation == 2 else UserOfV1
    return kind(home, endpoint, limit)
