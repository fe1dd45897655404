"""`ocwatch watch`: show sessions, cooldowns and events live, from the files that `status` and `history` read.

A frame is a list of styled lines that fit the screen, and depends only on the displayed values. To avoid flicker, only
changed lines are drawn, over the previous lines. While the state does not change, only the clock and the countdowns are
sent, which takes a few bytes per second over ssh.
"""

from __future__ import annotations

import contextlib
import os
import select
import shlex
import signal
import subprocess
import sys
import termios
import time
import tty
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import FrameType, TracebackType
from typing import Self

from ocwatchd.cli.commands.history import Titles, lines_to_show
from ocwatchd.cli.commands.status import cooldown_table, current_status, headline, limit_in, session_table, used_of
from ocwatchd.cli.journal_reader import with_returns
from ocwatchd.cli.output.escape import escape
from ocwatchd.cli.output.render import WIDTH, columns, fit, hanging, say, screen_width, tell, warn
from ocwatchd.cli.output.views import StatusView
from ocwatchd.core.history.journal_entries import Entry, read
from ocwatchd.core.history.wording import phrase, word
from ocwatchd.errors import ExitCode, UsageError
from ocwatchd.paths import state_file
from ocwatchd.state.heartbeat import State
from ocwatchd.state.safe_read import last_lines
from ocwatchd.time_words import clock, stamp

HEIGHT = 24
"""Height of the screen, in lines, if the terminal does not report it."""

