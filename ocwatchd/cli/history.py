"""`ocwatch history`: every limit, wait, move and return, from the journal, oldest first."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from ocwatchd.cli.escape import escape
from ocwatchd.cli.past import decisions, entries, with_returns
from ocwatchd.cli.render import clock, hanging, iso, say, say_json, span
from ocwatchd.cli.times import since_of
from ocwatchd.core.entries import Entry
from ocwatchd.core.wording import NO_STORY, phrase, word
from ocwatchd.errors import ExitCode

USUAL = "24h"


def history(since: str | None = None, session: str | None = None, as_json: bool = False) -> int:
    """List what happened since then, by default within the last 24 hours; of one session only, if it is named.

    Raises:
        UsageError: `since` is no time.
    """
    now = time.time()
    begin = since_of(since or USUAL, now)
    told = entries()
    named = decisions(told)
    lines = [line for line in with_returns(told, now) if line.time >= begin and _of(line, session)]
    if as_json:
        rows = [_as_json(line, named.get(line.id)) for line in lines]
        reaches = iso(told[0].time) if told else None
        say_json({"time": iso(now), "since": iso(begin), "journal_begins": reaches, "events": rows})
    else:
        say("\n".join(_text(lines, named)) if lines else _nothing(told, begin, now))
    return ExitCode.DONE


def told_lines(lines: Sequence[Entry]) -> list[Entry]:
    """Those that tell something: a move's beginning does not once its end is known."""
    ended = {line.text("claim") for line in lines if line.what not in NO_STORY}
    return [line for line in lines if line.what not in NO_STORY or line.text("claim") not in ended]


def say_what(line: Entry) -> str:
    """The line's story, with moments in local time as one said them then."""
    return phrase(line, lambda at: clock(at, line.time))


def stamp(epoch: float) -> str:
    """The local time of the day, with its seconds."""
    return time.strftime("%H:%M:%S", time.localtime(epoch))


def day(epoch: float) -> str:
    """The local day."""
    return time.strftime("%a %d %b %Y", time.localtime(epoch))


def _of(line: Entry, session: str | None) -> bool:
    return session is None or (line.session is not None and line.session.endswith(session))


def _text(lines: Sequence[Entry], named: dict[str, str]) -> Iterator[str]:
    today = None
    for line in told_lines(lines):
        if day(line.time) != today:
            yield from ([] if today is None else [""])
            today = day(line.time)
            yield today
        head = f"{stamp(line.time)}  {escape(named.get(line.id, line.id)):<6}  {escape(word(line)):<9}  "
        yield from hanging(head, escape(say_what(line)), " " * 27)


def _nothing(told: Sequence[Entry], begin: float, now: float) -> str:
    if not told:
        return "Nothing has happened yet."
    last = f"the last news is {span(now - told[-1].time)} old (ocwatch history --since {_days(now - told[-1].time)}d)"
    return f"Nothing since {clock(begin, now)}; {last}."


def _days(seconds: float) -> int:
    """Days that go back beyond `seconds`, also if they are asked for a while later."""
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
