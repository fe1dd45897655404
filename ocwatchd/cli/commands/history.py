"""`ocwatch history`: list the limits, waits, moves and returns in the journal, oldest first.

`ocwatch explain [ID]`: explain one decision, with its evidence, its rule, the reset time, what OpenCode showed, and the
models considered.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NoReturn

from ocwatchd.cli.journal_reader import decisions, entries, find, with_returns
from ocwatchd.cli.output.escape import escape
from ocwatchd.cli.output.render import columns, fit, hanging, iso, say, say_json
from ocwatchd.cli.sessions import TITLE_WIDTH, known_sessions, matching, named_session, no_such, whole_id
from ocwatchd.cli.times import since_of
from ocwatchd.core.history.decisions import Episode
from ocwatchd.core.history.intervals import cooldown_spans
from ocwatchd.core.history.journal_entries import Entry, moment
from ocwatchd.core.history.wording import NO_STORY, phrase, word
from ocwatchd.errors import ExitCode, UsageError
from ocwatchd.opencode.sessions.names import SessionName, session_names
from ocwatchd.paths import data_directory, state_file
from ocwatchd.time_words import about, clock, exactly, span, stamp

DEFAULT_SINCE = "24h"
"""The length of the period, ending now, that `history` covers by default."""
SAME_WAIT = frozenset(("limit", "told", "unanswered", "doubtful"))
"""The kinds of events after which a session is still waiting."""
FOLLOW_INTERVAL = 0.5
"""Interval, in seconds, at which `--follow` reads the journal."""


def history(
    since: str | None = None,
    session: str | None = None,
    as_json: bool = False,
    most: int | None = None,
    follow: bool = False,
) -> int:
    """List the events after `since`, by default the last 24 hours. With `session`, list only that session's events.

    `most` is the maximum number of events; if there are more, only the newest are listed. With `follow`, print new
    events until Ctrl-C.

    Raises:
        UsageError: `since` is not a time, the session does not exist, or `follow` and `as_json` are both given.
    """
    if follow and as_json:
        raise UsageError("use either --follow or --json: a JSON document cannot be endless")
    now = time.time()
    begin = since_of(since or DEFAULT_SINCE, now)
    told = entries()
    named = decisions(told)
    wanted = None if session is None else _whole(session, told)
    lines = [line for line in with_returns(told, now) if line.time >= begin and wanted in (None, line.session)]
    if most is not None:
        lines = (lines if as_json else lines_to_show(lines))[-most:]
    titles = Titles()
    if as_json:
        rows = [_as_json(line, named.get(line.id)) for line in lines]
        reaches = iso(told[0].time) if told else None
        say_json({"time": iso(now), "since": iso(begin), "journal_begins": reaches, "events": rows})
    else:
        say(
            "\n".join(_text(lines, named, titles))
            if lines
            else _nothing([line for line in told if wanted in (None, line.session)], begin, now)
        )
    if follow:
        _follow(wanted, now, titles)
    return ExitCode.DONE


def _follow(session: str | None, since: float, titles: Titles) -> NoReturn:
    """Print each event after `since` as the journal grows, until a signal ends the process."""
    seen = {(line.id, line.what) for line in with_returns(entries(), since)}
    mark = None
    while True:
        sys.stdout.flush()
        time.sleep(FOLLOW_INTERVAL)
        try:
            info = os.stat(state_file("journal.jsonl"))  # noqa: PTH116 (a Path costs 5 ms of CPU time)
        except OSError:
            continue
        if mark != (mark := (info.st_ino, info.st_size)):
            told = entries()
            lines = with_returns(told, time.time())
            shown = [one for one in lines_to_show(lines) if session in (None, one.session)]
            fresh = [one for one in shown if (one.id, one.what) not in seen]
            seen.update((one.id, one.what) for one in lines)
            named = decisions(told)
            for line in fresh:
                say("\n".join(_event(line, named, titles)))


def lines_to_show(lines: Sequence[Entry]) -> list[Entry]:
    """Return the entries to show, without repetitions. The start of a move is left out if the move's result is known.
    Consecutive decisions to wait in the same turn are combined into one entry.
    """
    ended = {line.text("claim") for line in lines if line.what not in NO_STORY}
    waiting = dict[str, str | None]()
    shown = []
    for line in lines:
        if line.what in NO_STORY and line.text("claim") in ended:
            continue
        if line.session and line.what == "wait":
            if line.session in waiting and waiting[line.session] == line.model:
                continue
            waiting[line.session] = line.model
        elif line.session and line.what not in SAME_WAIT:
            waiting.pop(line.session, None)
        shown.append(line)
    return shown


class Titles:
    """Provides the titles of sessions. OpenCode's stores are read when the first title is needed."""

    def __init__(self) -> None:
        """Initialize the object without reading any file."""
        self._names: dict[str, SessionName] | None = None

    def of(self, session: str | None) -> SessionName | None:
        """Return the session's name, or None if `session` is None. The name contains no title if no store contains the
        session.
        """
        if session is None:
            return None
        if self._names is None or session not in self._names:
            self._names = {session: SessionName(session)}
            self._names |= {name.id: name for name in session_names(data_directory())}
        return self._names[session]

    def ending(self, line: Entry) -> str:
        """Return the end of a sentence that names the entry's session, such as `, in “Fix the tests”`. If the session
        has no title, return an empty string.
        """
        name = self.of(line.session)
        return f", in “{fit(name.title, TITLE_WIDTH)}”" if name is not None and name.title else ""


