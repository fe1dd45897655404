"""Record the first hour of a new user as Markdown: `python -m scripts.first_hour --columns 80 >docs/first-hour.md`.

A terminal in tmux belongs to a fresh HOME with a usual newcomer's `opencode.json`: a model and two providers, and no
fallback chain. Each command is typed into its shell, and its screen and its exit code are recorded. A real OpenCode
runs in a second window, against a provider on loopback that limits the primary model for an hour.

Run it as root and as an ordinary user: nothing on the screen may depend on that.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.answers import Answer, Request
from tests.support.binaries import binary
from tests.support.daemon import ocwatch
from tests.support.homes import Home, ProviderSpec
from tests.support.opencode import NEWEST
from tests.support.processes import wait_until
from tests.support.provider import Provider, limited, ok

ROWS = {80: 24, 120: 40}
"""Height of the terminal, in lines, by its width in columns."""
PATIENCE = 240.0
"""Timeout, in seconds, for a command: `drill` takes 20 s on an idle machine, and ten times that on a loaded one."""
POLL = 0.1
PROVIDERS = {"mock": ProviderSpec(("primary", "second")), "mock2": ProviderSpec(("fallback",))}
UNSET = dict.fromkeys(("small_model", "permission", "agent", "$schema"))
"""What the configuration of a test contains and the one of a newcomer does not."""
PROMPT = "Why does the login form lose its focus?"
ANSWER = "The effect runs after each key, so the input is mounted anew. Give it a stable key."
TITLE = "Login form loses its focus"
SECOND_PROMPT = "Add a test for it."
SECOND_ANSWER = "Added: the field keeps its focus while one types."

BEFORE = ("ocwatch --help", "ocwatch status")
SET_UP = ("ocwatch up --dry-run", "ocwatch up --detach", "ocwatch doctor")
TRIAL = ("ocwatch drill", "ocwatch status", "ocwatch doctor", "ocwatch up --detach")
SETTING_UP = (
    "OpenCode is already running in a second window. `up` asks one question; Enter takes the suggestion. After "
    "`doctor`, OpenCode is restarted as its advice says."
)
AFTER = (
    "ocwatch status", "ocwatch cooldowns", "ocwatch explain", "ocwatch history", "ocwatch report", "ocwatch forecast",
    "ocwatch statusline", "ocwatch pick mock/primary", "ocwatch config check", "ocwatch logs -n 5",
)  # fmt: skip
WATCH = "ocwatch watch"
MISTAKES = (
    "ocwatch block mock/primry 1h", "ocwatch block mock/primry --for 1h", "ocwatch block mock/second --for soon",
    "ocwatch pick nonsense", "ocwatch redirect ses_nope", "ocwatch clear mock/primry", "ocwatch explain nonsense",
    "ocwatch redirect", "ocwatch history --since yesterday", "ocwatch config check nothing.json",
)  # fmt: skip
REPAIR = ("ocwatch restart --dry-run", "ocwatch restart --help", "ocwatch clear mock/primary", "ocwatch status")
END = ("ocwatch status", "ocwatch history", "ocwatch down", "ocwatch status")
COMMANDS = (*BEFORE, *SET_UP, *TRIAL, *AFTER, WATCH, *MISTAKES, *REPAIR, *END)
"""Every command line that is typed."""


@dataclass(frozen=True, slots=True)
class Shot:
    """What was typed, the screen that followed, and the exit code; 0 for the screen of a program that goes on."""

    typed: str
    screen: str
    code: int = 0


class Terminal:
    """A tmux of its own with two windows, each with a bash. A context manager."""

    def __init__(self, home: Home, scratch: Path, size: tuple[int, int], colour: bool) -> None:
        """Prepare the terminal; nothing is started before `__enter__`."""
        self.home, self.size, self.colour = home, size, colour
        self.socket, self.codes = scratch / "s", scratch / "codes%0"
        self.wrapped: list[str] = []
        """Lines that were wider than the terminal, so that it wrapped them."""

    def __enter__(self) -> Terminal:
        """Start the shells and wait for the prompt of the first."""
        columns, rows = self.size
        where = ("-c", str(self.home.project("shop")), "exec bash --norc --noprofile")
        self.tmux("new-session", "-d", "-x", str(columns), "-y", str(rows), *where)
        self.tmux("set-option", "-g", "status", "off")
        self.tmux("set-option", "-g", "history-limit", "5000")
        self.tmux("new-window", "-d", *where)
        wait_until(lambda: self._count() > 0, 20, POLL, "the shell's prompt")
        return self

    def __exit__(self, *_: object) -> None:
        """End all that runs in the terminal."""
        subprocess.run(["tmux", "-S", str(self.socket), "kill-server"], check=False, capture_output=True)

    def tmux(self, *args: str) -> str:
        """Run a tmux command and return what it prints."""
        paths = (self.home.root / ".local/bin", "/usr/local/bin", "/usr/bin", "/bin")
        env = {
            **self.home.env(self.home.project("shop")),
            "PATH": os.pathsep.join(map(str, paths)),
            "TERM": "xterm-256color",
            "LC_ALL": "C.UTF-8",
            "SHELL": "/bin/bash",
            # the shell that tmux starts this one with removes PS1 from the environment
            "PROMPT_COMMAND": f"printf '%s\\n' \"$?\" >>{self.codes.parent}/codes$TMUX_PANE; PS1='$ '",
            **({} if self.colour else {"NO_COLOR": "1"}),
        }
        command = ["tmux", "-S", str(self.socket), "-f", os.devnull, *args]
        return subprocess.run(command, env=env, check=True, capture_output=True, text=True, timeout=20).stdout

    def _count(self) -> int:
        return len(self.codes.read_text().splitlines()) if self.codes.exists() else 0

    def keys(self, *keys: str, window: int = 0) -> None:
        """Press keys, by tmux's names."""
        self.tmux("send-keys", "-t", f":{window}", *keys)

    def screen(self, window: int = 0, *, whole: bool = False) -> str:
        """Return the text on the screen; with `whole`, also what has left it at the top."""
        options = ["-e"] if self.colour else []
        return self.tmux("capture-pane", "-p", "-t", f":{window}", *options, *(["-S", "-"] if whole else [])).rstrip()

    def steady(self, window: int = 0) -> str:
        """Return the screen as soon as it stays the same for half a second, apart from its digits."""
        before, since, deadline = "", time.monotonic(), time.monotonic() + 20
        while time.monotonic() < deadline:
            shown = self.screen(window)
            if (still := re.sub(r"\d", "0", shown)) != before or not shown:
                before, since = still, time.monotonic()
            elif time.monotonic() - since > 0.5:
                break
            time.sleep(POLL)
        return self.screen(window)

    def type(self, command: str) -> int:
        """Type a command on an empty screen; return the number of commands that have ended before."""
        self.keys("C-l")
        wait_until(lambda: visible(self.screen()).strip() == "$", 20, POLL, "an empty screen")
        self.tmux("clear-history", "-t", ":0")
        count = self._count()
        self.tmux("send-keys", "-t", ":0", "-l", command)
        self.keys("Enter")
        return count

    def run(self, command: str, question: str = "") -> Shot:
        """Type a command, answer its question with Enter, and return the screen once it has ended."""
        count = self.type(command)
        ended: Callable[[], bool] = lambda: self._count() > count  # noqa: E731
        if question:
            wait_until(lambda: ended() or question in self.screen(), PATIENCE, POLL, question)
            self.keys("Enter")
            wait_until(lambda: ended() or question not in self.screen().splitlines()[-1], 20, POLL, "the answer")
        wait_until(ended, PATIENCE, POLL, f"the end of {command}")
        wait_until(lambda: visible(self.screen()).splitlines()[-1:] == ["$"], 20, POLL, f"a prompt after {command}")
        lines = self.screen(whole=True).splitlines()[1:-1]
        joined = self.tmux("capture-pane", "-p", "-J", "-S", "-", "-t", ":0").splitlines()
        self.wrapped += [f"{command}: {line}" for line in joined if len(line.rstrip()) > self.size[0]]
        return Shot(command, "\n".join(lines), int(self.codes.read_text().splitlines()[count]))


