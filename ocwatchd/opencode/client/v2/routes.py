"""Call OpenCode 2's HTTP API. Some names differ between the preview and the releases.

All methods raise only EndpointError. Unknown fields of a response are ignored. API keys in a response (`/api/model`
shows a provider's settings) are dropped during parsing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from urllib.parse import quote, urlencode

import orjson

from ocwatchd.core.domain.budget import Price
from ocwatchd.core.domain.capability import Capacity
from ocwatchd.core.domain.snapshot import Endpoint
from ocwatchd.core.domain.types import ModelRef
from ocwatchd.opencode.client.request import EndpointError, Request, Trouble
from ocwatchd.opencode.client.transport import exchange, stream
from ocwatchd.opencode.client.v1.responses import price_of
from ocwatchd.opencode.client.v2.messages import Info, info_of, model_in
from ocwatchd.opencode.sessions.messages import Json, mapping, text

CALL_LIMIT = 5.0
"""Timeout, in seconds, for a call. The first call for a project directory took 2 s; other calls took less than 0.2 s
(0.0.0-next-16350).
"""
ONCE_LIMIT = 30.0
"""Timeout, in seconds, for calls that stop or start a turn. It is long, because they must not be repeated: a second
interrupt may stop the next turn, and a second message starts another turn.

In the preview, the response to an interrupt arrives after the turn has ended, which takes 0.05 s if the turn is only
waiting.
"""
END_TIMEOUT, END_POLL = 10.0, 0.05
"""Maximum time, in seconds, to wait for the end of an interrupted turn, and the interval between checks. The releases
confirm an interrupt before they have cleaned up the turn, and refuse to revert it until then.
"""
EVENT_IDLE = 90.0
"""An event stream that sends nothing for this many seconds is abandoned. A heartbeat arrives every 10 to 30 s."""
LOG_IDLE = 10.0
"""ocwatchd stops reading a session's log if no byte arrives for this many seconds. OpenCode sends the log immediately
and then closes the stream.
"""
ABOUT = ("/api/health", "/api/info")
"""Names of the route that identifies the server: the first in the preview, the second in the releases."""
QUEUE = ("pending", "inbox")
"""Names of the route that lists the prompts waiting to be added to a session: the first in the preview, the second in
the releases.
"""
OFFERED_KEPT, MAX_OFFERED = 60.0, 64
"""Time, in seconds, for which the model names of a project are cached, and maximum number of cached lists of names."""
_OFFERED: dict[object, tuple[float, frozenset[str]]] = {}
"""Maps (address, pid, project) to the model names of the project, and the time at which they were listed (monotonic
seconds).
"""
_QUEUES: dict[object, str] = {}
"""Maps an endpoint's address to the route name in `QUEUE` that the endpoint uses."""