def say_what(line: Entry) -> str:
    """Return the journal entry as a sentence, with times in local time."""
    return phrase(line, lambda at: clock(at, line.time))


def day(epoch: float) -> str:
    """Return the local date of a time in epoch seconds, for example `Mon 30 Nov 2026`."""
    return time.strftime("%a %d %b %Y", time.localtime(epoch))


def _whole(part: str, told: Sequence[Entry]) -> str:
    """Return the full id of the session that the user named by part of its id or title.

    If several sessions match, those in the journal take precedence.

    Raises:
        UsageError: No session matches, or several do; the message lists the candidates or similar sessions.
    """
    known = known_sessions()
    ids = {one.id for one in known}
    known += [
        SessionName(ident) for ident in dict.fromkeys(line.session for line in told) if ident and ident not in ids
    ]
    of_journal = {line.session for line in told}
    found = matching(part, known)
    if len(found) > 1:
        found = [one for one in found if one.id in of_journal] or found
    if not found:
        raise no_such(part, known)
    return found[0].id if len(found) == 1 else whole_id(part, found)


def _text(lines: Sequence[Entry], named: dict[str, str], titles: Titles) -> Iterator[str]:
    today = None
    for line in lines_to_show(lines):
        if day(line.time) != today:
            yield from ([] if today is None else [""])
            today = day(line.time)
            yield today
        yield from _event(line, named, titles)


def _event(line: Entry, named: dict[str, str], titles: Titles) -> Iterator[str]:
    head = f"{stamp(line.time, line.time)}  {escape(named.get(line.id, line.id)):<6}  {escape(word(line)):<9}  "
    yield from hanging(head, escape(say_what(line) + titles.ending(line)), " " * columns(head))


def _nothing(told: Sequence[Entry], begin: float, now: float) -> str:
    if not told:
        return "Nothing has happened yet."
    age = now - told[-1].time
    last = f"the latest event was {span(age)} ago. To see it: ocwatch history --since {_days(age)}d"
    return f"Nothing has happened since {clock(begin, now)}; {last}"