def visible(text: str) -> str:
    """Return the text without terminal codes."""
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def is_for_title(request: Request) -> bool:
    """Return whether OpenCode asks for the title of a session."""
    return any("title" in text for text in request.user_texts)


def newcomer(root: Path, url: str) -> Home:
    """Return a fresh home: OpenCode's configuration, and both programs in `~/.local/bin`."""
    home = Home(root, url, providers=PROVIDERS, agents={}, settings=UNSET)
    programs = home.root / ".local" / "bin"
    programs.mkdir(parents=True)
    (programs / "opencode").symlink_to(binary(NEWEST))
    (programs / "ocwatch").symlink_to(Path(sys.executable).parent / "ocwatch")
    return home


@contextmanager
def stage(columns: int, colour: bool) -> Iterator[tuple[Terminal, Provider, list[bool]]]:
    """Yield a terminal of a newcomer, the provider, and a list that is emptied when the limit ends."""
    scratch = Path(tempfile.mkdtemp(prefix="ocw-hour-"))
    root = Path(tempfile.mkdtemp(prefix="h"))  # as short as a usual home, because paths in it are printed
    limit = [True]

    def primary(request: Request) -> Answer:
        return limited(3600) if limit else ok(TITLE if is_for_title(request) else SECOND_ANSWER)

    def fallback(request: Request) -> Answer:
        return ok(TITLE if is_for_title(request) else ANSWER)

    try:
        with Provider() as provider:
            provider.script("mock/primary", primary)
            provider.script("mock2/fallback", fallback)
            home = newcomer(root, provider.url)
            try:
                with Terminal(home, scratch, (columns, ROWS[columns]), colour) as terminal:
                    yield terminal, provider, limit
            finally:
                ocwatch(home, "down")
    finally:
        shutil.rmtree(root, ignore_errors=True)
        shutil.rmtree(scratch, ignore_errors=True)


