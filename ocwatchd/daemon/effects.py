"""Carry out the engine's effects in order, each with the handler for its type.

Our own files are written immediately, but work that may block runs on worker threads. Two orderings are guaranteed: the
first cooldown of a model is saved before an endpoint is contacted, and a claim is on disk before its move begins.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ocwatchd.clock import Clock
from ocwatchd.core.engine.messages import (
    Answer,
    Effect,
    Free,
    Move,
    Note,
    Notify,
    Probe,
    Remember,
    ReturnSession,
    SaveBlacklist,
    Shown,
)
from ocwatchd.daemon.blacklist_writer import BlacklistWriter
from ocwatchd.daemon.decisions import Decisions
from ocwatchd.daemon.faults import Faults, FileHealth
from ocwatchd.daemon.journal_buffer import JournalBuffer
from ocwatchd.daemon.lanes import NOTICES, WorkerLanes
from ocwatchd.daemon.notifier import Notifier
from ocwatchd.daemon.opencode_work import OpenCodeWork
from ocwatchd.own_log import outline
from ocwatchd.state import moved_sessions as moved
from ocwatchd.state.files import StateError

log = logging.getLogger(__name__)

Handlers = Mapping[type[Effect], Callable[[Any], None]]
"""Maps each type of effect to the function that carries it out."""


class EffectExecutor:
    """Dispatches effects to their handlers."""

    def __init__(self, handlers: Handlers, faults: Faults) -> None:
        """`handlers` contains a handler for every type of effect. `faults` records exceptions in handlers."""
        self._handlers, self._faults = handlers, faults

    def do(self, effects: Sequence[Effect]) -> None:
        """Carry out all effects in order. An exception in one handler is recorded and does not affect the other
        effects.
        """
        for effect in effects:
            if log.isEnabledFor(logging.DEBUG):
                log.debug("effect: %s", outline(effect))
            with self._faults.survived(type(effect).__name__):
                self._handlers[type(effect)](effect)


def at_endpoints(opencode: OpenCodeWork) -> Handlers:
    """Return the handlers for effects that need a running OpenCode process."""
    return {Probe: opencode.probe, Move: opencode.move, Free: opencode.free, ReturnSession: opencode.return_session}


def daemon_handlers(
    writer: BlacklistWriter,
    journal: JournalBuffer,
    opencode: OpenCodeWork,
    lanes: WorkerLanes,
    notifier: Notifier,
    decisions: Decisions,
    remember: Callable[[Remember], None],
) -> Handlers:
    """Return the daemon's handlers. `remember` records a moved session's primary."""

    def save(effect: SaveBlacklist) -> None:
        writer.add(effect)
        writer.save()

    def answer(effect: Answer) -> None:
        journal.write()  # the claim of a move must be on disk before the move begins
        decisions.answer(effect)

    def notify(effect: Notify) -> None:
        lanes.submit(NOTICES, "Notify", partial(notifier.notify, effect))

    return {
        **at_endpoints(opencode),
        SaveBlacklist: save,
        Shown: writer.show,
        Note: journal.note,
        Answer: answer,
        Remember: remember,
        Notify: notify,
    }


def remember_in(path: Path, clock: Clock, health: FileHealth) -> Callable[[Remember], None]:
    """Return the handler that records the primaries of moved sessions in the file at `path`."""

    def remember(effect: Remember) -> None:
        try:
            moved.remember(path, effect, clock.now())
        except StateError as fault:
            health.fail("moved sessions", str(fault))
        else:
            health.recover("moved sessions")

    return remember
