"""Run OpenCode's terminal interface as a child process that can be started again in the same terminal.

The child shares our process group, terminal and descriptors, so the kernel sends it keys, Ctrl-Z and window size
changes as usual. The launcher sleeps in `waitpid`, forwards signals that only the launcher received, and stops or exits
when the child does.
"""

from __future__ import annotations

import os
import signal
import termios
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from ocwatchd.opencode.process.reaper import Guardian
from ocwatchd.state.relaunch_requests import awaited

TERMINAL = "OCWATCHD_TERMINAL"
"""Environment variable, set for OpenCode, that contains the launcher's process id. `ocwatch restart` sends its request
to that process.
"""

PASSED_ON = (
    signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGCONT,
)  # fmt: skip
_STOPS = (signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU)
"""Stop signals that a terminal sends. SIGSTOP is sent by another process, so the launcher does not pass it on to the
shell.
"""

_PRIVATE_MODES = (1000, 1002, 1003, 1004, 1005, 1006, 1015, 1016, 2004, 2026, 2027, 2031, 2048)
"""DEC private modes: mouse, focus, bracketed paste, synchronized output, Unicode widths, color
scheme, resize reports.
"""
RESET = (
    "".join(f"\x1b[?{mode}l" for mode in _PRIVATE_MODES)
    + "\x1b[<u\x1b[>4;0m"  # the keyboard protocols of kitty and xterm
    + "\x1b[?1049l\x1b[?25h\x1b[0 q\x1b[0m\r"  # alternate screen, cursor visibility and shape, colors
).encode()
"""Control sequences that reset a terminal after a TUI that could not clean up."""

Relaunch = Callable[[Mapping[str, object]], tuple[Sequence[str], Mapping[str, str]]]
"""A function that returns OpenCode's arguments and environment for a request to start it again."""


class Modes:
    """The terminal's modes before OpenCode was started."""

    def __init__(self) -> None:
        """Record the modes of the first standard stream that is a terminal."""
        self._fd = next((fd for fd in (0, 1, 2) if os.isatty(fd)), None)
        self._saved = self._now()

    def _now(self) -> list[Any] | None:
        with suppress(termios.error, OSError):
            return termios.tcgetattr(self._fd) if self._fd is not None else None
        return None

    def restore(self) -> None:
        """Restore the modes and the screen if they have changed. In the background, do nothing, because another job
        uses the terminal.
        """
        now = self._now()
        if self._fd is None or self._saved is None or now is None or now[:4] == self._saved[:4]:
            return
        with suppress(termios.error, OSError):
            if os.tcgetpgrp(self._fd) == os.getpgrp():
                os.write(1 if os.isatty(1) else self._fd, RESET)
                termios.tcsetattr(self._fd, termios.TCSAFLUSH, self._saved)  # this also drops pending mouse reports


class Terminal:
    """Runs OpenCode in the foreground, and runs it again for each request of `ocwatch restart`."""

    def __init__(self, program: str, control: str, relaunch: Relaunch, say: Callable[[str], None]) -> None:
        """Store the arguments. `control` is the path of the request file. `relaunch` returns the command for a
        request.
        """
        self._program, self._control, self._relaunch, self._say = program, control, relaunch, say
        self._pid = self._got = 0
        self._continued = False

    def run(self, words: Sequence[str], environ: Mapping[str, str]) -> int:
        """Run OpenCode, and run it again each time a restart is requested. Return its last exit code, which is negative
        if a signal ended it.

        `environ` is the whole environment.

        Raises:
            OSError: OpenCode cannot be started.
        """
        modes = Modes()
        with Guardian() as guardian:
            for number in PASSED_ON:
                if signal.getsignal(number) is not signal.SIG_IGN:  # under nohup, the signal stays ignored
                    signal.signal(number, self._pass_on)
            while True:
                code = self._once(guardian, words, environ)
                modes.restore()
                request = awaited(self._control, lambda: self._say("restarting OpenCode …"), self._signal_arrived)
                if request is None:
                    return code
                words, environ = self._relaunch(request)

    def _once(self, guardian: Guardian, words: Sequence[str], environ: Mapping[str, str]) -> int:
        reset = [signal.SIGPIPE, signal.SIGXFSZ]  # Python ignores these signals, and a child would inherit that
        self._pid = os.posix_spawn(self._program, ["opencode", *words], environ, setsigdef=reset)
        guardian.watch(self._pid)
        if self._got:  # the signal arrived before the child existed
            self._pass_on(self._got, None)
        try:
            return self._wait()
        finally:
            pid, self._pid = self._pid, 0
            self._got = 0  # the child has handled the signal
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
            # Our shell must see that the job has stopped. A Ctrl-Z has usually also stopped this process before
            # `waitpid` returned. If this process has been continued since then, it must not stop again.
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

    def _signal_arrived(self) -> bool:
        """Return whether a signal, such as that of Ctrl-C, arrived while no child was running. In that case, the
        launcher exits.
        """
        return self._got != 0
