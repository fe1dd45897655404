"""Search OpenCode's message store for answers of models that another machine has reported as limited.

A report does not cause running sessions to be moved, so an answer in such a session can prove that the report is out of
date. The store is a database of several megabytes. It is read only while a report applies, and only after OpenCode has
written to it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

from ocwatchd.core.domain.types import ModelRef
from ocwatchd.opencode.sessions.message_store import Answer

PAUSE = 3.0
"""Minimum interval, in seconds, between checks while OpenCode is writing; a check takes a few milliseconds."""
LATER = 1.0
"""An answer proves that a limit is over only if the answer's request was made more than this many seconds after the
beginning of the limit.
"""


class Store(Protocol):
    """The part of `SessionStore` that this module uses."""

    def mark(self) -> float:
        """Return the time of the last write to the store."""
        ...

    def answers(self, since: float) -> Iterable[Answer]:
        """Return the answers that began at or after `since`, in epoch seconds."""
        ...


class Answers:
    """Finds answers of models that were reported as limited. The answers are read from the message store of one
    home.
    """

    def __init__(self, store: Store) -> None:
        """Store the arguments. The message store is not read before `of` is called."""
        self._store = store
        self._mark = self._looked = 0.0
        self._asked: Mapping[ModelRef, float] = {}

    def of(self, reported: Mapping[ModelRef, float], now: float) -> set[ModelRef]:
        """Return the reported models that have answered a request that was made after their limit began.

        `reported` maps each model or `provider/*` to the beginning of its limit, in epoch seconds.
        """
        if not reported or 0 <= now - self._looked < PAUSE:
            return set()
        self._looked, mark = now, self._store.mark()
        if mark == self._mark and reported == self._asked:
            return set()
        self._mark, self._asked = mark, dict(reported)
        found: set[ModelRef] = set()
        for answer in self._store.answers(min(reported.values())):
            model = answer.message.model
            for key in () if model is None else (model, model.whole_provider):
                if key in reported and _answered(answer, reported[key]):
                    found.add(key)
        return found


def _answered(answer: Answer, since: float) -> bool:
    """Return whether this is a successful answer to a request made more than LATER seconds after `since`."""
    message = answer.message
    begun = message.created is not None and message.created > since + LATER
    spent = message.tokens is not None and message.tokens.spent > 0
    return begun and spent and message.completed is not None and message.error is None
