"""Read the journal for `history`, `explain` and `report`, and find the decision that a user means."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ocwatchd.cli.sessions import MIN_PART, known_sessions, matching, too_short
from ocwatchd.core.history.decisions import Episode, episodes
from ocwatchd.core.history.intervals import cooldown_spans
from ocwatchd.core.history.journal_entries import Entry, read
from ocwatchd.errors import OcwatchError, UsageError
from ocwatchd.paths import state_file
from ocwatchd.state.journal import Journal

LISTED = 8
"""Maximum number of decisions listed in the message about an ambiguous id."""


def entries() -> tuple[Entry, ...]:
    """Return all entries in the journal, or an empty tuple if there is no journal."""
    return read(Journal(Path(state_file("journal.jsonl"))).read())


def with_returns(told: Sequence[Entry], now: float) -> list[Entry]:
    """Return the entries, oldest first, with an additional entry `free` for each cooldown that has run out.

    The journal does not record when a cooldown runs out.
    """
    free = [
        Entry(rest.decision, rest.until, "free", None, rest.model)
        for rest in cooldown_spans(told)
        if rest.over(now) == "time" and rest.until is not None
    ]
    return sorted([*told, *free], key=lambda entry: entry.time)


def decisions(told: Sequence[Entry]) -> dict[str, str]:
    """Return a mapping from each entry's id to the id of its decision."""
    return {line.id: episode.id for episode in episodes(told) for line in episode.lines}


def find(told: Sequence[Entry], wanted: str | None) -> Episode:
    """Return the decision that the user means, or the latest decision if `wanted` is None.

    `wanted` is the id of a journal entry or of a move, a session (its id, a suffix of its id, or its title), or a
    model.

    Raises:
        UsageError: No decision matches, or several do.
        OcwatchError: The journal is empty.
    """
    known = episodes(told)
    if not known:
        raise OcwatchError("the journal is empty: no limit has been seen yet")
    if wanted is None:
        return next((episode for episode in reversed(known) if episode.turn), known[-1])
    if len(wanted) < MIN_PART:
        raise too_short(wanted)
    if "/" in wanted:
        about = [one for one in known if one.model == wanted]
        if not about:
            raise UsageError(
                f"the journal contains no decision about {wanted!r}. To list all: ocwatch history --since 30d"
            )
        return about[-1]
    by_session = [one for one in known if one.session and wanted in _names(one.session)]
    found = by_session[-1:] or [one for one in known if _has(one, wanted)]
    if not found:
        by_end = [one for one in known if one.session and one.session.endswith(wanted)]
        found = by_end[-1:] if len({one.session for one in by_end}) < 2 else by_end
    if not found:
        titled = {one.id for one in matching(wanted, known_sessions())}
        by_title = [one for one in known if one.session in titled]
        found = by_title[-1:] if len({one.session for one in by_title}) < 2 else by_title
    if len(found) == 1:
        return found[0]
    if not found:
        raise UsageError(
            f"the journal contains no decision or session named {wanted!r}. To list all: ocwatch history --since 30d"
        )
    listed = "".join(f"\n  {one.lines[0].id}  {one.session or '-'}  {one.model or '-'}" for one in found[-LISTED:])
    raise UsageError(f"{wanted!r} matches {len(found)} decisions. Type more characters of one of these ids:{listed}")


def _names(session: str) -> tuple[str, str]:
    return session, session.removeprefix("ses_")


def _has(episode: Episode, wanted: str) -> bool:
    """Return whether the decision contains an entry or a move with this id. The short id of an entry is also
    accepted.
    """
    return any(
        wanted in (line.id, line.text("claim")) or line.short == wanted or line.id[13:].startswith(wanted)
        for line in episode.lines
    )
