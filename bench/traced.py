"""Run a daemon that records each of its requests and effects, for `recovery.py --steps`.

It is started as a separate program in place of the daemon. `command(file)` returns its command line. Each line of
`file` is a JSON object, a `Span`.
"""

from __future__ import annotations

import json
import re
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

_IDS = re.compile(r"/(ses|msg|per|que)_[^/?]+")


@dataclass(frozen=True)
class Span:
    """One request or effect of the daemon: times in epoch seconds, and `cpu` in seconds of the thread that ran it."""

    what: str
    begun: float
    ended: float
    cpu: float


def command(file: Path) -> Sequence[str]:
    """Return the command line of a daemon whose spans go to `file`."""
    here = str(Path(__file__).parent)
    program = f"import sys; sys.path.insert(0, {here!r}); import traced; traced.main({str(file)!r})"
    return (sys.executable, "-c", program)


def spans(file: Path) -> list[Span]:
    """Return the spans written so far, in the order in which they ended."""
    lines = file.read_text().splitlines() if file.exists() else []
    return [Span(**json.loads(line)) for line in lines if line.endswith("}")]


def main(file: str) -> None:
    """Patch the functions to be observed, and run the daemon."""
    from ocwatchd.daemon import loop
    from ocwatchd.opencode.client import wire
    from ocwatchd.opencode.discovery.endpoints import EndpointFinder
    from ocwatchd.opencode.sessions.message_store import SessionStore
    from ocwatchd.state import files

    out, lock = Path(file).open("a"), threading.Lock()  # noqa: SIM115 (until the daemon ends)

    def note(what: str, begun: float, cpu: float) -> None:
        span = Span(what, begun, time.time(), time.thread_time() - cpu)
        with lock:
            out.write(json.dumps(asdict(span)) + "\n")
            out.flush()

    def watch(owner: Any, name: str, title: Callable[..., str]) -> None:
        inner = getattr(owner, name)

        def call(*args: Any, **named: Any) -> Any:
            begun, cpu = time.time(), time.thread_time()
            try:
                return inner(*args, **named)
            finally:
                note(title(*args), begun, cpu)

        setattr(owner, name, call)

    def route(request: Any) -> str:
        return f"{request.method} {_IDS.sub('/ID', request.path.partition('?')[0])}"

    inner = wire.exchange_all

    def at_once(endpoint: Any, requests: Any, limit: float) -> Any:
        begun, cpu = time.time(), time.thread_time()
        answers = inner(endpoint, requests, limit)
        for request, answer in zip(requests, answers, strict=True):
            note(f"{route(request)} (at once)", begun, cpu)
            cpu = time.thread_time()
            yield answer

    wire.exchange_all = at_once
    watch(wire, "exchange", lambda _endpoint, request, *_: route(request))
    watch(wire, "stream", lambda _endpoint, request, *_: route(request))
    watch(loop.Loop, "_decide", lambda _loop, message: f"message {type(message).__name__}")
    watch(EndpointFinder, "known", lambda *_: "walk over the process table")
    watch(SessionStore, "session", lambda *_: "OpenCode's database")
    watch(files, "write_atomic", lambda path, *_: f"write {path.name}")
    sys.argv[1:] = []
    loop.main()