def first_hour(columns: int, colour: bool) -> str:
    """Record everything and return it as Markdown."""
    with stage(columns, colour) as (terminal, _, limit):
        home = terminal.home
        parts = [
            ("A new user", "OpenCode has a model and two providers, and no chain.", [_configuration(home)]),
            ("Before anything is set up", "", [terminal.run(command) for command in BEFORE]),
            ("Setting up", SETTING_UP, list(_set_up(terminal))),
            ("A limit of an hour", "OpenCode in the second window.", [_said(terminal, PROMPT, "stable key")]),
            ("What happened", "", [terminal.run(command) for command in AFTER]),
            ("Live", "`?` lists the keys, `q` ends.", list(_watched(terminal))),
            ("Mistakes", "", [terminal.run(command) for command in MISTAKES]),
            ("Ending the limit", "", [terminal.run(command) for command in REPAIR]),
        ]
        limit.clear()
        parts.append(("Back on the primary model", "The next prompt in OpenCode.", [_returned(terminal)]))
        parts.append(("Leaving", "", [terminal.run(command) for command in END]))
        for line in terminal.wrapped:
            print(f"wider than {columns} columns: {line}", file=sys.stderr)
        text = markdown(parts)
    return _without_paths(text, home)


def _configuration(home: Home) -> Shot:
    text = (home.config_dir / "opencode.json").read_text()
    return Shot("cat ~/.config/opencode/opencode.json", text)


def _set_up(terminal: Terminal) -> Iterator[Shot]:
    _open_opencode(terminal)
    for command in SET_UP:
        asks = command.startswith("ocwatch up") and "--dry-run" not in command
        yield terminal.run(command, "Enter for all" if asks else "")
    terminal.keys("C-c", window=1)
    wait_until(lambda: visible(terminal.screen(1)).splitlines()[-1:] == ["$"], 20, POLL, "OpenCode to end")
    _open_opencode(terminal)
    for command in TRIAL:
        yield terminal.run(command)


def _open_opencode(terminal: Terminal) -> None:
    terminal.tmux("send-keys", "-t", ":1", "opencode", "Enter")
    wait_until(lambda: "ctrl+p" in visible(terminal.screen(1)), 60, POLL, "the TUI of OpenCode")


def _said(terminal: Terminal, prompt: str, answer: str) -> Shot:
    terminal.tmux("send-keys", "-t", ":1", "-l", prompt)
    wait_until(lambda: prompt[-10:] in visible(terminal.screen(1)), 20, POLL, "the typed prompt")
    terminal.keys("Enter", window=1)
    wait_until(lambda: answer in visible(terminal.screen(1)), 60, POLL, "the answer in OpenCode")
    return Shot(f"opencode, and the prompt: {prompt}", terminal.steady(1))


def _returned(terminal: Terminal) -> Shot:
    return _said(terminal, SECOND_PROMPT, SECOND_ANSWER[:20])


def _watched(terminal: Terminal) -> Iterator[Shot]:
    count = terminal.type(WATCH)
    wait_until(lambda: terminal.tmux("display-message", "-p", "-t", ":0", "#{alternate_on}").strip() == "1", 20, POLL)
    yield Shot(WATCH, terminal.steady())
    terminal.keys("?")
    yield Shot(f"{WATCH}, and the key ?", terminal.steady())
    terminal.keys("Enter")
    terminal.steady()
    terminal.keys("q")
    codes = wait_until(lambda: terminal.codes.read_text().splitlines()[count:], 20, POLL, "watch to end")
    if codes != ["0"]:
        yield Shot(f"{WATCH}, and the key q", terminal.steady(), int(codes[0]))


def _without_paths(text: str, home: Home) -> str:
    environment = str(Path(sys.executable).parent.parent)
    text = text.replace(str(home.root), "~").replace(environment, "~/.local/share/ocwatchd-venv")
    return re.sub(r"http://127\.0\.0\.1:\d+", "http://127.0.0.1:8080", text)


def markdown(parts: Sequence[tuple[str, str, Sequence[Shot]]]) -> str:
    """Return the text with one fenced block for each screen, with its exit code if that is not 0."""
    lines = []
    for title, about, shots in parts:
        lines += [f"## {title}", "", *([about, ""] if about else [])]
        for shot in shots:
            end = [f"Exit code: {shot.code}", ""] if shot.code else []
            lines += ["```console", f"$ {shot.typed}", *map(str.rstrip, shot.screen.splitlines()), "```", "", *end]
    return "\n".join(lines).rstrip() + "\n"


def main() -> None:
    """Record the first hour and print it."""
    parser = argparse.ArgumentParser(description="Record the first hour of a new user as Markdown.")
    parser.add_argument("--columns", type=int, choices=sorted(ROWS), default=80)
    parser.add_argument("--colour", action="store_true", help="keep the colours of the terminal")
    options = parser.parse_args()
    text = first_hour(options.columns, options.colour)
    command = f"python -m scripts.first_hour --columns {options.columns}{' --colour' if options.colour else ''}"
    print(f"# The first hour\n\nRecorded by `{command}` with OpenCode {NEWEST}.")
    print("The private HOME is shown as `~`, which lets some lines look shorter than they are on the screen.\n")
    print(text, end="")


if __name__ == "__main__":
    main()
