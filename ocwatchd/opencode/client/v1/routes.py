"""OpenCode's own HTTP API as far as we need it: the same routes on 1.0 - 1.18, over TCP or a unix socket.

Every call names the project directory: one process serves many, and `/session/status` answers only for the one named
(measured on 1.18.33, 1.3.2, 1.1.65, 1.0.185). Every method raises DoorError and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from urllib.parse import quote, urlencode

import orjson

from ocwatchd.core.capability import Capacity
from ocwatchd.core.limits import ModelRef
from ocwatchd.core.views import Door
from ocwatchd.opencode.answers import Place, RetryStatus, Session, capacity_of, session_of, status_of, version_of
from ocwatchd.opencode.http import DoorError, Request, Trouble, exchange, stream
from ocwatchd.opencode.records import Json, Message, mapping, message_of, text

CALL_LIMIT = 5.0
"""Seconds for one call. The slowest answer of a healthy server was 2.4 s (1.18.33, its first request of all)."""

EVENT_IDLE = 90.0
"""Seconds without a byte after which an event stream counts as dead; 1.1 - 1.18 send a heartbeat every 10 - 30 s."""

_MOST_WORKING = 20
"""Sessions that are looked at where `/session/status` has no names, the latest first."""

_ROUTES_SINCE = (1, 1, 65)
"""From this version on /permission and /question are known to exist. 1.0.185 hands unknown routes to a web host far
away, which may hang for as long as that does: there its own list of routes is asked first."""

_FORGETS_SINCE = (1, 3, 2)
"""From this version on a message is known to be deletable; 1.1.65 is known not to."""


@dataclass(frozen=True, slots=True)
class Rerun:
    """A new attempt at a user message that exists. `copied` holds what would be lost otherwise."""

    message: str
    model: ModelRef
    agent: str | None
    copied: Json
    only_address: bool = False
    """Only write model and agent into the message, and run nothing (1.0 - 1.18)."""

    def body(self) -> bytes:
        """The request; without `parts: []` OpenCode would double the prompt's text."""
        named: dict[str, Any] = {
            **self.copied,
            "messageID": self.message,
            "parts": [],
            "model": {"providerID": self.model.provider, "modelID": self.model.model},
            **({"noReply": True} if self.only_address else {}),
        }
        return orjson.dumps({**named, "agent": self.agent} if self.agent else named)