BRIGHTNESS = {"bold": "1", "dim": "2", "reverse": "7"}
COLOURS = {"red": "31", "green": "32", "yellow": "33"}
ENTER, LEAVE = "\x1b[?1049h\x1b[?25l\x1b[2J", "\x1b[0m\x1b[999;1H\n\x1b[?25h\x1b[?1049l"
"""The escape codes to enter an empty alternate screen with a hidden cursor, and to restore the main screen.

On a terminal without an alternate screen, output continues below the last line.
"""


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the screen. `style` consists of words from `BRIGHTNESS` and `COLOURS`, for example `bold red`."""

    text: str
    style: str = ""


def terminal_size() -> tuple[int, int]:
    """Return the width and height of the terminal behind standard output, or 80 and 24 if they are unknown.

    COLUMNS and LINES take precedence.
    """
    try:
        known = os.get_terminal_size(sys.stdout.fileno())
    except (OSError, ValueError):
        known = os.terminal_size((0, 0))
    return _wished("COLUMNS") or known.columns or WIDTH, _wished("LINES") or known.lines or HEIGHT


def _wished(name: str) -> int:
    wished = os.environ.get(name, "")
    return int(wished) if wished.isdecimal() and len(wished) < 5 else 0


def is_dumb() -> bool:
    """Return whether the terminal cannot move its cursor, according to TERM."""
    return os.environ.get("TERM", "").lower() in ("dumb", "unknown")


class Screen:
    """A context manager for the alternate screen. On exit, the main screen and the cursor are restored."""

    def __init__(self) -> None:
        """Initialize the screen; it shows no lines yet."""
        self._shown: list[Line] = []
        self._size = (0, 0)
        self._styles = BRIGHTNESS if os.environ.get("NO_COLOR") else BRIGHTNESS | COLOURS

    def __enter__(self) -> Self:
        _write(ENTER)
        return self

    def __exit__(self, kind: type[BaseException] | None, fault: BaseException | None, at: TracebackType | None) -> None:
        _write(LEAVE)

    def draw(self, lines: Sequence[Line], size: tuple[int, int]) -> None:
        """Show `lines`, which must fit `size` (columns, lines). Only changed lines are sent, in one write."""
        if size != self._size:
            self._size, self._shown = size, []
        rows = range(max(len(lines), len(self._shown)))
        before = [*self._shown, *[None] * len(rows)]
        after = [*lines, *[Line("")] * len(rows)]
        changed = [self._at(row + 1, after[row]) for row in rows if after[row] != before[row]]
        self._shown = list(lines)
        if changed:
            _write("".join(changed))

    def _at(self, row: int, line: Line) -> str:
        codes = ";".join(self._styles[word] for word in line.style.split() if word in self._styles)
        text = f"\x1b[{codes}m{line.text}\x1b[0m" if codes else line.text
        # After a line that fills its row, the cursor is still on the last column, so erasing the rest of the row would
        # erase the last character.
        return f"\x1b[{row};1H{text}" + ("\x1b[K" if columns(line.text) < self._size[0] else "")


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


LEAST_EVENTS = 4
"""Minimum number of lines for events, regardless of the number of models that are cooling down."""
HEADLINE = {State.UP: "bold green", State.STALLED: "bold yellow", State.DOWN: "bold red"}
GOOD = frozenset(("moved", "answered", "went_on", "already", "free", "cleared", "eased"))
BAD = frozenset(("failed", "target_limited", "exhausted", "unreachable", "left", "refused"))
TITLE, PLAIN, QUIET, SELECTED = "bold", "", "dim", "reverse"


def frame(
    view: StatusView,
    events: Sequence[Entry],
    width: int,
    height: int,
    foot: str = "q quit",
    selected: int | None = None,
    titles: Titles | None = None,
) -> list[Line]:
    """Return the screen as at most `height` lines of at most `width` columns.

    The lines show the daemon, cooldowns, sessions, and as many events as fit. `selected` is the index of the
    highlighted row among all cooldowns and sessions.
    """
    of_session = None if selected is None else selected - len(view.cooldowns)
    health = [Line(f"# {escape(line)}", "yellow") for line in view.health[:2]]
    room = max(height - 3 - len(health) - LEAST_EVENTS, 4)
    cooling = _block(cooldown_table(view.cooldowns, view.now, width), room // 2, selected) if view.cooldowns else []
    table = session_table(view.sessions, view.now, width) if view.sessions else ""
    sessions = _block(table, room - len(cooling), of_session) if table else []
    head = [Line(line, HEADLINE[view.state]) for line in hanging("", headline(view), "", width)]
    top = [*head, *health, *(cooling or [Line("No model is cooling down.")]), *sessions, *_ahead(view)]
    left = height - len(top) - 3
    lines = [*top, Line(""), Line("EVENTS", TITLE), *_events(events, left, view.now, titles or Titles())]
    lines = lines[: height - 1]
    lines += [Line("")] * (height - 1 - len(lines))
    return [Line(fit(line.text, width), line.style) for line in [*lines, _foot(foot, view, width)]]


def _ahead(view: StatusView) -> list[Line]:
    """Return the lines about the nearest forecast limit, or an empty list if there is none."""
    for one in view.known_limits[:1]:
        if one.get("hits_in_seconds") is not None:
            when = limit_in(one, view.now)
            within = "now" if when == "now" else f"at {when}"
            text = f"Next limit ({one.get('label')}): {one['model']} {within}, {used_of(one)}"
            return [Line(""), Line(escape(text), "yellow")]
    return []


def _block(table: str, room: int, selected: int | None = None) -> list[Line]:
    """Return an empty line and a table, together at most `room` lines. If some rows do not fit, the last line says how
    many are left out.

    The row with the index `selected` is highlighted and is always shown.
    """
    title, *rows = table.split("\n")
    most = max(room - 2, 2)
    lines = [Line(row, SELECTED if number == selected else PLAIN) for number, row in enumerate(rows)]
    if len(rows) > most:
        first = min(max((selected or 0) - most + 2, 0), len(rows) - most + 1)
        lines = [*lines[first : first + most - 1], Line(f"… and {len(rows) - most + 1} more")]
    return [Line(""), Line(title, TITLE), *lines]


def _events(events: Sequence[Entry], room: int, now: float, titles: Titles) -> list[Line]:
    told = lines_to_show(events)[-room:] if room > 0 else []
    return [event(line, now, titles) for line in told] or [Line("Nothing has happened yet.", QUIET)]


def event(line: Entry, now: float, titles: Titles) -> Line:
    """Return the line for one event. The line begins with the event's time of day or, if the event did not occur today,
    with its date.
    """
    at = stamp(line.time, now)
    at = at if len(at) <= len("14:20:05") else clock(line.time, now)
    story = phrase(line, lambda at: clock(at, line.time)) + titles.ending(line)
    style = "green" if line.what in GOOD else "red" if line.what in BAD else "yellow" if line.what == "limit" else PLAIN
    return Line(f"{at:<9}  {escape(word(line)):<9}  {escape(story)}", style)


def _foot(foot: str, view: StatusView, width: int) -> Line:
    now = stamp(view.now, view.now)
    return Line(foot + " " * max(width - columns(foot) - columns(now), 1) + now, QUIET)


FOOT = "q quit  j/k select  r move  R restart  b block  c clear  e why  ? help"
HELP = """\
Keys of ocwatch watch

  j, k, arrows   select a model that is cooling down, or a session
  r              move the session to its next fallback (ocwatch redirect)
  R              reopen the session on another model (ocwatch restart)
  b              block the model for an hour (ocwatch block)
  c              end the model's cooldown (ocwatch clear)
  e              explain the last decision about the selection (ocwatch explain)
  q, Ctrl-C      quit

