"""Call OpenCode 1's HTTP API, whose routes are the same from 1.0 to 1.18, over TCP or a Unix socket.

Each call names the project directory, because one process may handle many projects, and `/session/status` covers only
the named project (measured on 1.18.33, 1.3.2, 1.1.65, 1.0.185). All methods raise only EndpointError.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from urllib.parse import quote, urlencode

import orjson

from ocwatchd.core.domain.capability import Capacity
from ocwatchd.core.domain.snapshot import Endpoint
from ocwatchd.core.domain.types import ModelRef
from ocwatchd.core.text.parse_json import parse_json
from ocwatchd.opencode.client.request import EndpointError, Request, StreamHandle, Trouble
from ocwatchd.opencode.client.shared_events import SharedEvents
from ocwatchd.opencode.client.transport import exchange, exchange_all, stream
from ocwatchd.opencode.client.v1.responses import (
    Place,
    RetryStatus,
    Session,
    capacity_of,
    session_of,
    status_of,
    version_of,
)
from ocwatchd.opencode.sessions.messages import Json, Message, mapping, message_of, text

CALL_LIMIT = 5.0
"""Timeout, in seconds, for a call. The slowest response of a healthy server took 2.4 s (1.18.33, its very first
request).
"""

STARTING_LIMIT = 30.0
"""Timeout, in seconds, for a call to an OpenCode process that has just started and is loading its providers and
plugins: `/config/providers` took more than 5 s on two processors at a load of 20.
"""

STOP_CALL_LIMIT = 30.0
"""Timeout, in seconds, for an abort. It is long, because an abort must not be repeated: the second one may stop the
next run. While 1.18.33 was loading its services beside OpenCode 2, it responded to an abort after 11 s.
"""

EVENT_IDLE = 90.0
"""An event stream that sends nothing for this many seconds is abandoned. OpenCode 1.1 to 1.18 sends a heartbeat every
10 to 30 s.
"""

KNOWN_FOR, MAX_KNOWN = 21_600.0, 20_000
"""Time, in seconds, for which names of models and agents are cached, and maximum number of cached names. A single list
may contain 5,000 names.

