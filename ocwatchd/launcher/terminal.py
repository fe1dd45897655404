"""OpenCode's terminal as our child: nothing of us shows, and after its end it can be started again in the same place.

It shares our process group, terminal and descriptors: keys, Ctrl-Z and the window's size reach it from the kernel as
ever. We sleep in one `waitpid`; what is sent to us alone is passed on, and how it stops or ends is told on as our own.
"""

from __future__ import annotations

import os
import signal
import termios
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from ocwatchd.opencode.guardian import Guardian
from ocwatchd.state.relaunch import awaited

TERMINAL = "OCWATCHD_TERMINAL"
"""Our process id, in OpenCode's environment: whoever ends it can ask us to start it again."""

PASSED_ON = (
    signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGCONT,
)  # fmt: skip
_STOPS = (signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU)
"""Stops that come from a terminal. A SIGSTOP to OpenCode alone is somebody's hand, and no matter of the shell's."""

_PRIVATE_MODES = (1000, 1002, 1003, 1004, 1005, 1006, 1015, 1016, 2004, 2026, 2027, 2031, 2048)
"""Mouse, focus, bracketed paste, synchronized output, Unicode widths, colour scheme and resize reports."""
RESET = (
    "".join(f"\x1b[?{mode}l" for mode in _PRIVATE_MODES)
    + "\x1b[<u\x1b[>4;0m"  # the keyboard protocols of kitty and xterm
    + "\x1b[?1049l\x1b[?25h\x1b[0 q\x1b[0m\r"  # the other screen, the cursor, its shape, colours
).encode()
"""What a terminal needs after a TUI that could not clean up."""

Relaunch = Callable[[Mapping[str, object]], tuple[Sequence[str], Mapping[str, str]]]
"""What to start for a request: words and environment."""


class Modes:
    """The terminal's modes as they were before."""

    def __init__(self) -> None:
        """Note them; no terminal is fine."""
        self._fd = next((fd for fd in (0, 1, 2) if os.isatty(fd)), None)
        self._saved = self._now()

    def _now(self) -> list[Any] | None:
        with suppress(termios.error, OSError):
            return termios.tcgetattr(self._fd) if self._fd is not None else None
        return None

    def restore(self) -> None:
        """Put them back, and the screen, if they were left changed. In the background the terminal is another's."""
        now = self._now()
        if self._fd is None or self._saved is None or now is None or now[:4] == self._saved[:4]:
            return
        with suppress(termios.error, OSError):
            if os.tcgetpgrp(self._fd) == os.getpgrp():
                os.write(1 if os.isatty(1) else self._fd, RESET)
                termios.tcsetattr(self._fd, termios.TCSAFLUSH, self._saved)  # with it go reports of a mouse


class Terminal:
    """OpenCode in our place, as often as it is asked for. `environ` is the whole environment."""

    def __init__(self, program: str, control: str, relaunch: Relaunch, say: Callable[[str], None]) -> None:
        """`control` is where requests to start again lie."""
        self._program, self._control, self._relaunch, self._say = program, control, relaunch, say
        self._pid = self._got = 0
        self._continued = False

    def run(self, words: Sequence[str], environ: Mapping[str, str]) -> int:
        """The exit code of the last OpenCode; negative for a signal.

        Raises:
            OSError: it cannot be started.
        """
        modes = Modes()
        with Guardian() as guardian:
            for number in PASSED_ON:
                if signal.getsignal(number) is not signal.SIG_IGN:  # under nohup it stays ignored
                    signal.signal(number, self._pass_on)
            while True:
                code = self._once(guardian, words, environ)
                modes.restore()
                request = awaited(self._control, lambda: self._say("OpenCode is started again …"), self._told_to_leave)
                if request is None:
                    return code
                words, environ = self._relaunch(request)

    def _once(self, guardian: Guardian, words: Sequence[str], environ: Mapping[str, str]) -> int:
        reset = [signal.SIGPIPE, signal.SIGXFSZ]  # Python ignores these, and what is ignored is inherited
        self._pid = os.posix_spawn(self._program, ["opencode", *words], environ, setsigdef=reset)
        guardian.watch(self._pid)
        if self._got:  # came while there was nobody to pass it on to
            self._pass_on(self._got, None)
        try:
            return self._wait()
        finally:
            pid, self._pid = self._pid, 0
            self._got = 0  # it was OpenCode's to answer
            guardian.forget(pid)

    def _wait(self) -> int:
        while True:
            self._continued = False
            try:
                _, status = os.waitpid(self._pid, os.WUNTRACED)
            except ChildProcessError:
                return 1
            if not os.WIFSTOPPED(status):
                return os.waitstatus_to_exitcode(status)
            # Whoever started us has to see that the terminal is free. A Ctrl-Z has stopped us too, as a rule just
            # when this call was about to return: then that is over already.
            if os.WSTOPSIG(status) in _STOPS and not self._continued:
                os.kill(os.getpid(), os.WSTOPSIG(status))

    def _pass_on(self, number: int, _frame: object) -> None:
        if number == signal.SIGCONT:
            self._continued = True
        else:
            self._got = number
        if self._pid:
            with suppress(ProcessLookupError):
                os.kill(self._pid, number)

    def _told_to_leave(self) -> bool:
        """While nothing runs: Ctrl-C is for us."""
        return self._got != 0
