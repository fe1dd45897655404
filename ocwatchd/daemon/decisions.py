"""Answer the companion plugin's questions about refused attempts (OpenCode 2's `retry` hook) over a local socket.

Each connection carries one request and one response; after the response `hold`, a second response follows. The plugin
then reports its action or disconnects. After a move, the plugin also reports whether the fallback has begun to answer.
If no response arrives within 300 ms, the plugin continues as it would without ocwatchd.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import orjson

from ocwatchd.clock import Clock
from ocwatchd.core.domain.capability import Needs
from ocwatchd.core.domain.types import ModelRef
from ocwatchd.core.engine.messages import Acted, Answer, Asked, Failure, Verified, WhatNext
from ocwatchd.opencode.client.request import bind_file
from ocwatchd.opencode.client.v2.errors import error_of
from ocwatchd.opencode.client.v2.events import hint_of
from ocwatchd.opencode.sessions.messages import Json, mapping, text
from ocwatchd.ownership import give_socket
from ocwatchd.state.files import make_private_dir

ANSWER_TIMEOUT = 0.28
"""Time, in seconds, after which a response is no longer sent, because the plugin has stopped waiting for it."""
MAX_LINE = 256 << 10
"""Maximum size of one line in bytes. The plugin shortens an error's message and body to 16 K characters each."""
MAX_CONNECTIONS = 256
"""Maximum number of open connections, including those of attempts that the plugin is holding. Further connections are
closed without a response.
"""
QUESTION_TIMEOUT = 2.0
"""Time, in seconds, within which the plugin must send its request on a new connection."""
VERSION = 1


@dataclass(slots=True)
class _Asker:
    line: socket.socket
    since: float
    answered: bool = False


class Decisions:
    """The server of the local socket. Its threads read the plugin's requests and pass them to `post`. The method
    `answer` is thread-safe.
    """

    def __init__(self, path: Path, post: Callable[[Asked | Acted | Verified], None], clock: Clock) -> None:
        """Store the arguments; `open` creates the socket."""
        self._path, self._post, self._clock = path, post, clock
        self._askers: dict[int, _Asker] = {}
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._server: socket.socket | None = None

    def open(self) -> None:
        """Listen for connections from this user's processes.

        A socket left over from an earlier run is replaced, because only one daemon runs at a time.

        Raises:
            OSError: The socket cannot be created.
            StateError: The directory belongs to another user.
        """
        make_private_dir(self._path.parent)
        self._path.unlink(missing_ok=True)
        server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            bind_file(server, str(self._path))
            self._path.chmod(0o600)
            give_socket(self._path)
            server.listen(MAX_CONNECTIONS)
        except OSError:
            server.close()
            raise
        self._server = server
        threading.Thread(target=self._accept, args=(server,), name="decisions", daemon=True).start()

    def close(self) -> None:
        """Stop listening, and disconnect the waiting plugins."""
        server, self._server = self._server, None
        if server is None:
            return
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            server.shutdown(socket.SHUT_RDWR)
        server.close()
        with self._lock:
            askers, self._askers = list(self._askers.values()), {}
        for asker in askers:
            _end(asker.line)

    def answer(self, answer: Answer) -> None:
        """Send the response to a request.

        A late response is not sent. Instead, the connection is closed, because the plugin has already continued without
        a response.
        """
        with self._lock:
            asker = self._askers.get(answer.number)
        if asker is None:
            return
        late = not asker.answered and time.monotonic() - asker.since > ANSWER_TIMEOUT
        asker.answered = True
        if late:
            _end(asker.line)
            return
        said: dict[str, object] = {"version": VERSION, "verdict": answer.verdict.value}
        if answer.target is not None:
            said |= {"model": str(answer.target.model), "agent": answer.target.agent}
        if answer.verdict is WhatNext.HOLD:
            said["until"] = answer.until
        try:
            asker.line.sendall(orjson.dumps(said) + b"\n")
        except OSError:
            _end(asker.line)

    def _accept(self, server: socket.socket) -> None:
        while True:
            try:
                line, _ = server.accept()
            except OSError:
                if self._server is not server:
                    return
                time.sleep(0.1)  # too many files are open; until one is closed, plugins continue without the daemon
                continue
            if len(self._askers) >= MAX_CONNECTIONS or not _is_own(line):
                line.close()
                continue
            threading.Thread(target=self._converse, args=(line,), name="question", daemon=True).start()

    def _converse(self, line: socket.socket) -> None:
        number = next(self._numbers)
        with line, line.makefile("rb") as reader:
            report = self._asked(line, reader, number)
            if report is None:
                return
            self._post(Acted(number, report.get("done") is True, text(report.get("why")) or ""))
            if report.get("later") is True:
                seen = _next_line(reader)
                why = text(seen.get("why")) or "OpenCode disconnected before it reported the fallback's answer"
                self._post(Verified(number, seen.get("answers") is True, why))

    def _asked(self, line: socket.socket, reader: BinaryIO, number: int) -> Json | None:
        """Read the request and post it. Then wait for the plugin's report on its action, and return that report. Return
        None if there was no valid request.
        """
        try:
            line.settimeout(QUESTION_TIMEOUT)
            question = question_of(reader.readline(MAX_LINE), number, self._clock.now())
            line.settimeout(None)
        except OSError:
            return None
        if question is None:
            return None
        with self._lock:
            self._askers[number] = _Asker(line, time.monotonic())
        try:
            self._post(question)
            return _next_line(reader) or {"why": "the plugin disconnected without a report"}
        finally:
            with self._lock:
                self._askers.pop(number, None)