OpenCode 1 reads its configuration when it starts, so a name hardly ever disappears. If a name does disappear, a run
that uses it never begins, and the move then calls `forget_names`. When names were cached for only one minute, every
real move had to wait for the whole list.
"""

_MAX_WORKING = 20
"""Maximum number of sessions that are checked, most recently used first, if the response to `/session/status` contains
no session ids.
"""

_ROUTES_SINCE = (1, 1, 65)
"""The first version that is known to have /permission and /question. For earlier versions, the list of routes is
requested first, because 1.0.185 forwards requests for unknown routes to a remote web host, and such a request may hang.
"""

_FORGETS_SINCE = (1, 3, 2)
"""The first version that is known to have a route for deleting messages; 1.1.65 has none."""


@dataclass(frozen=True, slots=True)
class Rerun:
    """A request to run an existing user message again. `copied` contains the fields that OpenCode would otherwise
    drop.
    """

    message: str
    model: ModelRef
    agent: str | None
    copied: Json
    only_address: bool = False
    """Whether to write only the model and the agent into the message, without running the message (1.0 to 1.18)."""

    def body(self) -> bytes:
        """Return the body of the request. Without `parts: []`, OpenCode would duplicate the text of the prompt."""
        named: dict[str, Any] = {
            **self.copied,
            "messageID": self.message,
            "parts": [],
            "model": {"providerID": self.model.provider, "modelID": self.model.model},
            **({"noReply": True} if self.only_address else {}),
        }
        return orjson.dumps({**named, "agent": self.agent} if self.agent else named)


@dataclass(frozen=True, slots=True)
class Shown:
    """What OpenCode reports about one session: the statuses of all sessions in its directory, its last messages, and
    its questions.

    `seen` is the time at which the statuses were read (epoch seconds). `messages` are sorted, oldest first. `asking` is
    True if a permission request or a question of the session is open.
    """

    seen: float
    statuses: Mapping[str, RetryStatus]
    messages: list[Message]
    asking: bool


class Api:
    """The API of one endpoint."""

    def __init__(self, endpoint: Endpoint, limit: float = CALL_LIMIT, sharing: Api | None = None) -> None:
        """`limit` is the timeout of a call, in seconds. If another object is given as `sharing`, both use its cache of
        names.

        No request is sent yet.
        """
        self.endpoint, self._limit = endpoint, limit
        self._routes: frozenset[str] | None = None
        self.names: dict[tuple[str | None, str], float] = sharing.names if sharing else {}
        """The time at which OpenCode last reported each name (monotonic seconds), by directory and name
        (`provider/model` or `@agent`).
        """
        self.shared_events: SharedEvents | None = None
        """The stream with the events of all directories, if an `EventListener` has opened it."""

    def path(self, limit: float | None = None) -> Place:
        """Return the home and the directory of the process. The call fails if the process is not OpenCode."""
        answer = self._object("/path", None, limit)
        if "worktree" not in answer or "directory" not in answer:
            raise self._odd("/path", "not OpenCode's")
        return Place(text(answer.get("home")), text(answer.get("directory")))

    def status(self, directory: str | None) -> Mapping[str, RetryStatus]:
        """Return the status of each session that is not idle, by session id, for one directory."""
        return self._statuses(self._get("/session/status", directory), directory)

    def _statuses(self, answer: object, directory: str | None) -> Mapping[str, RetryStatus]:
        if isinstance(answer, list):
            return self._named([status_of(entry) for entry in answer if isinstance(entry, Mapping)], directory)
        if not isinstance(answer, Mapping):
            raise self._odd("/session/status", "not a JSON object")
        return {session: status_of(entry) for session, entry in answer.items() if isinstance(entry, Mapping)}

    def _named(self, entries: Sequence[RetryStatus], directory: str | None) -> Mapping[str, RetryStatus]:
        """Assign statuses without session ids, as sent by 1.0.98 to 1.0.162, to the sessions whose last answer is open.

        If the number of sessions whose answer is still empty equals the number of retries, these sessions are the ones
        that are waiting for a retry. Otherwise, all sessions are treated as busy, so that they are not moved.
        """
        working = self._working(directory) if entries else {}
        silent = [session for session, answer in working.items() if not answer.began]
        retrying = [entry for entry in entries if entry.type == "retry"]
        busy = dict.fromkeys(working, RetryStatus("busy"))
        if len(working) != len(entries) or len(silent) != len(retrying):
            return busy
        return busy | dict(zip(silent, retrying, strict=True))

    def _working(self, directory: str | None) -> dict[str, Message]:
        """Return the open answer of each session, in the order in which the answers began."""
        recent = self.sessions(directory)[:_MAX_WORKING]
        last = {found.id: self.messages(found.id, found.directory, 4) for found in recent}
        answers = {session: next((m for m in reversed(held) if not m.user), None) for session, held in last.items()}
        begun = [(held.created or 0.0, session, held) for session, held in answers.items() if held]
        return {session: held for _, session, held in sorted(begun, key=lambda entry: entry[:2]) if not held.completed}

    def sessions(self, directory: str | None) -> list[Session]:
        """Return the sessions in one directory, most recently used first. OpenCode 1.18 lists at most a hundred."""
        answer = self._get("/session", directory)
        listed = [session_of(mapping(entry)) for entry in answer] if isinstance(answer, list) else []
        return sorted((found for found in listed if found), key=lambda found: found.updated or 0.0, reverse=True)

    def session(self, session: str, directory: str | None = None) -> Session:
        """Return one session. `directory` must be a directory of the session's project."""
        answer = self._object(f"/session/{self._ident(session)}", directory)
        found = session_of(answer)
        if found is None:
            raise self._odd("/session/ID", "not a session")
        return found

    def children(self, session: str, directory: str | None) -> list[str]:
        """Return the ids of the session's subagents. The list is empty if this OpenCode has no such route."""
        try:
            answer = self._get(f"/session/{self._ident(session)}/children", directory)
        except EndpointError as fault:
            if fault.status == 404:
                return []
            raise
        listed = [session_of(mapping(entry)) for entry in answer] if isinstance(answer, list) else []
        return [found.id for found in listed if found is not None]

    def messages(self, session: str, directory: str | None, limit: int) -> list[Message]:
        """Return the last `limit` messages, oldest first."""
        return self._read(self._get(f"/session/{self._ident(session)}/message", directory, limit=limit))

    def _read(self, answer: object) -> list[Message]:
        if not isinstance(answer, list):
            raise self._odd("/session/ID/message", "not a list")
        read = (message_of(mapping(entry.get("info")), entry.get("parts")) for entry in map(mapping, answer))
        return [message for message in read if message is not None]

    def raw_messages(self, session: str, directory: str | None, limit: int) -> list[Json]:
        """Return the last messages as `{"info": …, "parts": […]}`. Their texts must never be stored."""
        answer = self._get(f"/session/{self._ident(session)}/message", directory, limit=limit)
        if not isinstance(answer, list):
            raise self._odd("/session/ID/message", "not a list")
        return [mapping(entry) for entry in answer]

    def questions(self, session: Session) -> list[tuple[str, str]]:
        """Return the open permission requests and questions of this session, each as (route, id)."""
        routes = [route for route in ("/permission", "/question") if self.has(route, session.version)]
        answers = [(route, self._get(route, session.directory)) for route in routes]
        return [
            (route, str(entry.get("id")))
            for route, answer in answers
            if isinstance(answer, list)
            for entry in map(mapping, answer)
            if entry.get("sessionID") == session.id
        ]

    def reply(self, question: tuple[str, str], allow: bool, session: Session) -> None:
        """Answer one of the session's `questions`. A permission request can be granted; a question can only be
        rejected.
        """
        route, ident = question
        if route == "/question":
            self._post(f"{route}/{self._ident(ident)}/reject", session.directory, b"{}")
            return
        answer = "once" if allow else "reject"
        self._post(f"{route}/{self._ident(ident)}/reply", session.directory, orjson.dumps({"reply": answer}))

    def message(self, session: str, message: str, directory: str | None) -> Message:
        """Return one message."""
        answer = self._object(f"/session/{self._ident(session)}/message/{self._ident(message)}", directory)
        found = message_of(mapping(answer.get("info")), answer.get("parts"))
        if found is None:
            raise self._odd("/session/ID/message/ID", "not a message")
        return found

    def abort(self, session: str, directory: str | None) -> None:
        """Abort the session's turn, including OpenCode's own retry."""
        self._post(f"/session/{self._ident(session)}/abort", directory, b"{}", max(self._limit, STOP_CALL_LIMIT))

    def rerun(self, session: str, directory: str | None, rerun: Rerun) -> None:
        """Run a user message again. This method returns as soon as OpenCode has accepted the message, before the
        message is answered.
        """
        self._post(f"/session/{self._ident(session)}/prompt_async", directory, rerun.body())

    def forget(self, session: Session, message: str) -> bool:
        """Delete a message. Return False if this version of OpenCode has no route for this (1.1.65 and older)."""
        if version_of(session.version) < _FORGETS_SINCE:
            listed = mapping(self._object("/doc", None).get("paths")).items()
            routes = [route for route, methods in listed if "delete" in mapping(methods)]
            if not any(route.startswith("/session/{") and route.split("/")[3:4] == ["message"] for route in routes):
                return False
        path = f"/session/{self._ident(session.id)}/message/{self._ident(message)}"
        exchange(self.endpoint, Request("DELETE", _query(path, session.directory)), self._limit)
        return True

    def asking(self, session: Session) -> bool:
        """Return whether a permission request or question of this session is open. The result is False on versions
        without these routes (1.0). On these versions, a tool that is asking a question looks like a running tool.
        """
        routes = [route for route in ("/permission", "/question") if self.has(route, session.version)]
        answers = (self._get(route, session.directory) for route in routes)
        return any(_of_session(answer, session.id) for answer in answers)

    def at_once(
        self, session: Session, limit: int, now: Callable[[], float], *, status: bool = True, questions: bool = True
    ) -> Shown:
        """Return the status, messages and questions of a session, fetched with simultaneous requests.

        `now` returns epoch seconds.
        """
        directory, asked = session.directory, list[tuple[str, dict[str, int]]]()
        if status:
            asked.append(("/session/status", {}))
        asked.append((f"/session/{self._ident(session.id)}/message", {"limit": limit}))
        if questions:
            asked += [(route, {}) for route in ("/permission", "/question") if self.has(route, session.version)]
        requests = [Request("GET", _query(path, directory, **query)) for path, query in asked]
        answers, seen = list[object](), now()
        for body, (path, _) in zip(exchange_all(self.endpoint, requests, self._limit), asked, strict=True):
            seen = seen if answers else now()
            answers.append(self._json(body, path))
        statuses = self._statuses(answers.pop(0), directory) if status else {}
        messages, *open_questions = answers
        asking = any(_of_session(answer, session.id) for answer in open_questions)
        return Shown(seen, statuses, self._read(messages), asking)

    def knows(self, model: ModelRef, directory: str | None) -> bool:
        """Return whether OpenCode offers the model. Responses are cached for KNOWN_FOR seconds.

        OpenCode accepts a prompt for an unknown model (204), but never runs it (1.0 to 1.18).
        """
        return self._lately(f"{model}", directory, lambda: (str(known) for known in self._all_models(directory)))

    def _all_models(self, directory: str | None) -> Iterator[ModelRef]:
        return (ModelRef(provider, name) for provider, names in self.models(directory).items() for name in names)

    def has_agent(self, agent: str, directory: str | None) -> bool:
        """Return whether the agent exists. Responses are cached for KNOWN_FOR seconds. OpenCode never runs a prompt for
        an unknown agent.
        """
        return self._lately(f"@{agent}", directory, lambda: (f"@{name}" for name in self.agents(directory)))

    def _lately(self, name: str, directory: str | None, ask: Callable[[], Iterable[str]]) -> bool:
        """Return whether OpenCode has this model or agent. If the cache does not contain the name, `ask` is called to
        fetch the current names.
        """
        if time.monotonic() - self.names.get((directory, name), float("-inf")) <= KNOWN_FOR:
            return True
        reported = frozenset(ask())
        self._keep_names(directory, reported)
        return name in reported

    def _keep_names(self, directory: str | None, names: Collection[str]) -> None:
        now = time.monotonic()
        if len(self.names) + len(names) > MAX_KNOWN:
            self.names.clear()
        self.names.update({(directory, name): now for name in names})

    def forget_names(self) -> None:
        """Clear the cached names of models and agents, because OpenCode no longer knows one of them."""
        self.names.clear()

    def models(self, directory: str | None) -> dict[str, frozenset[str]]:
        """Return the names of the available models, by provider."""
        providers = self._object("/config/providers", directory).get("providers")
        named = [mapping(entry) for entry in providers] if isinstance(providers, list) else []
        return {str(entry.get("id")): frozenset(mapping(entry.get("models"))) for entry in named}

    def capacities(self, directory: str | None) -> dict[str, Capacity]:
        """Return the capacity of each model, by `provider/model`."""
        providers = self._object("/config/providers", directory).get("providers")
        named = [mapping(entry) for entry in providers] if isinstance(providers, list) else []
        found = {
            f"{provider.get('id')}/{model}": capacity_of(mapping(about))
            for provider in named
            for model, about in mapping(provider.get("models")).items()
        }
        self._keep_names(directory, found)
        return found

    def agents(self, directory: str | None) -> frozenset[str]:
        """Return the names of the agents."""
        answer = self._get("/agent", directory)
        entries: Sequence[object] = answer if isinstance(answer, list) else ()
        return frozenset(name for name in (text(mapping(entry).get("name")) for entry in entries) if name)

    def toast(self, message: str, variant: str, title: str | None = None, directory: str | None = None) -> None:
        """Show a notice in the TUI behind this endpoint. `variant` is info, success, warning or error."""
        body = {"message": message, "variant": variant, **({"title": title} if title else {})}
        self._post("/tui/show-toast", directory, orjson.dumps(body))

    def events(
        self,
        directory: str | None,
        idle: float = EVENT_IDLE,
        only: Sequence[bytes] | Callable[[], Sequence[bytes]] = (b"",),
        handle: StreamHandle | None = None,
        see: Callable[[bytes], None] | None = None,
    ) -> Iterator[Json]:
        """Yield the events of one directory, or of all directories if it is None, as they happen: `{"type": …,
        "properties": {…}}`.

        Events that contain none of the byte strings in `only` are skipped without parsing. `only` may be a function,
        which is called for each event. `handle.cut()` ends the stream. `see` is called with each line of the stream
        before it is parsed or skipped.
        """
        route = "/event" if directory else "/global/event"
        for sent in stream(self.endpoint, Request("GET", _query(route, directory)), idle, handle):
            if see is not None:
                see(sent)
            if sent.startswith(b"data:") and any(part in sent for part in (only() if callable(only) else only)):
                event = self._json(sent[5:], route)
                yield mapping(mapping(event).get("payload") or event)

    def has(self, route: str, version: str | None) -> bool:
        """Return whether this version of OpenCode has a route. For versions before _ROUTES_SINCE, the list of routes is
        requested once, because up to 1.0 an unknown route is forwarded to a remote web host. Fetching the list takes
        0.2 s on 1.0 and 1.4 s on 1.18.33.
        """
        # The running OpenCode is at least as new as the version that wrote the session.
        if version_of(version) >= _ROUTES_SINCE:
            return True
        if self._routes is None:
            self._routes = frozenset(mapping(self._object("/doc", None).get("paths")))
        return route in self._routes

    def _ident(self, ident: str) -> str:
        """Return an id, quoted as one segment of a route. The id may come from a log, and must not lead to another
        route. An id that consists of dots would do so even if quoted, because Bun normalizes `/session/../abort` to
        `/abort`.

        Raises:
            EndpointError: The id consists of dots.
        """
        if not ident.strip("."):
            raise EndpointError(self.endpoint, "a session or message", Trouble.STATUS, f"{ident!r} is not an id", 404)
        return quote(ident, safe="", errors="replace")

    def _get(self, path: str, directory: str | None, within: float | None = None, **query: object) -> object:
        request = Request("GET", _query(path, directory, **query))
        return self._json(exchange(self.endpoint, request, within or self._limit), path)

    def _object(self, path: str, directory: str | None, within: float | None = None) -> Json:
        answer = self._get(path, directory, within)
        if not isinstance(answer, Mapping):
            raise self._odd(path, "not a JSON object")
        return answer

    def _post(self, path: str, directory: str | None, body: bytes, limit: float | None = None) -> None:
        exchange(self.endpoint, Request("POST", _query(path, directory), body), limit or self._limit)

    def _json(self, body: bytes, path: str) -> object:
        try:
            return parse_json(body)
        except ValueError as fault:
            raise self._odd(path, f"not JSON ({fault})") from fault

    def _odd(self, path: str, detail: str) -> EndpointError:
        return EndpointError(self.endpoint, f"GET {path}", Trouble.GARBAGE, detail)


@lru_cache(maxsize=64)
def connect(endpoint: Endpoint) -> Api:
    """Return the API of an endpoint. Calls with equal endpoints return the same object, which caches the list of
    routes.
    """
    return Api(endpoint)


def _of_session(answer: object, session: str) -> bool:
    entries: Sequence[object] = answer if isinstance(answer, list) else ()
    return any(mapping(entry).get("sessionID") == session for entry in entries)


def _query(path: str, directory: str | None, **query: object) -> str:
    named = {key: str(value) for key, value in query.items()}
    if directory:  # JavaScript replaces invalid UTF-8 in a name in the same way
        named["directory"] = os.fsencode(directory).decode(errors="replace")
    return f"{path}?{urlencode(named, quote_via=quote)}" if named else path
