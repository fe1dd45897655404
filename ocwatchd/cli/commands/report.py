"""`ocwatch report`: print or write the figures of recent days as a table, an HTML page, JSON or Prometheus text."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ocwatchd.cli.commands.status import plan_table
from ocwatchd.cli.journal_reader import entries
from ocwatchd.cli.output.escape import escape
from ocwatchd.cli.output.render import say, say_json, table, warn
from ocwatchd.cli.report.document import document, prometheus
from ocwatchd.cli.report.page import page, session_label
from ocwatchd.cli.times import since_of
from ocwatchd.core.domain.budget import dollars
from ocwatchd.core.history.costs import Paid, Spending, spending
from ocwatchd.core.history.journal_entries import Entry
from ocwatchd.core.history.metrics import Cost, Fallback, Figures, ModelFigures, figures
from ocwatchd.core.text.amounts import count
from ocwatchd.errors import ExitCode, OcwatchError, UsageError
from ocwatchd.opencode.sessions.message_store import SessionStore
from ocwatchd.opencode.sessions.names import session_names
from ocwatchd.paths import Paths, data_directory, state_file
from ocwatchd.state import heartbeat, prices
from ocwatchd.state.blacklist.format import read_entries
from ocwatchd.state.files import make_private_dir, write_named
from ocwatchd.state.forecasts import window_as_json
from ocwatchd.state.plugin_reports import read_plan_windows
from ocwatchd.time_words import about, exactly, span, when

Plans = Sequence[Mapping[str, object]]
"""The plan windows of all providers, as defined by the JSON contract."""
DEFAULT_SINCE = "7d"
PAGE = "ocwatch-report.html"
MAX_DAYS, MAX_SESSIONS = 20, 10
"""Maximum numbers of rows in the tables of days and of sessions on a terminal. The HTML page and --json contain more
rows.
"""
FORMATS = ("html", "json", "prometheus")


def report(
    since: str | None = None,
    out: str | None = None,
    form: str | None = None,
    as_json: bool = False,
    open_page: bool = False,
) -> int:
    """Report on the time since `since`, by default the last 7 days.

    On a terminal, this prints a table. Otherwise it writes an HTML page, or the format `form`, to `out`, by default in
    ocwatchd's cache. With `open_page`, the page is written and opened in the browser.

    Raises:
        UsageError: `since` is not a time, `form` is not a format, or `open_page` is used with another format.
        OcwatchError: The file cannot be written.
    """
    if open_page and (as_json or out == "-" or form not in (None, "html")):
        raise UsageError("--open shows the HTML page, so it cannot be used with another format or standard output")
    table_wanted = form is None and out is None and not as_json and not open_page and sys.stdout.isatty()
    form = "json" if as_json else form or "html"
    if form not in FORMATS:
        raise UsageError(f"{form!r} is not a format; use {', '.join(FORMATS)}")
    now = time.time()
    journal, begin = entries(), since_of(since or DEFAULT_SINCE, now)
    found, money = figures(journal, begin, now), _money(journal, begin, now)
    if table_wanted:
        say("\n".join(_summary(found, money, _plans(now))))
    elif form == "json" and out in (None, "-"):
        say_json(document(found, money, _plans(now)))
    elif out == "-" or (out is None and form != "html"):
        say(_text(form, found, money).rstrip("\n"))
    else:
        path = Path(out) if out else _cached_page()
        if not _write(path, _text(form, found, money).encode("utf-8", "replace")):
            say(escape(f"Wrote {path.absolute()}"))
        if open_page:
            _show_in_browser(path)
    return ExitCode.DONE


def _plans(now: float) -> Plans:
    return [window_as_json(window) for window in read_plan_windows(Paths.from_env().allowances, now)]


def _cached_page() -> Path:
    """Return the default path of the page. The page is in our cache, not in the user's project.

    Raises:
        OcwatchError: The directory cannot be created.
    """
    directory = Paths.from_env().cache_dir
    try:
        make_private_dir(directory)
    except OSError as error:
        raise OcwatchError(f"{directory} cannot be created: {error.strerror or error}") from error
    return directory / PAGE


def _show_in_browser(path: Path) -> None:
    import webbrowser  # lazy import: 20 ms of CPU time

    if not webbrowser.open(path.absolute().as_uri()):
        warn(escape(f"no browser could be started. Open this page yourself: {path.absolute()}"))


def _summary(found: Figures, money: Spending, plans: Plans) -> Iterator[str]:
    """Yield the lines of the report for a terminal: totals, models, fallbacks, plan windows, and usage."""
    cost = found.cost
    begin = max(found.since, found.begins or found.since)
    yield f"{count(found.limits, 'limit')} in {count(found.turns, 'turn')} since {when(begin, found.now)}."
    if found.turns:
        yield f"Lost: {exactly(cost.lost)}, the time that limited turns waited."
    if found.turns and (cost.saved or cost.to_come or cost.uncounted):
        yield f"Saved: {about(cost.saved)} of further waiting{_more(cost)}."
    if found.models:
        rows = [(one.model, str(one.limits), span(one.cooling), _kinds(one)) for one in found.models]
        yield "\n" + table(("MODEL", "LIMITS", "TIME COOLING", "KINDS"), rows)
    if found.fallbacks:
        moved = [(one.model, f"{one.moved} of {one.tried}", _recovery(one), _trouble(one)) for one in found.fallbacks]
        yield "\n" + table(("FALLBACK", "MOVED", "CONTINUED AFTER", "TROUBLE"), moved)
    if plans:
        yield "\n" + plan_table(plans, found.now)
    if money.days:
        used = [(model, day or "-", f"{one.tokens:,}", dollars(one.dollars)) for day, model, one in money.days]
        yield "\n" + table(("MODEL", "DAY", "TOKENS", "COST"), used[:MAX_DAYS])
        spent = [(session_label(one), f"{one.used.tokens:,}", dollars(one.used.dollars)) for one in money.sessions]
        yield "\n" + table(("SESSION", "TOKENS", "COST"), spent[:MAX_SESSIONS])
    if money.total:
        saved = "" if money.saved is None else f"; the moves saved about {dollars(money.saved)}"
        yield f"\n{dollars(money.total)} spent{saved}."
    yield "\nFor the page with charts: ocwatch report --open"


def _more(cost: Cost) -> str:
    """Return a note about the waits that are not included in the time saved: waits that have not ended yet, and waits
    without a reported reset time.
    """
    parts = [f"{about(cost.to_come)} more to come"] if cost.to_come >= 1 else []
    if cost.uncounted:
        parts.append(f"not counting {count(cost.uncounted, 'moved turn')} whose reset time was not reported")
    return "".join(f", {part}" for part in parts)


def _recovery(one: Fallback) -> str:
    """Return a phrase that says how long turns took from their first limit until they continued on this fallback."""
    if one.median is None:
        return "-"
    number = len(one.recovery)
    return f"{exactly(one.median)} (1 turn)" if number == 1 else f"{exactly(one.median)} (median of {number})"


def _kinds(one: ModelFigures) -> str:
    return ", ".join(f"{number} {kind.replace('_', ' ')}" for kind, number in dict(one.kinds).items()) or "-"


def _trouble(one: Fallback) -> str:
    parts = [f"{number} {word}" for number, word in ((one.limited, "limited"), (one.failed, "failed")) if number]
    return ", ".join(parts) or "-"


def _money(journal: Sequence[Entry], since: float, now: float) -> Spending:
    paths = Paths.from_env()
    rows = ((answer.session, answer.message) for answer in SessionStore(paths.opencode_data).answers(since))
    paid = (
        Paid(row.parent, str(row.model), row.tokens, row.cost, session, _day(row.created))
        for session, row in rows
        if row.model and row.tokens
    )
    names = {name.id: (name.title, name.directory) for name in session_names(data_directory())}
    return spending(journal, paid, prices.read(paths.prices), since, now, names)


def _day(epoch: float | None) -> str:
    """Return the local date in sortable form, `2026-11-30`, or an empty string for None."""
    return "" if epoch is None else time.strftime("%Y-%m-%d", time.localtime(epoch))


def _text(form: str, found: Figures, money: Spending) -> str:
    if form == "html":
        return page(found, money, _plans(found.now))
    if form == "json":
        import json  # lazy import: needed only for this format

        return json.dumps({"version": 1, **document(found, money, _plans(found.now))}, indent=2) + "\n"
    state = heartbeat.read(state_file("daemon.json")).state(found.now)
    cooling = read_entries(state_file("blacklist.json")).active(found.now)
    plans = read_plan_windows(Paths.from_env().allowances, found.now)
    return prometheus(found, money, state == heartbeat.State.UP, cooling, plans)


def _write(path: Path, data: bytes) -> bool:
    """Write the data, and return whether `path` is standard output.

    The umask determines the file's mode, because a collector that runs as another user may have to read the file.
    """
    try:
        path.parent.stat()  # a missing directory is most likely a typo, so it is not created
        return write_named(path, data, 0o666)
    except OSError as error:
        raise OcwatchError(f"{path} cannot be written: {error.strerror or error}") from error
