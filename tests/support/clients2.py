"""A user of a real OpenCode 2 who sends prompts through its API, in its terminal, in `run`, or in `oc-smart run`.

with watched(home) as (service, daemon), client("terminal", home, provider, service) as user:
    user.ask("Hello", "answer of mock2/fallback")
    user.ask("Hello again", "answer of mock2/fallback", new=True)
"""

from __future__ import annotations

import subprocess
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.daemon import Daemon
from tests.support.opencode import NEWEST
from tests.support.opencode2 import Home2, Service2, run2
from tests.support.processes import unless_late, wait_until
from tests.support.provider import Provider
from tests.support.smart import Smart
from tests.support.tui import Tui

TERMINAL, RUN, SMART = "terminal", "run", "oc-smart run"
WAYS = (TERMINAL, RUN, SMART)
"""The ways to send prompts besides the API."""


@contextmanager
def watched(home: Home2, **settings: object) -> Iterator[tuple[Service2, Daemon]]:
    """Yield a service and a daemon that has found it."""
    with Service2(home) as service, Daemon(home, **settings) as daemon:
        wait_until(lambda: daemon.heartbeat().get("endpoints"), 30, why="the daemon to find the service")
        yield service, daemon


class Client(ABC):
    """A client that sends one prompt at a time. `said` contains the prompts so far."""

    def __init__(self, home: Home2, provider: Provider) -> None:
        self.home, self.provider = home, provider
        self.said: list[str] = []

    @abstractmethod
    def start(self, text: str, *, new: bool = False) -> None:
        """Send a prompt to the session of the last one, or to a new session. No prompt may contain another."""

    @abstractmethod
    def finish(self, *answers: str, timeout: float = 120.0) -> str:
        """Wait until the user has read one of these answers to the prompt, and return that answer."""

    def ask(self, text: str, *answers: str, new: bool = False) -> str:
        """Send a prompt, and wait for one of these answers."""
        self.start(text, new=new)
        return self.finish(*answers)

    def sent(self, text: str) -> bool:
        """Return whether a model was asked this."""
        return any(request.count(text) for request in self.provider.requests())

    def session(self, text: str | None = None) -> str:
        """Return the session of a prompt, by default of the last one."""
        wanted = text or self.said[-1]
        found = wait_until(
            lambda: next((it.session for it in self.provider.requests() if wanted in it.prompt), None),
            60, why=f"a request with {wanted!r}",
        )  # fmt: skip
        return str(found)


class Api(Client):
    """A client of the API, which sends no model."""

    def __init__(self, home: Home2, provider: Provider, service: Service2) -> None:
        super().__init__(home, provider)
        self.service, self.named = service, ""

    def start(self, text: str, *, new: bool = False) -> None:
        if new or not self.named:
            self.named = self.service.create_session()
        self.said.append(text)
        self.service.prompt(self.named, text)

    def finish(self, *answers: str, timeout: float = 120.0) -> str:
        def read() -> str | None:
            messages = self.service.messages(self.named)
            place = next((n for n, it in enumerate(messages) if it.get("text") == self.said[-1]), len(messages))
            below = " ".join(part.get("text", "") for it in messages[place:] for part in it.get("content", ()))
            return next((answer for answer in answers if answer in below), None)

        return str(wait_until(unless_late(read), timeout, 0.1, f"{answers} in {self.named}"))


class Terminal(Client):
    """OpenCode 2's terminal in tmux."""

    def __init__(self, home: Home2, provider: Provider, tui: Tui) -> None:
        super().__init__(home, provider)
        self.tui = tui

    def start(self, text: str, *, new: bool = False) -> None:
        if new:
            self.tui.keys("C-x", "n")
            wait_until(lambda: self.said[-1] not in self.tui.screen(), 20, why="an empty session")
        self.said.append(text)
        self.tui.say(text)
        # The preview's terminal ignores a key that is pressed while it still connects.
        wait_until(lambda: self.sent(text) or self.tui.keys("Enter"), 60, 1.0, f"{text!r} to be sent")

    def finish(self, *answers: str, timeout: float = 120.0) -> str:
        def read() -> str | None:
            # A prompt that was sent is not drawn at once. Until then, an earlier answer is the last text on the screen.
            _, prompt, below = self.tui.screen().rpartition(self.said[-1])
            return next((answer for answer in answers if prompt and answer in below), None)

        return str(wait_until(read, timeout, 0.2, f"{answers} on the screen"))


class Run(Client):
    """`opencode run`. The first prompt gets a session, which later ones name with `-s`."""

    process: subprocess.Popen[str] | None = None
    err = ""

    def start(self, text: str, *, new: bool = False) -> None:
        arguments = ["-s", self.session()] if self.said and not new else []
        self.said.append(text)
        self.process = self._start(text, arguments)

    def _start(self, text: str, arguments: list[str]) -> subprocess.Popen[str]:
        return run2(self.home, text, *arguments)

    def finish(self, *answers: str, timeout: float = 120.0) -> str:
        code, out = self.end(timeout)
        found = next((answer for answer in answers if answer in out), None)
        assert (code, found is not None) == (0, True), (out, self.err)
        return str(found)

    def end(self, timeout: float = 120.0) -> tuple[int, str]:
        """Wait until the client ends, and return its exit code and standard output. Keep its standard error."""
        assert self.process is not None
        out, self.err = self.process.communicate(timeout=timeout)
        print(f"run {self.said[-1]!r} -> {self.process.returncode}\n{out}\n{self.err}")
        return self.process.returncode, out

    def close(self) -> None:
        """End a client that is still running."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.communicate()


class SmartRun(Run):
    """`oc-smart run`. Its configuration has to be written by a daemon."""

    def _start(self, text: str, arguments: list[str]) -> subprocess.Popen[str]:
        return Smart(self.home, NEWEST, None).start("run", *arguments, text)


@contextmanager
def client(
    way: str, home: Home2, provider: Provider, service: Service2, project: Path | None = None
) -> Iterator[Client]:
    """Yield a client of one of the WAYS, or of the API (`service`). `project` is the directory of a terminal."""
    if way == TERMINAL:
        # High enough that no answer of a test scrolls off the screen.
        with Tui("2", home, project, program=(str(home.bin / "opencode"),), size=(120, 60)) as tui:
            tui.wait_screen("primary")
            yield Terminal(home, provider, tui)
    elif way == "service":
        yield Api(home, provider, service)
    else:
        made = {RUN: Run, SMART: SmartRun}[way](home, provider)
        try:
            yield made
        finally:
            made.close()