def _days(seconds: float) -> int:
    """Return `seconds` in days, rounded up so that the printed command still covers the event a few hours later."""
    return int(seconds // 86400) + 1


def _as_json(line: Entry, decision: str | None) -> dict[str, object]:
    own = {key: value for key, value in line.raw.items() if key != "version"}
    return {
        **own,
        "id": line.id if line.raw else None,
        "decision": decision or line.id,
        "time": iso(line.time),
        "what": line.what,
        "session": line.session,
        "model": line.model,
        "text": say_what(line),
    }


Row = tuple[str, str]
"""A label and its text. A row with an empty label continues the row above it."""

LABEL = 12
"""Width of the labels, in columns."""
OUTCOMES = {
    "moved": "moved to another model",
    "already": "continued by itself",
    "answered": "continued with the same model",
    "went_on": "continued with the same model",
    "stopped": "stopped by you",
    "user_took_over": "replaced by another prompt from you",
    "freed": "stopped, so that its parent session continues",
    "open": "not over yet",
    "noted": "no action was needed",
    "foreseen": "new prompts go to a fallback; no request was refused",
    "prevented": "a new prompt went to another model",
    "blocked": "you blocked the model",
    "cleared": "you ended the cooldown",
}


def explain(wanted: str | None = None, as_json: bool = False) -> int:
    """Print one decision in full. `wanted` is its id, or a session or model whose latest decision is printed. Without
    `wanted`, print the most recent decision.

    Raises:
        UsageError: No decision matches, or several do.
        OcwatchError: The journal is empty.
    """
    from ocwatchd.core.history.metrics import cost  # lazy import: not needed by `history`

    now, told = time.time(), entries()
    episode = find(told, wanted)
    spent = cost([episode] if episode.turn else [], cooldown_spans(told), 0.0, now)
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
    who = f", session {escape(named_session(episode.session, Titles().of(episode.session)))}" if episode.session else ""
    yield from hanging("", f"Decision {escape(episode.id)}{who}: {escape(_outcome(episode))}.", "")
    yield day(episode.began)
    refused = 0
    for line in episode.lines:
        refused += line.what == "limit"
        yield ""
        head = f"{stamp(line.time, line.time)}  {escape(word(line).upper())}  "
        yield from hanging(head, escape(say_what(line)), "    ")
        yield from _rows(_details(line, refused))


def _outcome(episode: Episode) -> str:
    first = episode.lines[0].what
    told = first in ("foreseen", "prevented", "blocked", "cleared") and not episode.turn
    return OUTCOMES.get(first if told else episode.outcome, episode.outcome)


def _details(line: Entry, refused: int) -> Iterator[Row]:
    """Yield the details of an entry. For every refused attempt after the first, yield only the details that may have
    changed.
    """
    if line.what == "limit":
        yield from _evidence(line, again=refused > 1)
    elif line.what == "foreseen":
        yield from _foreseen(line)
    elif line.what in ("wait", "claim", "left", "offered", "exhausted", "rejected"):
        yield from _shown(line)
    if line.what == "claim":
        yield "why move", line.text("why") or "not recorded"
        if line.text("agent"):
            yield "agent", line.text("agent") or ""
    yield from _choice(line)
    if line.what in ("moved", "already", "user_took_over", "refused") and line.text("why"):
        yield "seen", line.text("why") or ""


def _evidence(line: Entry, again: bool) -> Iterator[Row]:
    status = line.number("evidence", "status")
    words = line.text("reason") or "no message"
    yield "message", f"“{words}”" + (f" (HTTP {status:.0f})" if status else "")
    place = line.number("offset")
    if line.text("file"):
        yield "log line", f"{line.text('file')}, byte {place:.0f}" if place is not None else str(line.text("file"))
    else:
        yield "seen", "over OpenCode's API, not in the log"
    if again:
        return
    because = line.text("evidence", "because")
    yield "rule", (line.text("rule") or "none") + (f": {because}" if because else "")
    yield "reset time", _hint(line)
    if line.text("evidence", "target"):
        yield "fallback", f"{line.text('evidence', 'target')}, for new prompts"


def _foreseen(line: Entry) -> Iterator[Row]:
    yield "forecast", line.text("why") or "not recorded"
    hits = line.moment("forecast", "hits")
    if hits is not None:
        yield "limit", f"reached {clock(hits, line.time)} if usage continues at this rate"
    yield "why move", "new prompts go to a fallback before the limit (forecast.prevent); a running turn is not moved"
    yield "fallback", f"{line.text('target')}, for new prompts"


def _hint(line: Entry) -> str:
    source = line.text("evidence", "hint", "source")
    if source is None:
        return (
            "not reported, so the configured cooldown is used"
            if line.text("reset_source") == "estimate"
            else "not recorded"
        )
    end = line.moment("evidence", "hint", "until")
    tamed = line.text("evidence", "hint", "tamed")
    return (
        f"{source}" + (f", until {clock(end, line.time)}" if end else "") + (f" (adjusted: {tamed})" if tamed else "")
    )


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
    yield "OpenCode", f"{', '.join(parts)}{where} at {line.text('shown', 'door')}"
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
    unsettled = "until its OpenCode process was last seen" if episode.out_of_sight else "so far"
    waited = f"the turn has waited since its first limit, {unsettled}"
    if episode.closing is not None:
        waited = "the time that the turn waited, counted from its first limit"
    yield "lost", f"{exactly(lost)}: {waited}"
    end = episode.waited_until()
    if end is not None:
        more = f", and {about(to_come)} more to come" if to_come >= 1 else ""
        yield "saved", f"{about(saved)}{more}: without the move, the turn would have waited until {clock(end, now)}"


def _rows(rows: Iterable[Row]) -> Iterator[str]:
    for label, text in rows:
        yield from hanging(f"    {label:<{LABEL}}", escape(text), " " * (4 + LABEL)) if text else iter([""])
