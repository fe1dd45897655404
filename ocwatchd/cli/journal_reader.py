"""The journal as the commands that look back need it: read, checked, and found again by what a person types."""

from __future__ import annotations

from collections.abc import Sequence

from ocwatchd.cli.places import state_file
from ocwatchd.core.entries import Entry, read
from ocwatchd.core.spans import rests
from ocwatchd.core.story import Episode, episodes
from ocwatchd.errors import OcwatchError, UsageError
from ocwatchd.state.journal import Journal

LEAST = 4
"""Characters that an id or the end of a session's name must have."""
LISTED = 8
"""Decisions that an ambiguous id lists."""


def entries() -> tuple[Entry, ...]:
    """Every line of the journal; none where there is no journal."""
    from pathlib import Path

    return read(Journal(Path(state_file("journal.jsonl"))).read())


def with_returns(told: Sequence[Entry], now: float) -> list[Entry]:
    """The same, and a line `free` where a cooldown ended by itself: nobody acts then, so nobody notes it."""
    free = [
        Entry(rest.decision, rest.until, "free", None, rest.model)
        for rest in rests(told)
        if rest.over(now) == "time" and rest.until is not None
    ]
    return sorted([*told, *free], key=lambda entry: entry.time)


def decisions(told: Sequence[Entry]) -> dict[str, str]:
    """Each line's id with the id of its decision."""
    return {line.id: episode.id for episode in episodes(told) for line in episode.lines}


def find(told: Sequence[Entry], wanted: str | None) -> Episode:
    """The decision that a person means: by the id of any of its lines or move, by session, by model, or the latest one.

    Raises:
        UsageError: there is none, or there are several.
        OcwatchError: the journal is empty.
    """
    known = episodes(told)
    if not known:
        raise OcwatchError("the journal is empty: no limit was seen yet")
    if wanted is None:
        return next((episode for episode in reversed(known) if episode.turn), known[-1])
    if len(wanted) < LEAST:
        raise UsageError(f"{wanted!r} is too short; type at least {LEAST} characters of it")
    if "/" in wanted:
        about = [one for one in known if one.model == wanted]
        if not about:
            raise UsageError(f"no decision about {wanted!r} in the journal; see: ocwatch history --since 30d")
        return about[-1]
    by_session = [one for one in known if one.session and wanted in _names(one.session)]
    found = by_session[-1:] or [one for one in known if _has(one, wanted)]
    if not found:
        by_end = [one for one in known if one.session and one.session.endswith(wanted)]
        found = by_end[-1:] if len({one.session for one in by_end}) < 2 else by_end
    if len(found) == 1:
        return found[0]
    if not found:
        raise UsageError(f"no decision and no session {wanted!r} in the journal; see: ocwatch history --since 30d")
    listed = "".join(f"\n  {one.lines[0].id}  {one.session or '-'}  {one.model or '-'}" for one in found[-LISTED:])
    raise UsageError(f"{wanted!r} may mean {len(found)} decisions; type more of one:{listed}")


def _names(session: str) -> tuple[str, str]:
    return session, session.removeprefix("ses_")


def _has(episode: Episode, wanted: str) -> bool:
    """By the short id, the whole one, or the move's own name."""
    return any(
        wanted in (line.id, line.text("claim")) or line.short == wanted or line.id[13:].startswith(wanted)
        for line in episode.lines
    )
