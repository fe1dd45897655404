"""A fake provider on loopback that answers according to a script for each model and records every request.

    with Provider() as provider:
        provider.script("mock/primary", error(429, {"error": {"message": "slow down"}}, {"Retry-After": "3600"}))
        ...
        provider.wait_for(lambda seen: any(r.model == "mock2/fallback" for r in seen))

A provider's name is part of the path (`/p/NAME/v1/…`), so that one server can play any number of providers. A model
without a script answers `ok()`. The record is complete: a request is added when its body has been read, before any part
of the answer is sent.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self

from tests.support.answers import (
    Answer,
    Cut,
    Drop,
    Error,
    Hang,
    MidStream,
    Ok,
    Request,
    Script,
    Stall,
    Tool,
    after_tool,
    bash,
    error,
    in_turn,
    limited,
    midstream,
    ok,
    slow,
    tool,
)
from tests.support.server import Handler, Server
from tests.support.shapes import Shape

__all__ = [
    "Answer",
    "Cut",
    "Drop",
    "Error",
    "Hang",
    "MidStream",
    "Ok",
    "Provider",
    "Request",
    "Script",
    "Shape",
    "Stall",
    "Tool",
    "after_tool",
    "bash",
    "error",
    "in_turn",
    "limited",
    "midstream",
    "ok",
    "slow",
    "tool",
]


def _default(_request: Request) -> Answer:
    return ok()


class Provider:
    """The server. A context manager; safe to use from several threads."""

    def __init__(self, small_models: Sequence[str] = ("smallco/titles",)) -> None:
        """Bind to a free port on loopback; nothing is answered before `__enter__`."""
        self.small_models = frozenset(small_models)
        self.closing = threading.Event()
        self._scripts: dict[str, Script] = {}
        self._requests: list[Request] = []
        self._changed = threading.Condition()
        self._server = Server(("127.0.0.1", 0), Handler)
        self._server.book = self
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    @property
    def url(self) -> str:
        """Return the address with which a provider's `baseURL` begins: `URL/p/NAME/v1`."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        """Start answering."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the server, and end all hanging answers."""
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()

    # ---- scripting

    def script(self, model: str, *answers: Answer | Script) -> None:
        """Set the answers of `provider/model`: in order, the last one repeated; or a function of the request."""
        first = answers[0]
        script = first if callable(first) else in_turn(*(a for a in answers if not callable(a)))
        with self._changed:
            self._scripts[model] = script

    # ---- the record

    def requests(self, model: str | None = None, *, titles: bool = False) -> list[Request]:
        """Return the requests so far, oldest first, of one model or of all; title requests only with `titles`."""
        with self._changed:
            return self._chosen(model, titles)

    def _chosen(self, model: str | None, titles: bool) -> list[Request]:
        if model is not None:
            return [r for r in self._requests if r.model == model]
        return [r for r in self._requests if titles or r.model not in self.small_models]

    def wait_for(
        self, predicate: Callable[[list[Request]], Any], timeout: float = 60.0, *, titles: bool = False
    ) -> list[Request]:
        """Wait until `predicate` is true of the requests so far. It is checked whenever a request arrives or is
        answered.

        Raises:
            TimeoutError: the predicate was not true within `timeout` seconds; the message lists the requests.
        """
        deadline = time.monotonic() + timeout
        with self._changed:
            while True:
                seen = self._chosen(None, titles)
                if predicate(seen):
                    return seen
                left = deadline - time.monotonic()
                if left <= 0:
                    asked = [f"{r.model} -> {r.status}" for r in self._requests]
                    raise TimeoutError(f"not within {timeout:g} s; asked so far: {asked}")
                self._changed.wait(left)

    def wait_requests(self, model: str, number: int = 1, timeout: float = 60.0) -> list[Request]:
        """Wait until at least `number` requests to `model` have received a status. Return all requests to the model."""
        self.wait_for(
            lambda seen: sum(r.model == model and r.status is not None for r in seen) >= number, timeout, titles=True
        )
        return self.requests(model)

    # ---- for the handler

    def arrived(self, request: Request) -> Answer:
        """Record a request and return its answer."""
        with self._changed:
            request.number = len(self._requests)
            request.nth = sum(r.model == request.model for r in self._requests)
            self._requests.append(request)
            request.answer = self._scripts.get(request.model, _default)(request)
            self._changed.notify_all()
            return request.answer

    def note(self, request: Request, **changes: Any) -> None:
        """Record what happened to a request."""
        with self._changed:
            for name, value in changes.items():
                setattr(request, name, value)
            self._changed.notify_all()