class Routes:
    """The API of one OpenCode 2 endpoint."""

    def __init__(self, endpoint: Endpoint, limit: float = CALL_LIMIT) -> None:
        """`limit` is the timeout of a call, in seconds. No request is sent yet."""
        self.endpoint, self._limit = endpoint, limit

    def about(self, limit: float | None = None) -> Json:
        """Return the server's description of itself, with `version` and `pid`."""
        fault: EndpointError | None = None
        for route in ABOUT:
            try:
                answer = mapping(self._get(route, within=limit))
            except EndpointError as error:
                if error.status != 404:
                    raise
                fault = error
            else:
                if isinstance(answer.get("version"), str) and "pid" in answer:
                    return answer
                fault = self._odd(route, "not OpenCode 2's")
        raise fault or self._odd(ABOUT[0], "no answer")

    # ---- sessions

    def active(self) -> frozenset[str]:
        """Return the ids of the active sessions, including those that are waiting for a retry."""
        return frozenset(mapping(self._data("/api/session/active")))

    def sessions(self, limit: int) -> list[Info]:
        """Return at most `limit` sessions, most recently changed first."""
        found = self._data("/api/session", limit=limit, order="desc")
        listed = found if isinstance(found, list) else []
        return [info for entry in listed if (info := info_of(entry)) is not None]

    def session(self, session: str) -> Info:
        """Return one session."""
        found = info_of(self._data(_of(session)))
        if found is None:
            raise self._odd("/api/session/ID", "not a session")
        return found

    def children(self, session: str, limit: int = 50) -> list[Info]:
        """Return the session's subagents."""
        found = self._data("/api/session", parentID=session, limit=limit)
        listed = found if isinstance(found, list) else []
        return [info for entry in listed if (info := info_of(entry)) is not None and info.parent == session]

    def messages(self, session: str, limit: int) -> list[Json]:
        """Return the last `limit` messages without parsing them, oldest first. They contain texts, which must not be
        stored.
        """
        found = self._data(_of(session, "message"), limit=limit, order="desc")
        return [mapping(entry) for entry in reversed(found)] if isinstance(found, list) else []

    def queued(self, session: str) -> int:
        """Return the number of prompts that are waiting to be added to the session."""
        known = _QUEUES.get(self.endpoint.address)
        for name in (known,) if known else QUEUE:
            try:
                found = self._data(_of(session, name))
            except EndpointError as fault:
                if fault.status != 404 or known:
                    raise
                continue
            _QUEUES[self.endpoint.address] = name
            return len(found) if isinstance(found, list) else 0
        return 0

    def asking(self, session: str) -> bool:
        """Return whether a permission request or a question of the session is open."""
        return any(bool(self._optional(_of(session, name))) for name in ("permission", "form"))

    def log(self, session: str, after: int) -> Iterator[Json]:
        """Yield the session's durable events after the number `after`; the last event is `log.synced`."""
        query = _query(f"/api/experimental/session/{_safe(session)}/log", {"after": after})
        for line in stream(self.endpoint, Request("GET", query), LOG_IDLE):
            if line.startswith(b"data:"):
                event = mapping(self._json(line[5:], query))
                yield event
                if event.get("type") == "log.synced":
                    return

    def events(self, wanted: Sequence[bytes], see: Callable[[bytes], None] = lambda _: None) -> Iterator[Json]:
        """Yield the events of all projects that contain one of these byte strings, as they happen.

        An empty event is yielded first, as soon as the stream is open. `see` is called with each event before it is
        parsed, including events that are not yielded.
        """
        opened = False
        for line in stream(self.endpoint, Request("GET", "/api/event"), EVENT_IDLE):
            if not opened:
                opened = True
                yield {}
            if not line.startswith(b"data:"):
                continue
            see(line)
            if any(part in line for part in wanted):
                yield mapping(self._json(line[5:], "/api/event"))

    # ---- actions

    def create(self, directory: str) -> str | None:
        """Create a session in a project and return its id. Return None if the response contains no id."""
        request = Request("POST", "/api/session", orjson.dumps({"location": {"directory": directory}}))
        answer = mapping(self._json(exchange(self.endpoint, request, self._limit), "/api/session"))
        return text(mapping(answer.get("data")).get("id"))

    def switch_model(self, session: str, model: ModelRef, variant: str | None = None) -> None:
        """Change the session's model. A waiting step uses the new model at its next attempt.

        OpenCode also accepts an unknown model.
        """
        named = {"providerID": model.provider, "id": model.model, **({"variant": variant} if variant else {})}
        self._post(_of(session, "model"), {"model": named})

    def switch_agent(self, session: str, agent: str) -> None:
        """Change the session's agent."""
        self._post(_of(session, "agent"), {"agent": agent})

    def interrupt(self, session: str) -> None:
        """Interrupt the session's turn. Does nothing for an idle session. Call `wait_idle` to wait for the end of the
        turn.
        """
        self._post(_of(session, "interrupt"), None, ONCE_LIMIT)

    def wait_idle(self, session: str) -> None:
        """Return after the session's turn has ended, or after END_TIMEOUT seconds."""
        began = time.monotonic()
        while session in self.active() and time.monotonic() - began < END_TIMEOUT:
            time.sleep(END_POLL)

    def stage_revert(self, session: str, message: str) -> None:
        """Mark a message and all later ones to be dropped with the next prompt. Files are not reverted."""
        self._post(_of(session, "revert/stage"), {"messageID": message, "files": False})

    def clear_revert(self, session: str) -> None:
        """Remove the mark set by `stage_revert`. This also wakes the session, which then runs waiting prompts."""
        self._post(_of(session, "revert/clear"), {}, ONCE_LIMIT)

    def commit_revert(self, session: str) -> None:
        """Drop the messages that `stage_revert` has marked."""
        self._post(_of(session, "revert/commit"), {})

    def prompt(self, session: str, body: Mapping[str, object]) -> None:
        """Send a prompt, and return when OpenCode has accepted it."""
        self._post(_of(session, "prompt"), body, ONCE_LIMIT)

    def synthetic(self, session: str, words: str, description: str) -> None:
        """Continue the session by sending the text `words` to the model. The user sees `description` instead."""
        self._post(_of(session, "synthetic"), {"text": words, "description": description}, ONCE_LIMIT)

    def answer_permissions(self, session: str, allow: bool) -> None:
        """Grant or reject all open permission requests of the session. A permission applies only once."""
        found = self._optional(_of(session, "permission"))
        for asked in found if isinstance(found, list) else []:
            ident = text(mapping(asked).get("id"))
            if ident:
                self._post(_of(session, f"permission/{_safe(ident)}/reply"), {"reply": "once" if allow else "reject"})

    # ---- models, agents and plugins

    def knows(self, model: ModelRef, directory: str | None) -> bool:
        """Return whether OpenCode offers the model. Model lists are cached for OFFERED_KEPT seconds."""
        key, now = (self.endpoint.address, self.endpoint.pid, directory), time.monotonic()
        at, names = _OFFERED.get(key, (0.0, frozenset[str]()))
        if now - at > OFFERED_KEPT or str(model) not in names:
            names = frozenset(self.models(directory))
        return str(model) in names

    def models(self, directory: str | None) -> dict[str, Capacity]:
        """Return the capacity of each model, by `provider/model`."""
        found = self._data("/api/model", directory=directory)
        entries = [mapping(entry) for entry in found] if isinstance(found, list) else []
        models = {f"{entry.get('providerID')}/{entry.get('id')}": _capacity(entry) for entry in entries}
        if len(_OFFERED) >= MAX_OFFERED:
            _OFFERED.clear()
        _OFFERED[self.endpoint.address, self.endpoint.pid, directory] = time.monotonic(), frozenset(models)
        return models

    def default_model(self, directory: str | None) -> ModelRef | None:
        """Return the model of sessions for which no model was chosen, or None if this version does not report it."""
        return model_in(self._optional("/api/model/default", directory=directory))

    def agents(self, directory: str | None) -> frozenset[str]:
        """Return the names of all agents."""
        found = self._data("/api/agent", directory=directory)
        entries = [mapping(entry) for entry in found] if isinstance(found, list) else []
        return frozenset(name for entry in entries if (name := text(entry.get("id")) or text(entry.get("name"))))

    def has_agent(self, agent: str, directory: str | None) -> bool:
        """Return whether the agent exists."""
        return agent in self.agents(directory)

    def plugins(self, directory: str | None) -> list[Json]:
        """Return the plugins that are loaded for a project."""
        found = self._data("/api/plugin", directory=directory)
        return [mapping(entry) for entry in found] if isinstance(found, list) else []

    # ---- requests

    def _optional(self, path: str, **query: object) -> object:
        """Return the response of a route, or None if this version of OpenCode does not have the route."""
        try:
            return self._data(path, **query)
        except EndpointError as fault:
            if fault.status != 404:
                raise
            return None

    def _data(self, path: str, **query: object) -> object:
        answer = self._get(path, query)
        if not isinstance(answer, Mapping):
            raise self._odd(path, "not a JSON object")
        return answer.get("data")

    def _get(self, path: str, query: Mapping[str, object] | None = None, within: float | None = None) -> object:
        request = Request("GET", _query(path, query or {}))
        return self._json(exchange(self.endpoint, request, within or self._limit), path)

    def _post(self, path: str, body: Mapping[str, object] | None, limit: float | None = None) -> None:
        exchange(self.endpoint, Request("POST", path, orjson.dumps(body or {})), limit or self._limit)

    def _json(self, body: bytes, path: str) -> object:
        try:
            return orjson.loads(body)
        except ValueError as fault:
            raise self._odd(path, f"not JSON ({fault})") from fault

    def _odd(self, path: str, detail: str) -> EndpointError:
        return EndpointError(self.endpoint, f"GET {path.partition('?')[0]}", Trouble.GARBAGE, detail)


