"""Print the output of the private server's session as `opencode run` would: text, or JSON lines.

The formats are those of 1.1 to 1.18: finished text on standard output, and tools on standard error; with `--format
json`, one object per part. Earlier content of the session is skipped: either OpenCode has already printed it, or it was
never finished.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from typing import Protocol, TextIO

from ocwatchd.launcher.messages_to_user import printable
from ocwatchd.opencode.client.v1.responses import Session
from ocwatchd.opencode.client.v1.routes import Api
from ocwatchd.opencode.sessions.messages import Json, mapping, seconds, text

FEW = 30
"""Number of messages per request. It is larger than the number of steps that can end between two requests."""

_EVENTS = {"step-start": "step_start", "text": "text", "tool": "tool_use", "step-finish": "step_finish"}


class Writer(Protocol):
    """A stream for the printed text."""

    def write(self, text: str, /) -> int:
        """Write the text."""
        ...

    def flush(self) -> None:
        """Flush the output."""
        ...


class Printer:
    """Prints the new output of one session. Methods that make a request can raise EndpointError."""

    def __init__(
        self,
        api: Api,
        session: Session,
        as_json: bool = False,
        out: Writer | None = None,
        err: TextIO | None = None,
        now: Callable[[], float] = time.time,
        since: float = float("inf"),
    ) -> None:
        """Mark the existing content as printed, except for messages that began at or after `since` (epoch seconds).

        The remaining parts of an unfinished answer are printed when the answer finishes without an error.
        """
        self._api, self._session, self._json = api, session, as_json
        self._out, self._err, self._now = out or sys.stdout, err or sys.stderr, now
        self._old: set[str] = set()
        self._open: set[str] = set()
        self._printed: set[str] = set()
        for ident, info, parts in self._messages():
            if created(info) >= since:
                continue
            (self._old if _ended(info) or info.get("role") != "assistant" else self._open).add(ident)
            self._printed |= {str(part.get("id")) for part in parts if _finished(part, closed=False)}

    def poll(self) -> None:
        """Print the parts finished since the last call."""
        for ident, info, parts in self._messages():
            if ident in self._old or info.get("role") != "assistant":
                continue
            closed = _ended(info) and not info.get("error")
            if ident in self._open and not closed:
                continue
            for part in parts:
                key = text(part.get("id"))
                if key and key not in self._printed and _finished(part, closed):
                    self._printed.add(key)
                    self._print(part)
        self._out.flush()

    def error(self, message: str, raw: Json) -> None:
        """Print the error that ended the session's turn."""
        if self._json:
            self._event("error", {"error": raw})
            self._out.flush()
        else:
            print(printable(f"Error: {message}"), file=self._err, flush=True)

    def _messages(self) -> Iterator[tuple[str, Json, list[Json]]]:
        for entry in self._api.raw_messages(self._session.id, self._session.directory, FEW):
            info, parts = mapping(entry.get("info")), entry.get("parts")
            ident = text(info.get("id"))
            if ident:
                yield ident, info, list(map(mapping, parts)) if isinstance(parts, list) else []

    def _print(self, part: Json) -> None:
        kind = part.get("type")
        if self._json:
            if kind in _EVENTS:
                self._event(_EVENTS[kind], {"part": part})
        elif kind == "text":
            said = str(part.get("text", "")).strip()
            if said:
                self._out.write(said + "\n")
        elif kind == "tool":
            title = mapping(part.get("state")).get("title")
            print(printable(f"| {part.get('tool')}  {title or ''}".rstrip()), file=self._err, flush=True)

    def _event(self, kind: str, more: Json) -> None:
        event = {"type": kind, "timestamp": int(self._now() * 1000), "sessionID": self._session.id, **more}
        self._out.write(json.dumps(event, separators=(",", ":"), ensure_ascii=False) + "\n")


def created(info: Json) -> float:
    """Return the time at which a message was created, in epoch seconds, or 0 if the time is unknown."""
    return seconds(mapping(info.get("time")).get("created")) or 0.0


def _ended(info: Json) -> bool:
    return mapping(info.get("time")).get("completed") is not None


def _finished(part: Json, closed: bool) -> bool:
    """Return whether a part is final. `closed` is True if the part's message has ended without an error."""
    match part.get("type"):
        case "text":
            return not part.get("synthetic") and (closed or mapping(part.get("time")).get("end") is not None)
        case "tool":
            return mapping(part.get("state")).get("status") in ("completed", "error")
        case _:
            return True
