"""Write limits that the companion plugin has just reported to the blacklist, before the engine is imported.

This helps runs that start at the same time: with ten runs on two cores, importing the engine takes seconds, during
which each run would send one more request. Only unambiguous limits are written, that is, responses with status 429 and
a Retry-After header. No strike is recorded, because the engine counts strikes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from ocwatchd.core.classify.reset_times import from_headers
from ocwatchd.core.domain.cooldowns import Cooldown
from ocwatchd.core.domain.types import LimitKind, ModelRef, ResetSource, Scope, Target
from ocwatchd.core.engine.messages import TroubleReported
from ocwatchd.errors import NotAFile
from ocwatchd.ownership import open_plain
from ocwatchd.state.blacklist import store as blacklist
from ocwatchd.state.files import StateError
from ocwatchd.state.plugin_reports import fact

CAP = 1 << 20


Fallback = Callable[[str], tuple[str, str | None] | None]
"""A function that returns the fallback and the fallback's agent for a model. The plugin moves a prompt only if the
model's entry has a target.
"""


def enter_early(
    directory: str,
    grown: Mapping[str, int],
    blacklist_file: str,
    fallback: Fallback,
    now: float,
    agent_chains: Callable[[], Mapping[str, object]] = dict,
) -> None:
    """Write the limits from new plugin reports to the blacklist, unless the model is already cooling down.

    `grown` maps each file name to the offset of its new reports. `agent_chains` returns the chains of individual
    agents, from which the plugin chooses the fallback.
    """
    reported = [entry for name, start in grown.items() for entry in _reported(f"{directory}/{name}", start, now)]
    if not reported:
        return

    def merge(entries: dict[ModelRef, Cooldown]) -> dict[ModelRef, Cooldown]:
        new = {}
        for entry in reported:
            old = entries.get(entry.model)
            if old is None or not old.active(now):
                strikes, doublings = (old.strikes, old.doublings) if old else (0, 0)
                new[entry.model] = _aimed(replace(entry, strikes=strikes, doublings=doublings), fallback)
        return {**entries, **new}

    with suppress(StateError):  # the engine reports this fault later
        chains = dict(agent_chains())
        blacklist.update(Path(blacklist_file), merge, now, {"agent_chains": chains} if chains else None)


def _aimed(entry: Cooldown, fallback: Fallback) -> Cooldown:
    found = fallback(str(entry.model))
    return replace(entry, target=Target(ModelRef.parse(found[0]), found[1])) if found else entry


def _reported(path: str, start: int, now: float) -> list[Cooldown]:
    try:
        fd = open_plain(path)
    except (OSError, NotAFile):
        return []
    try:
        data = os.pread(fd, CAP, start)
    finally:
        os.close(fd)
    report = [found for line in data[: data.rfind(b"\n") + 1].splitlines() if (found := fact(line)) is not None]
    return [entry for found in report if (entry := _cooldown(found, now)) is not None]


def _cooldown(report: TroubleReported, now: float) -> Cooldown | None:
    if report.model is None or report.facts is None or report.facts.status != 429:
        return None
    hint = from_headers(report.facts.headers, report.time)
    if hint is None or hint.reset_source is not ResetSource.RETRY_AFTER or hint.until <= now:
        return None
    try:
        model = ModelRef.parse(report.model)
    except ValueError:
        return None
    words = "429, with a Retry-After"
    return Cooldown(
        model,
        LimitKind.RATE_LIMIT,
        Scope.MODEL,
        report.time,
        hint.until,
        0,
        hint.reset_source,
        None,
        words,
        report.session,
    )