b and c act on the selected model, or on the selected session's current
model. Commands run on the main screen; press Enter, q or Esc to go back.
"""
ARROWS = {"\x1b[A": "k", "\x1b[B": "j", "\x1bOA": "k", "\x1bOB": "j"}
"""Maps a terminal's escape sequence for an arrow key to the letter with the same meaning."""
BLOCK_TIME = "1h"


@dataclass(frozen=True, slots=True)
class Item:
    """A row that can be selected: a model that is cooling down, or a session with its current model."""

    model: str | None
    session: str | None = None


def items(view: StatusView) -> list[Item]:
    """Return the rows that can be selected, in the order in which they are displayed."""
    models = [Item(one.model) for one in view.cooldowns]
    return [*models, *(Item(_text(one.get("model")), _text(one.get("session"))) for one in view.sessions)]


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def keys_in(raw: str) -> Iterator[str]:
    """Yield the keys in `raw`, the input from a terminal. An arrow's escape sequence counts as one key; other escape
    sequences are ignored.
    """
    while raw:
        arrow = next((sequence for sequence in ARROWS if raw.startswith(sequence)), None)
        if arrow is not None:
            yield ARROWS[arrow]
            raw = raw[len(arrow) :]
        elif raw.startswith("\x1b"):
            return
        else:
            yield raw[0]
            raw = raw[1:]


def moved(selected: int | None, key: str, number: int) -> int | None:
    """Return the index that is selected after the key `j` or `k`, or None if there are no items (`number` is 0)."""
    if not number:
        return None
    if selected is None:
        return 0 if key == "j" else number - 1
    return min(max(selected + (1 if key == "j" else -1), 0), number - 1)


def command(key: str, item: Item | None) -> list[str] | None:
    """Return the arguments of the `ocwatch` command that a key runs, or None if the key runs no command."""
    session = [item.session] if item and item.session else []
    model = item.model if item else None
    match key:
        case "r":
            return ["redirect", *session]
        case "R":
            return ["restart", *session]
        case "b" if model:
            return ["block", model, "--for", BLOCK_TIME]
        case "c" if model:
            return ["clear", model]
        case "e":
            return ["explain", *(session or ([model] if model else []))]
    return None


TAIL = 256 << 10
"""Maximum number of bytes (about 300 events) read from the end of a journal that has grown."""
FASTEST, SLOWEST = 0.2, 60.0


def watch(every: float = 1.0) -> int:
    """Show the current state until the user presses `q` or Ctrl-C, and update it every `every` seconds. Without a
    terminal, print one frame.

    Raises:
        UsageError: `every` is out of range.
    """
    if not FASTEST <= every <= SLOWEST:
        raise UsageError(f"--every must be between {FASTEST:.1f} and {SLOWEST:.0f} seconds")
    reader = StateReader()
    if not sys.stdout.isatty():
        warn("standard output is not a terminal, so only one frame is printed")
        # leave out the last line, because its keys and its clock are of no use without a terminal
        filled = reader.frame(screen_width(), 24, "")[:-1]
        say("\n".join(line.text for line in filled).rstrip())
        return ExitCode.DONE
    with contextlib.suppress(KeyboardInterrupt), _ends_by_signal():
        if is_dumb():
            _scroll(reader, every)
        else:
            _draw(reader, every)
    return ExitCode.DONE


