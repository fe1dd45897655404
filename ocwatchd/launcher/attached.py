"""`run --attach`: the daemon moves the session in its server, and this brings the answer to where the client's belongs.

OpenCode's client takes the abort that a move begins with for the end, with code 0 and no answer (1.0 - 1.18). The claim
in the journal says which session it was, and since when what is said there belongs to the move.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from ocwatchd.clock import SystemClock, from_rfc3339
from ocwatchd.core.views import Door
from ocwatchd.errors import ExitCode
from ocwatchd.launcher.arguments import Arguments
from ocwatchd.launcher.child import Signals
from ocwatchd.launcher.output import Printer, created
from ocwatchd.launcher.served import Served
from ocwatchd.opencode.api import Api, Session
from ocwatchd.opencode.doors import basic_auth, door_of_url
from ocwatchd.opencode.http import DoorError
from ocwatchd.opencode.records import mapping, text
from ocwatchd.state.journal import Journal

POLL = 0.2


def follow(
    arguments: Arguments, journal: Path, began: float, signals: Signals, say: Callable[[str], None]
) -> int | None:
    """The exit code of the turn that went on elsewhere; None if nobody moved it, or it cannot be told which it was."""
    door = _door(arguments)
    if door is None:
        return None
    try:
        found = _moved(Api(door), arguments, Journal(journal), began)
        if found is None:
            return None
        session, since = found
        say(f"the daemon has moved {session.id}; waiting for its answer")
        printer = Printer(Api(door), session, arguments.format == "json", since=since)
        return _wait(Served(door, session, printer, arguments.has("--auto"), SystemClock()), signals)
    except DoorError as fault:
        say(str(fault))
        return ExitCode.FAILED


def _door(arguments: Arguments) -> Door | None:
    password = arguments.value("-p", "--password") or os.environ.get("OPENCODE_SERVER_PASSWORD", "")
    user = arguments.value("-u", "--username") or os.environ.get("OPENCODE_SERVER_USERNAME", "")
    auth = basic_auth({"OPENCODE_SERVER_PASSWORD": password, "OPENCODE_SERVER_USERNAME": user})
    door = door_of_url(arguments.value("--attach") or "", auth)
    return door if isinstance(door, Door) else None


def _moved(api: Api, arguments: Arguments, journal: Journal, began: float) -> tuple[Session, float] | None:
    """The session whose prompt was sent in our directory since we began, and the time of its claim."""
    here = os.path.realpath(arguments.value("--dir") or os.environ.get("PWD") or ".")
    found: dict[str, tuple[Session, float]] = {}
    for entry in journal.read(began):
        ident, directory, prompt = (text(entry.get(name)) for name in ("moved", "directory", "message"))
        if entry.get("what") != "claim" or not ident or not directory or os.path.realpath(directory) != here:
            continue
        sent = [mapping(raw.get("info")) for raw in api.raw_messages(ident, directory, 30)]
        ours = any(info.get("id") == prompt and created(info) >= began for info in sent)
        if ours and arguments.session in (None, ident) and ident not in found:
            found[ident] = Session(ident, directory), from_rfc3339(str(entry["time"]))
    return next(iter(found.values())) if len(found) == 1 else None


def _wait(served: Served, signals: Signals) -> int:
    while signals.got is None:
        view = served.look()
        code = served.ended(view) if view is not None else None
        if code is not None:
            return code
        signals.wait(POLL)
    return -signals.got
