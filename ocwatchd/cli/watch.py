"""`ocwatch watch`: sessions, cooldowns and events, live, from the files that `status` and `history` read.

A frame is drawn only if it says something new, over the old one and without clearing: nothing flickers, and over ssh a
quiet minute costs a few bytes a second for the clock and the countdowns.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import termios
import time
import tty
from collections.abc import Iterator
from types import FrameType

from rich.console import Console
from rich.live import Live
from rich.text import Text

from ocwatchd.cli.listing import current_status
from ocwatchd.cli.past import with_returns
from ocwatchd.cli.places import state_file
from ocwatchd.cli.recent import last_lines
from ocwatchd.cli.render import say, screen_width, tell, warn
from ocwatchd.cli.screen import Line, event, frame
from ocwatchd.cli.views import StatusView
from ocwatchd.core.entries import Entry, read
from ocwatchd.errors import ExitCode, UsageError

TAIL = 256 << 10
"""Bytes of the journal that are read when it has grown: some 300 events."""
FASTEST, SLOWEST = 0.2, 60.0


def watch(every: float = 1.0) -> int:
    """Show what happens until `q` or Ctrl-C; a look every `every` seconds. Without a terminal: one frame.

    Raises:
        UsageError: `every` is out of bounds.
    """
    if not FASTEST <= every <= SLOWEST:
        raise UsageError(f"--every takes {FASTEST:.1f} to {SLOWEST:.0f} seconds")
    eye = Eye()
    console = Console(highlight=False, markup=False, emoji=False)
    if not sys.stdout.isatty():
        warn("standard output is no terminal: one frame")
        filled = eye.frame(console.width, 24, "")[:-1]  # nobody sees keys or the clock run there
        say("\n".join(line.text for line in filled).rstrip())
        return ExitCode.DONE
    with contextlib.suppress(KeyboardInterrupt), _ends_by_signal():
        if console.is_dumb_terminal:
            _scroll(eye, every)
        else:
            _draw(eye, console, every)
    return ExitCode.DONE


class Eye:
    """Looks at the files; the journal is read again only when it has changed."""

    def __init__(self) -> None:
        """Nothing has been looked at yet."""
        self._mark: tuple[int, int, int] | None = None
        self._told: tuple[Entry, ...] = ()

    def view(self, now: float) -> StatusView:
        """The daemon and the register."""
        return current_status(now)

    def events(self, now: float) -> list[Entry]:
        """The journal's last lines, oldest first, and the returns of models."""
        try:
            info = os.stat(state_file("journal.jsonl"))
            mark = (info.st_ino, info.st_size, info.st_mtime_ns)
        except OSError:
            mark = None
        if mark != self._mark:
            self._mark, self._told = mark, read(last_lines(TAIL))
        return with_returns(self._told, now)

    def frame(self, width: int, height: int, foot: str) -> list[Line]:
        """What the screen says now."""
        now = time.time()
        return frame(self.view(now), self.events(now), width, height, foot)


def _draw(eye: Eye, console: Console, every: float) -> None:
    """On a screen of its own, which goes away again."""
    shown: list[Line] = []
    with _keys() as keyboard, Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            lines = eye.frame(console.width, console.height, "Ctrl-C ends" if keyboard is None else "q ends")
            if lines != shown:
                shown = lines
                live.update(_text(lines), refresh=True)
            if _key(keyboard, every) in ("q", "Q", "\x03", "\x04"):
                return


def _scroll(eye: Eye, every: float) -> None:
    """A terminal that cannot move its cursor: one frame, then each new event as a line."""
    width = screen_width()  # rich takes 80 for granted here
    say("\n".join(line.text for line in eye.frame(width, 24, "Ctrl-C ends")))
    seen = {(line.id, line.what) for line in eye.events(time.time())}
    while True:
        sys.stdout.flush()
        time.sleep(every)
        for line in eye.events(time.time()):
            if (line.id, line.what) not in seen:
                seen.add((line.id, line.what))
                tell(event(line, time.time()).text)


def _text(lines: list[Line]) -> Text:
    text = Text(no_wrap=True, overflow="crop", end="")
    for index, line in enumerate(lines):
        text.append(line.text + ("\n" if index < len(lines) - 1 else ""), line.style or None)
    return text


@contextlib.contextmanager
def _keys() -> Iterator[int | None]:
    """Standard input with every key at once and unseen; None if it is no terminal. Given back as it was."""
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
    return os.read(keyboard, 1).decode("latin-1") if ready else None


@contextlib.contextmanager
def _ends_by_signal() -> Iterator[None]:
    """SIGTERM and SIGHUP end it like Ctrl-C: the terminal is given back."""

    def end(_: int, __: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
