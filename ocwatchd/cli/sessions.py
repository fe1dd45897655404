"""Find the session that a user named by any unambiguous part of its id or title, and name sessions in output."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence

from ocwatchd.cli.output.render import fit
from ocwatchd.errors import UsageError
from ocwatchd.opencode.sessions.names import SessionName, session_names, short_directory
from ocwatchd.paths import data_directory, state_file
from ocwatchd.time_words import span

MIN_PART = 3
"""Minimum length, in characters, of a part of an id or title by which a user may name a session."""
MAX_LISTED = 8
"""Maximum number of sessions that a message lists."""
TITLE_WIDTH = 40
"""Maximum width of a title within a sentence or a table, in columns."""
NEAR = 0.6
"""Minimum similarity, from 0 to 1, between a misspelled title or id and a name that is suggested in its place."""


def known_sessions() -> list[SessionName]:
    """Return the sessions in OpenCode's message stores, followed by those found only in the daemon's files. Each group
    is sorted, newest session first.
    """
    from ocwatchd.state import heartbeat  # lazy import: needed only for a name that is not an id
    from ocwatchd.state.safe_read import last_lines  # lazy import: needed only for a name that is not an id

    found = {name.id: name for name in session_names(data_directory())}
    ids = [str(one.get("session") or "") for one in heartbeat.read(state_file("daemon.json")).sessions]
    lines = last_lines(state_file("journal.jsonl"))
    ids += [session for line in reversed(lines) if isinstance(session := line.get("session"), str)]
    for ident in filter(None, ids):
        found.setdefault(ident, SessionName(ident))
    return list(found.values())


def matching(part: str, known: Iterable[SessionName]) -> list[SessionName]:
    """Return the sessions whose id or title equals `part`. If there are none, return those whose id or title contains
    `part`.
    """
    wanted, sessions = part.strip().lower(), list(known)
    exact = [one for one in sessions if wanted in (one.id.lower(), one.id.lower().removeprefix("ses_"))]
    exact = exact or [one for one in sessions if one.title.lower() == wanted]
    part_of_id = wanted.removeprefix("ses_")
    if exact or len(part_of_id) < MIN_PART:
        return exact
    return [one for one in sessions if part_of_id in one.id.lower().removeprefix("ses_") or wanted in one.title.lower()]


def whole_id(part: str, known: Sequence[SessionName] | None = None) -> str:
    """Return the id of the session that the user named by part of its id or title.

    If no known session matches, `part` is returned unchanged, because a running OpenCode process may have sessions
    that its store does not contain.

    Raises:
        UsageError: Several sessions match; the message lists them.
    """
    found = matching(part, known_sessions() if known is None else known)
    if len(found) > 1:
        raise UsageError(f"{part!r} matches {len(found)} sessions. Type more of the id or title:{listed(found)}")
    return found[0].id if found else part


def too_short(part: str) -> UsageError:
    """Return the error for a part of an id or title that is too short to search for."""
    return UsageError(f"{part!r} is too short. Type at least {MIN_PART} characters of the id or title")


def no_such(part: str, known: Sequence[SessionName] | None = None) -> UsageError:
    """Return the error for a session that does not exist; its message suggests sessions with similar names."""
    from difflib import get_close_matches  # lazy import: needed only for a misspelled name

    if len(part.strip().lower().removeprefix("ses_")) < MIN_PART:
        return too_short(part)
    sessions = known_sessions() if known is None else known
    by_name = {name.lower(): one for one in sessions for name in (one.title, one.id) if name}
    by_name.update({one.title.lower()[: len(part)]: one for one in sessions if one.title})
    near = {one.id: one for name in get_close_matches(part.lower(), by_name, 3, NEAR) for one in [by_name[name]]}
    meant = f" Did you mean:{listed(list(near.values()))}" if near else " To list all sessions: opencode session list"
    return UsageError(f"there is no session {part!r}.{meant}")


def listed(sessions: Sequence[SessionName], now: float | None = None) -> str:
    """Return a line break and an indented line for each of the first MAX_LISTED sessions."""
    moment = time.time() if now is None else now
    lines = [f"\n  {one.id}  {described(one, moment)}".rstrip() for one in sessions[:MAX_LISTED]]
    more = len(sessions) - MAX_LISTED
    return "".join(lines) + (f"\n  and {more} more" if more > 0 else "")


def described(session: SessionName, now: float) -> str:
    """Return a session's title, directory and time of last use, or an empty string if none of these is known.

    For example `“Fix the tests” in ~/project, last used 3m ago, this directory`.
    """
    parts = [f"“{fit(session.title, TITLE_WIDTH)}”"] if session.title else []
    if session.directory:
        parts.append(f"in {short_directory(session.directory)}")
    aged = [f"last used {span(now - session.updated)} ago"] if session.updated is not None else []
    return ", ".join([" ".join(parts), *aged, *here(session.directory)]).removeprefix(", ")


def named_session(ident: str, session: SessionName | None) -> str:
    """Return the name of a session for a message: its description and id, or only the id if the session has no title.

    For example `“Fix the tests” in ~/project, last used 3m ago (ses_1)`.
    """
    return f"{described(session, time.time())} ({ident})" if session is not None and session.title else ident


def here(directory: str) -> list[str]:
    """Return the list `["this terminal"]` if an OpenCode process in this terminal is running in the directory.

    For any other directory, the list contains `this directory` if it is the current one; otherwise, it is empty.
    """
    if directory and os.path.realpath(directory) in _directories_of_this_terminal():
        return ["this terminal"]
    try:
        same = bool(directory) and os.path.samefile(directory, ".")
    except OSError:
        same = False
    return ["this directory"] if same else []


def _directories_of_this_terminal() -> set[str]:
    """Return the directories of the OpenCode processes in this terminal.

    There is such a process only if `ocwatch` is running in a shell that OpenCode started.
    """
    ours, found = _terminal("self"), set[str]()
    try:
        pids = [name.partition(".")[0] for name in os.listdir(state_file("doors"))] if ours else []
    except OSError:
        return found
    for pid in filter(str.isdecimal, pids):
        if _terminal(pid) == ours:
            found.add(os.path.realpath(f"/proc/{pid}/cwd"))
    return found


def _terminal(pid: str) -> int:
    """Return the device number of a process's controlling terminal, or 0 if the process has no terminal or the system
    has no /proc.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[4])
    except (OSError, ValueError, IndexError):
        return 0