class StateReader:
    """Reads the files whose contents `ocwatch watch` displays. The journal is read again only if it has changed."""

    def __init__(self) -> None:
        """Initialize the reader without reading a file."""
        self._mark: tuple[int, int, int] | None = None
        self._told: tuple[Entry, ...] = ()
        self.titles = Titles()

    def view(self, now: float) -> StatusView:
        """Return the state of the daemon and the blacklist at `now` (epoch seconds)."""
        return current_status(now)

    def events(self, now: float) -> list[Entry]:
        """Return the latest entries of the journal and an entry for each cooldown that has run out, oldest first."""
        try:
            info = os.stat(state_file("journal.jsonl"))
            mark = (info.st_ino, info.st_size, info.st_mtime_ns)
        except OSError:
            mark = None
        if mark != self._mark:
            self._mark, self._told, self.titles = mark, read(last_lines(state_file("journal.jsonl"), TAIL)), Titles()
        return with_returns(self._told, now)

    def frame(self, width: int, height: int, foot: str, selected: int | None = None) -> list[Line]:
        """Return the current frame."""
        now = time.time()
        view, events = self.view(now), self.events(now)
        return frame(view, events, width, height, foot, selected, self.titles)


def _draw(reader: StateReader, every: float) -> None:
    """Draw frames on the alternate screen until the user quits. A key's command runs on the main screen."""
    selected: int | None = None
    while True:
        with _keys() as keyboard, Screen() as screen:
            words, selected = _drawn_until_a_command(reader, every, keyboard, screen, selected)
        if words is None:
            return
        _run(words)


def _drawn_until_a_command(
    reader: StateReader, every: float, keyboard: int | None, screen: Screen, selected: int | None
) -> tuple[list[str] | None, int | None]:
    """Draw frames until the user presses a key that runs a command. Return the command and the selection.

    The command is None if the user quits.
    """
    while True:
        size = terminal_size()
        screen.draw(reader.frame(*size, "Ctrl-C ends" if keyboard is None else FOOT, selected), size)
        for key in keys_in(_key(keyboard, every) or ""):
            known = items(reader.view(time.time()))
            if key in ("q", "Q", "\x03", "\x04"):
                return None, selected
            if key in ("j", "k"):
                selected = moved(selected, key, len(known))
            elif key == "?":
                return ["help"], selected
            else:
                item = known[selected] if selected is not None and selected < len(known) else None
                words = command(key, item)
                if words is not None:
                    return words, selected


def _run(words: list[str]) -> None:
    """Run an ocwatch command, or print the list of keys. Then wait for Enter, q or Esc."""
    if words == ["help"]:
        say(HELP.rstrip("\n"))
    else:
        say(f"$ {escape(shlex.join(['ocwatch', *words]))}")
        subprocess.run([sys.executable, "-P", "-m", "ocwatchd.cli", *words], check=False)
    with _keys() as keyboard:  # start to read keys before the prompt is printed, because `_keys` discards earlier input
        _write("\nPress Enter, q or Esc to go back. ")
        while keyboard is not None and (typed := os.read(keyboard, 64).decode("latin-1")):
            if typed[0] in "\r\nqQ\x04" or typed == "\x1b":
                break
    _write("\n")


def _scroll(reader: StateReader, every: float) -> None:
    """Print one frame, then each new event as a line, for terminals that cannot move their cursor."""
    width = screen_width()
    say("\n".join(line.text for line in reader.frame(width, 24, "Ctrl-C ends")))
    seen = {(line.id, line.what) for line in reader.events(time.time())}
    while True:
        sys.stdout.flush()
        time.sleep(every)
        for line in lines_to_show(reader.events(time.time())):
            if (line.id, line.what) not in seen:
                seen.add((line.id, line.what))
                tell(event(line, time.time(), reader.titles).text)


@contextlib.contextmanager
def _keys() -> Iterator[int | None]:
    """Yield the file descriptor of standard input. Within the context, keys are read one by one, without echo.

    Yield None if standard input is not a terminal.
    """
    if not sys.stdin or not sys.stdin.isatty():
        yield None
        return
    fd = sys.stdin.fileno()
    before = termios.tcgetattr(fd)
    try:
        tty.setcbreak(fd)
        yield fd
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)


def _key(keyboard: int | None, patience: float) -> str | None:
    if keyboard is None:
        time.sleep(patience)
        return None
    ready, _, _ = select.select([keyboard], [], [], patience)
    return os.read(keyboard, 64).decode("latin-1") if ready else None


@contextlib.contextmanager
def _ends_by_signal() -> Iterator[None]:
    """Make SIGTERM and SIGHUP end the command as Ctrl-C does, so that the terminal is restored."""

    def end(_: int, __: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