def _next_line(reader: BinaryIO) -> Json:
    """Return the next line as a JSON object. Return an empty object if the plugin has disconnected."""
    try:
        return _parsed(reader.readline(MAX_LINE))
    except OSError:
        return {}


def question_of(line: bytes, number: int, now: float) -> Asked | None:
    """Parse one line as a request. Return None if the line is not a valid request."""
    said = _parsed(line)
    provider, _, name = (text(said.get("model")) or "").partition("/")
    session, model, error = text(said.get("session")), ModelRef.of(provider, name), error_of(said.get("error"))
    attempt, decision = said.get("attempt"), mapping(said.get("decision"))
    if said.get("version") != VERSION or session is None or model is None or error is None:
        return None
    if not isinstance(attempt, int) or isinstance(attempt, bool):
        return None
    refusals = max(attempt - 1, 1)  # OpenCode gives the first retry the number 2
    told = decision.get("delay")
    again = decision.get("retry") is True and isinstance(told, int | float) and 0 <= told < float("inf")
    delay = float(told) / 1000 if again and isinstance(told, int | float) else None
    hint = hint_of(refusals, now + delay, now) if delay else None
    failure = Failure(session, model, text(said.get("agent")), now, error, hint, live=True, final=delay is None)
    pid = said.get("pid")
    return Asked(
        number,
        failure,
        refusals,
        delay,
        pid if isinstance(pid, int) else None,
        text(said.get("directory")),
        _needs(mapping(said.get("needs"))),
    )


def _needs(told: Json) -> Needs:
    tokens, inputs = told.get("tokens"), told.get("inputs")
    return Needs(
        tokens if isinstance(tokens, int) and not isinstance(tokens, bool) and tokens > 0 else 0,
        frozenset(str(kind)[:20] for kind in inputs[:8]) if isinstance(inputs, list) else frozenset(),
        told.get("tools") is True,
    )


def _parsed(line: bytes) -> Json:
    try:
        return mapping(orjson.loads(line)) if line.endswith(b"\n") else {}
    except ValueError:
        return {}


def _is_own(line: socket.socket) -> bool:
    """Return whether the peer process belongs to this user or root. On systems other than Linux, return True, because
    the directory's mode protects the socket.
    """
    if sys.platform != "linux":
        return True
    _, uid, _ = struct.unpack("3i", line.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
    return uid in (os.getuid(), 0) or os.getuid() == 0


def _end(line: socket.socket) -> None:
    with contextlib.suppress(OSError):
        line.shutdown(socket.SHUT_RDWR)