def _capacity(model: Json) -> Capacity:
    limit, able = mapping(model.get("limit")), mapping(model.get("capabilities"))
    context, output = (int(n) if isinstance(n, int | float) and 0 < n < 1e12 else 0 for n in map(limit.get, _LIMITS))
    inputs = able.get("input")
    taken = frozenset(str(kind) for kind in inputs) if isinstance(inputs, list) else frozenset()
    return Capacity(context, output, taken, able.get("tools") is not False, _price(model.get("cost")))


_LIMITS = ("context", "output")


def _price(raw: object) -> Price | None:
    """Return the price of the first tier. OpenCode 2 lists one price for each context-size tier."""
    tiers = raw if isinstance(raw, list) else [raw]
    return price_of(tiers[0]) if tiers else None


def _of(session: str, name: str = "") -> str:
    return f"/api/session/{_safe(session)}{f'/{name}' if name else ''}"


def _safe(ident: str) -> str:
    return quote(ident, safe="")  # ids come from events or logs, so escape them: an id must not lead to another route


def _query(path: str, query: Mapping[str, object]) -> str:
    named = {key: str(value) for key, value in query.items() if value is not None and key != "directory"}
    if query.get("directory"):
        named["location[directory]"] = str(query["directory"])
    return f"{path}?{urlencode(named, quote_via=quote)}" if named else path
