"""What the companion plugin has just told of a limit, entered in the register before the brain is even imported.

For all who start at this moment: with ten runs at once on two cores the brain takes seconds, and each of them sends one
more request meanwhile. Only what leaves nothing to judge is entered, a 429 with its Retry-After, and without a strike:
counting is the brain's.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from ocwatchd.core.hints import from_headers
from ocwatchd.core.ledger import Cooldown
from ocwatchd.core.limits import LimitKind, ModelRef, Scope, Target, ToldBy
from ocwatchd.core.messages import Heard
from ocwatchd.state import blacklist
from ocwatchd.state.facts import fact
from ocwatchd.state.files import StateError

CAP = 1 << 20


StandIn = Callable[[str], tuple[str, str | None] | None]
"""Model and agent that stand in for a model now: without them in the entry the plugin moves no prompt."""


def enter_early(directory: str, grown: Mapping[str, int], register: str, stand_in: StandIn, now: float) -> None:
    """Enter what stands in these files of facts from these offsets on, unless the model is listed already."""
    told = [entry for name, start in grown.items() for entry in _told(f"{directory}/{name}", start, now)]
    if not told:
        return

    def merge(entries: dict[ModelRef, Cooldown]) -> dict[ModelRef, Cooldown]:
        new = {entry.model: _aimed(entry, stand_in) for entry in told if entry.model not in entries}
        return {**entries, **new}

    with suppress(StateError):  # the brain will say so
        blacklist.update(Path(register), merge, now)


def _aimed(entry: Cooldown, stand_in: StandIn) -> Cooldown:
    found = stand_in(str(entry.model))
    return replace(entry, target=Target(ModelRef.parse(found[0]), found[1])) if found else entry


def _told(path: str, start: int, now: float) -> list[Cooldown]:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return []
    try:
        data = os.pread(fd, CAP, start)
    finally:
        os.close(fd)
    heard = [found for line in data[: data.rfind(b"\n") + 1].splitlines() if (found := fact(line)) is not None]
    return [entry for found in heard if (entry := _cooldown(found, now)) is not None]


def _cooldown(heard: Heard, now: float) -> Cooldown | None:
    if heard.model is None or heard.facts is None or heard.facts.status != 429:
        return None
    hint = from_headers(heard.facts.headers, heard.time)
    if hint is None or hint.told_by is not ToldBy.RETRY_AFTER or hint.until <= now:
        return None
    try:
        model = ModelRef.parse(heard.model)
    except ValueError:
        return None
    words = "429, with a Retry-After"
    return Cooldown(
        model, LimitKind.RATE_LIMIT, Scope.MODEL, heard.time, hint.until, 0, hint.told_by, None, words, heard.session
    )
