"""`ocwatch explain [ID]`: one decision in full: the evidence, the rule, the hint, what the door showed, the choice."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping

from ocwatchd.cli.escape import escape
from ocwatchd.cli.history import day, say_what, stamp
from ocwatchd.cli.past import entries, find
from ocwatchd.cli.render import clock, hanging, iso, say, say_json, span
from ocwatchd.core.entries import Entry, moment
from ocwatchd.core.figures import cost
from ocwatchd.core.spans import rests
from ocwatchd.core.story import Episode
from ocwatchd.core.wording import word
from ocwatchd.errors import ExitCode

Row = tuple[str, str]
"""A label and what is said under it; an empty label goes on with the one before."""

LABEL = 11
OUTCOMES = {
    "moved": "moved to another model",
    "already": "went on by itself",
    "answered": "went on with the same model",
    "went_on": "went on with the same model",
    "stopped": "stopped by its user",
    "user_took_over": "taken over by its user",
    "freed": "stopped for the session that waits for it",
    "open": "not over yet",
    "noted": "nothing to decide",
    "foreseen": "new prompts go elsewhere, nobody was refused",
    "prevented": "a new prompt went another way",
}


def explain(wanted: str | None = None, as_json: bool = False) -> int:
    """Tell one decision: by an id of `history`, by session, or the latest one.

    Raises:
        UsageError: there is no such decision, or there are several.
        OcwatchError: the journal is empty.
    """
    now, told = time.time(), entries()
    episode = find(told, wanted)
    spent = cost([episode] if episode.turn else [], rests(told), 0.0, now)
    if as_json:
        say_json({
            "time": iso(now), "id": episode.id, "session": episode.session, "model": episode.model,
            "outcome": episode.outcome, "began": iso(episode.began), "went_on": iso(_went_on(episode, now)),
            "lost_seconds": round(spent.lost, 3), "saved_seconds": round(spent.saved, 3),
            "to_come_seconds": round(spent.to_come, 3), "text": list(_lines(episode)),
            "entries": [dict(line.raw) for line in episode.lines],
        })  # fmt: skip
        return ExitCode.DONE
    say("\n".join(_lines(episode)))
    if episode.turn:
        say("\n".join(_rows(_cost_rows(episode, spent.lost, spent.saved, spent.to_come, now))))
    return ExitCode.DONE


def _went_on(episode: Episode, now: float) -> float | None:
    return episode.recovered(now) if episode.turn and episode.closing else None


def _lines(episode: Episode) -> Iterator[str]:
    who = f", session {escape(episode.session)}" if episode.session else ""
    yield from hanging("", f"Decision {episode.id}{who}: {_outcome(episode)}.", "")
    yield day(episode.began)
    refused = 0
    for line in episode.lines:
        refused += line.what == "limit"
        yield ""
        head = f"{stamp(line.time)}  {word(line).upper()}  "
        yield from hanging(head, escape(say_what(line)), "    ")
        yield from _rows(_details(line, refused))


def _outcome(episode: Episode) -> str:
    first = episode.lines[0].what
    told = first in ("foreseen", "prevented") and not episode.turn
    return OUTCOMES.get(first if told else episode.outcome, episode.outcome)


def _details(line: Entry, refused: int) -> Iterator[Row]:
    """What stands under a line; of a later refusal only what may differ."""
    if line.what == "limit":
        yield from _evidence(line, again=refused > 1)
    elif line.what == "foreseen":
        yield from _foreseen(line)
    elif line.what in ("wait", "claim", "left", "offered", "exhausted", "rejected"):
        yield from _shown(line)
    if line.what == "claim":
        yield "why move", line.text("why") or "not written down"
        if line.text("agent"):
            yield "agent", line.text("agent") or ""
    yield from _choice(line)
    if line.what in ("moved", "already", "user_took_over", "refused") and line.text("why"):
        yield "seen", line.text("why") or ""


def _evidence(line: Entry, again: bool) -> Iterator[Row]:
    status = line.number("evidence", "status")
    words = line.text("reason") or "no words"
    yield "words", f"“{words}”" + (f" (HTTP {status:.0f})" if status else "")
    place = line.number("offset")
    if line.text("file"):
        yield "log line", f"{line.text('file')}, byte {place:.0f}" if place is not None else str(line.text("file"))
    else:
        yield "seen", "through the door, not in the log"
    if again:
        return
    because = line.text("evidence", "because")
    yield "rule", (line.text("rule") or "none") + (f": {because}" if because else "")
    yield "hint", _hint(line)
    if line.text("evidence", "target"):
        yield "stand-in", f"{line.text('evidence', 'target')}, for new prompts"


def _foreseen(line: Entry) -> Iterator[Row]:
    yield "forecast", line.text("why") or "not written down"
    hits = line.moment("forecast", "hits")
    if hits is not None:
        yield "limit", f"reached {clock(hits, line.time)} if use goes on so"
    yield "why move", "new prompts go elsewhere before the limit (forecast.prevent); a running turn stays"
    yield "stand-in", f"{line.text('target')}, for new prompts"


def _hint(line: Entry) -> str:
    source = line.text("evidence", "hint", "source")
    if source is None:
        return (
            "nobody said until when: the configured rest" if line.text("told_by") == "backoff" else "not written down"
        )
    end = line.moment("evidence", "hint", "until")
    tamed = line.text("evidence", "hint", "tamed")
    return f"{source}" + (f", until {clock(end, line.time)}" if end else "") + (f" (tamed: {tamed})" if tamed else "")


def _shown(line: Entry) -> Iterator[Row]:
    state = line.text("shown", "state")
    if state is None:
        return
    attempt, coming = line.number("shown", "attempt"), line.moment("shown", "next")
    parts = [state]
    if attempt is not None:
        parts.append(f"attempt {attempt:.0f}")
    if coming is not None:
        parts.append(f"next one in {span(coming - line.time)} ({clock(coming, line.time)})")
    version = line.text("shown", "version")
    where = f"; OpenCode {version}" if version else ""
    yield "door shows", f"{', '.join(parts)}{where} at {line.text('shown', 'door')}"
    if line.text("shown", "words"):
        yield "", f"“{line.text('shown', 'words')}”"


def _choice(line: Entry) -> Iterator[Row]:
    label = "choice"
    for row in line.rows("considered"):
        yield label, _considered(row, line.time)
        label = ""


def _considered(row: Mapping[str, object], now: float) -> str:
    end = moment(row.get("until"))
    mark = "->" if row.get("chosen") is True else " -"
    return f"{mark} {row.get('model')}: {row.get('why')}" + (f" until {clock(end, now)}" if end else "")


def _cost_rows(episode: Episode, lost: float, saved: float, to_come: float, now: float) -> Iterator[Row]:
    yield "", ""
    until = "so far" if episode.closing is None else "from the first refusal on"
    yield "lost", f"{_seconds(lost)} {until}"
    end = episode.waited_until()
    if end is not None:
        more = f", and {span(to_come)} to come" if to_come else ""
        yield "saved", f"{span(saved)}{more}: the wait that was told would have lasted until {clock(end, now)}"


def _seconds(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 60 else span(seconds)


def _rows(rows: Iterable[Row]) -> Iterator[str]:
    for label, text in rows:
        yield from hanging(f"    {label:<{LABEL}}", escape(text), " " * (4 + LABEL)) if text else iter([""])