class Api:
    """One door's API."""

    def __init__(self, door: Door, limit: float = CALL_LIMIT) -> None:
        """`limit`: seconds for one call. Nothing is asked yet."""
        self.door, self._limit = door, limit
        self._routes: frozenset[str] | None = None

    def path(self, limit: float | None = None) -> Place:
        """Which process this is; proves that OpenCode listens."""
        answer = self._object("/path", None, limit)
        if "worktree" not in answer or "directory" not in answer:
            raise self._odd("/path", "not OpenCode's")
        return Place(text(answer.get("home")), text(answer.get("directory")))

    def status(self, directory: str | None) -> Mapping[str, RetryStatus]:
        """Sessions of one directory that are not idle, by id."""
        answer = self._get("/session/status", directory)
        if isinstance(answer, list):
            return self._named([status_of(entry) for entry in answer if isinstance(entry, Mapping)], directory)
        if not isinstance(answer, Mapping):
            raise self._odd("/session/status", "no object")
        return {session: status_of(entry) for session, entry in answer.items() if isinstance(entry, Mapping)}

    def _named(self, entries: Sequence[RetryStatus], directory: str | None) -> Mapping[str, RetryStatus]:
        """Find the sessions of a list without names, as 1.0.98 - 1.0.162 send it: those whose last answer is open.

        In retry are those that hold nothing yet, if their number fits. Otherwise all count as busy and are not touched.
        """
        working = self._working(directory) if entries else {}
        silent = [session for session, answer in working.items() if not answer.began]
        retrying = [entry for entry in entries if entry.type == "retry"]
        busy = dict.fromkeys(working, RetryStatus("busy"))
        if len(working) != len(entries) or len(silent) != len(retrying):
            return busy
        return busy | dict(zip(silent, retrying, strict=True))

    def _working(self, directory: str | None) -> dict[str, Message]:
        """Open answers by session, in the order in which they were begun."""
        recent = self.sessions(directory)[:_MOST_WORKING]
        last = {found.id: self.messages(found.id, found.directory, 4) for found in recent}
        answers = {session: next((m for m in reversed(held) if not m.user), None) for session, held in last.items()}
        begun = [(held.created or 0.0, session, held) for session, held in answers.items() if held]
        return {session: held for _, session, held in sorted(begun, key=lambda entry: entry[:2]) if not held.completed}

    def sessions(self, directory: str | None) -> list[Session]:
        """Sessions of one directory, the last used first; 1.18 lists a hundred of them."""
        answer = self._get("/session", directory)
        listed = [session_of(mapping(entry)) for entry in answer] if isinstance(answer, list) else []
        return sorted((found for found in listed if found), key=lambda found: found.updated or 0.0, reverse=True)

    def session(self, session: str, directory: str | None = None) -> Session:
        """One session. Found from any directory of the same project; of others only with its own."""
        answer = self._object(f"/session/{_safe(session)}", directory)
        found = session_of(answer)
        if found is None:
            raise self._odd("/session/ID", "no session")
        return found

    def messages(self, session: str, directory: str | None, limit: int) -> list[Message]:
        """The last `limit` messages, oldest first."""
        answer = self._get(f"/session/{_safe(session)}/message", directory, limit=limit)
        if not isinstance(answer, list):
            raise self._odd("/session/ID/message", "no list")
        read = (message_of(mapping(entry.get("info")), entry.get("parts")) for entry in map(mapping, answer))
        return [message for message in read if message is not None]

    def raw_messages(self, session: str, directory: str | None, limit: int) -> list[Json]:
        """The same as `{"info": …, "parts": […]}`, texts included: for printing, never for keeping."""
        answer = self._get(f"/session/{_safe(session)}/message", directory, limit=limit)
        if not isinstance(answer, list):
            raise self._odd("/session/ID/message", "no list")
        return [mapping(entry) for entry in answer]

    def questions(self, session: Session) -> list[tuple[str, str]]:
        """Open permissions and questions of this session, as (route, id)."""
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
        """Answer one of them; a question can only be rejected."""
        route, ident = question
        if route == "/question":
            self._post(f"{route}/{_safe(ident)}/reject", session.directory, b"{}")
            return
        answer = "once" if allow else "reject"
        self._post(f"{route}/{_safe(ident)}/reply", session.directory, orjson.dumps({"reply": answer}))

    def message(self, session: str, message: str, directory: str | None) -> Message:
        """One message by its id."""
        answer = self._object(f"/session/{_safe(session)}/message/{_safe(message)}", directory)
        found = message_of(mapping(answer.get("info")), answer.get("parts"))
        if found is None:
            raise self._odd("/session/ID/message/ID", "no message")
        return found

    def abort(self, session: str, directory: str | None) -> None:
        """Stop what the session does, a native retry included."""
        self._post(f"/session/{_safe(session)}/abort", directory, b"{}")

    def rerun(self, session: str, directory: str | None, rerun: Rerun) -> None:
        """Run a user message again; returns when it is accepted, not when it is answered."""
        self._post(f"/session/{_safe(session)}/prompt_async", directory, rerun.body())

    def forget(self, session: Session, message: str) -> bool:
        """Delete a message; False where the version has no such route (1.1.65 and older; its own list says so)."""
        if version_of(session.version) < _FORGETS_SINCE:
            listed = mapping(self._object("/doc", None).get("paths")).items()
            routes = [route for route, methods in listed if "delete" in mapping(methods)]
            if not any(route.startswith("/session/{") and route.split("/")[3:4] == ["message"] for route in routes):
                return False
        path = f"/session/{_safe(session.id)}/message/{_safe(message)}"
        exchange(self.door, Request("DELETE", _query(path, session.directory)), self._limit)
        return True

    def asking(self, session: Session) -> bool:
        """A permission or question of this session is open. False where the version has no such routes (1.0): there the
        tool that asks shows as running."""
        routes = [route for route in ("/permission", "/question") if self.has(route, session.version)]
        answers = (self._get(route, session.directory) for route in routes)
        return any(_of_session(answer, session.id) for answer in answers)

    def knows(self, model: ModelRef, directory: str | None) -> bool:
        """The model is configured. A prompt for another is accepted (204) and then never runs (1.0 - 1.18)."""
        return model.model in self.models(directory).get(model.provider, ())

    def models(self, directory: str | None) -> dict[str, frozenset[str]]:
        """The models that this OpenCode offers, by provider."""
        providers = self._object("/config/providers", directory).get("providers")
        named = [mapping(entry) for entry in providers] if isinstance(providers, list) else []
        return {str(entry.get("id")): frozenset(mapping(entry.get("models"))) for entry in named}

    def capacities(self, directory: str | None) -> dict[str, Capacity]:
        """What each model takes, by `provider/model`."""
        providers = self._object("/config/providers", directory).get("providers")
        named = [mapping(entry) for entry in providers] if isinstance(providers, list) else []
        return {
            f"{provider.get('id')}/{model}": capacity_of(mapping(about))
            for provider in named
            for model, about in mapping(provider.get("models")).items()
        }

    def agents(self, directory: str | None) -> frozenset[str]:
        """Names of the agents; a prompt that names another is accepted and then never runs."""
        answer = self._get("/agent", directory)
        entries: Sequence[object] = answer if isinstance(answer, list) else ()
        return frozenset(name for name in (text(mapping(entry).get("name")) for entry in entries) if name)

    def toast(self, message: str, variant: str, title: str | None = None, directory: str | None = None) -> None:
        """Show a notice in the TUI behind this door. `variant`: info, success, warning, error."""
        body = {"message": message, "variant": variant, **({"title": title} if title else {})}
        self._post("/tui/show-toast", directory, orjson.dumps(body))

    def events(self, directory: str | None, idle: float = EVENT_IDLE, only: Sequence[bytes] = (b"",)) -> Iterator[Json]:
        """Events of one directory (of all, without one) as they happen: `{"type": …, "properties": {…}}`.

        `only` names bytes of which one has to stand in an event: the others are passed over unread.
        """
        route = "/event" if directory else "/global/event"
        for line in stream(self.door, Request("GET", _query(route, directory)), idle):
            if line.startswith(b"data:") and any(part in line for part in only):
                event = self._json(line[5:], route)
                yield mapping(mapping(event).get("payload") or event)

    def has(self, route: str, version: str | None) -> bool:
        """Whether this OpenCode has a route. Without a version that is known to have it, its own list is asked once: up
        to 1.0 an unknown route is handed to a web host far away. The list takes 0.2 s there, and 1.4 s on 1.18.33.
        """
        if version_of(version) >= _ROUTES_SINCE:  # an OpenCode is never older than the sessions it wrote
            return True
        if self._routes is None:
            self._routes = frozenset(mapping(self._object("/doc", None).get("paths")))
        return route in self._routes

    def _get(self, path: str, directory: str | None, within: float | None = None, **query: object) -> object:
        request = Request("GET", _query(path, directory, **query))
        return self._json(exchange(self.door, request, within or self._limit), path)

    def _object(self, path: str, directory: str | None, within: float | None = None) -> Json:
        answer = self._get(path, directory, within)
        if not isinstance(answer, Mapping):
            raise self._odd(path, "no object")
        return answer

    def _post(self, path: str, directory: str | None, body: bytes) -> None:
        exchange(self.door, Request("POST", _query(path, directory), body), self._limit)

    def _json(self, body: bytes, path: str) -> object:
        try:
            return orjson.loads(body)
        except ValueError as fault:
            raise self._odd(path, f"no JSON ({fault})") from fault

    def _odd(self, path: str, detail: str) -> DoorError:
        return DoorError(self.door, f"GET {path}", Trouble.GARBAGE, detail)


@lru_cache(maxsize=64)
def connect(door: Door) -> Api:
    """The API behind a door; the same object for the same door, which remembers its list of routes."""
    return Api(door)


def _of_session(answer: object, session: str) -> bool:
    entries: Sequence[object] = answer if isinstance(answer, list) else ()
    return any(mapping(entry).get("sessionID") == session for entry in entries)


def _safe(ident: str) -> str:
    return quote(ident, safe="")  # an id comes from a log: it must not become another route


def _query(path: str, directory: str | None, **query: object) -> str:
    named = {key: str(value) for key, value in query.items()}
    if directory:
        named["directory"] = directory
    return f"{path}?{urlencode(named, quote_via=quote)}" if named else path
