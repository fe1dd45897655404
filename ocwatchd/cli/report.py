"""`ocwatch report`: the figures of the last days as a page, as JSON or as Prometheus text."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

from ocwatchd.cli.escape import escape
from ocwatchd.cli.past import entries
from ocwatchd.cli.places import state_file
from ocwatchd.cli.render import say, say_json
from ocwatchd.cli.reporting import prometheus
from ocwatchd.cli.reporting.document import document
from ocwatchd.cli.reporting.page import page
from ocwatchd.cli.times import since_of
from ocwatchd.core.entries import Entry
from ocwatchd.core.figures import Figures, figures
from ocwatchd.core.spending import Paid, Spending, spending
from ocwatchd.errors import ExitCode, OcwatchError, UsageError
from ocwatchd.opencode.sessions import SessionStore
from ocwatchd.paths import Paths
from ocwatchd.state import heartbeat, prices
from ocwatchd.state.entries import read_entries

USUAL = "7d"
PAGE = "ocwatch-report.html"
FORMATS = ("html", "json", "prometheus")


def report(since: str | None = None, out: str | None = None, form: str = "html", as_json: bool = False) -> int:
    """Write the report of the time since then, by default of the last 7 days: the page into a file, the rest to `out`.

    Raises:
        UsageError: `since` is no time, or `form` no format.
        OcwatchError: the file cannot be written.
    """
    form = "json" if as_json else form
    if form not in FORMATS:
        raise UsageError(f"{form!r} is no format; use {', '.join(FORMATS)}")
    now = time.time()
    told, begin = entries(), since_of(since or USUAL, now)
    found, money = figures(told, begin, now), _money(told, begin, now)
    if form == "json" and out in (None, "-"):
        say_json(document(found, money))
    elif out == "-" or (out is None and form != "html"):
        say(_text(form, found, money).rstrip("\n"))
    else:
        path = Path(out or PAGE)
        _replace(path, _text(form, found, money).encode("utf-8", "replace"))
        say(escape(f"Wrote {path.absolute()}"))
    return ExitCode.DONE


def _money(told: Sequence[Entry], since: float, now: float) -> Spending:
    paths = Paths.from_env()
    rows = (answer.message for answer in SessionStore(paths.opencode_data).answers(since))
    paid = (Paid(row.parent, str(row.model), row.tokens, row.cost) for row in rows if row.model and row.tokens)
    return spending(told, paid, prices.read(paths.prices), since, now)


def _text(form: str, found: Figures, money: Spending) -> str:
    if form == "html":
        return page(found, money)
    if form == "json":
        import json

        return json.dumps({"version": 1, **document(found, money)}, indent=2) + "\n"
    state = heartbeat.read(state_file("daemon.json")).state(found.now)
    cooling = read_entries(state_file("blacklist.json")).active(found.now)
    return prometheus.text(found, money, state == heartbeat.State.UP, cooling)


def _replace(path: Path, data: bytes) -> None:
    """Whole or not at all, readable as the user's umask says: a collector that runs as another user reads it too."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        try:
            temporary.write_bytes(data)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise OcwatchError(f"{path} cannot be written: {error.strerror or error}") from error
