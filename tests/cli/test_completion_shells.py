"""Tests of completion in the real bash, zsh and fish: a Tab evaluates no name, and inserts it as one word."""

from __future__ import annotations

import os
from collections.abc import Iterator
from types import TracebackType
from typing import Self

import pytest

from tests.cli.conftest import Cli, resting
from tests.support.processes import wait_until
from tests.support.pty import Pty

SHELLS = {
    "bash": ["bash", "--noprofile", "--rcfile", "../rc", "-i"],
    # As in bash 3.2 of macOS, which has no `compopt`.
    "old bash": ["bash", "--noprofile", "--rcfile", "../rc.old", "-i"],
    "zsh": ["zsh", "-i"],
    "fish": ["fish", "--no-config", "--interactive", "--init-command", "source ../rc.fish"],
}
PROMPT = "ready: "
SETUP = {
    "rc": 'PS1="ready"": "; eval "$(ocwatch completion bash)"; bind "set enable-bracketed-paste off"\n',
    "rc.old": "enable -n compopt; source ../rc\n",
    ".zshrc": "autoload -Uz compinit; compinit -u; setopt interactivecomments extendedglob\n"
    'eval "$(ocwatch completion zsh)"; PROMPT="ready"": "\n',
    "rc.fish": "ocwatch completion fish | source; set -g fish_greeting\n"
    'function fish_prompt; echo -n "ready"": "; end\n',
}
NAMES = (
    "evil/<({touch,PWNED})", "evil/x;{mkdir,PWNED}", "evil/>({touch,PWNED})", "evil/x&{touch,PWNED}|{touch,PWNED}",
    "evil/({touch,PWNED})", "=ls/x", "#x/y#z", "*/?", "evil/[a-z]^*", "evil/{a,b}", "evil/a:~root", "!!/!ls", "^a^b/c",
    "%1/x>PWNED", "evil/é{1,2}", "or/qwen:free", "a=b@c/d,e+f",
)  # fmt: skip
"""Characters that a shell could interpret."""


class Shell:
    """An interactive shell with our completion, in an empty directory.

    The `ocwatch` on its PATH completes as the real one; for any other command it only records its arguments.
    """

    def __init__(self, cli: Cli, name: str) -> None:
        """Start the shell."""
        home = cli.paths.home
        self.cli, self.place, self._record = cli, home / "here", home / "record"
        self.place.mkdir()
        self._record.write_bytes(b"")
        program = home / "bin" / "ocwatch"
        program.parent.mkdir()
        program.write_text(
            f'#!/bin/sh\ncase $1 in __complete|completion) exec {" ".join(cli.command())} "$@";; esac\n'
            f'{{ printf "%s\\0" "$@"; echo; }} >>{self._record}\n'
        )
        program.chmod(0o755)
        for file, text in SETUP.items():
            (home / file).write_text(text)
        env = {"PATH": f"{program.parent}:{os.environ['PATH']}", "TERM": "xterm", "LC_ALL": "C.UTF-8"}
        self._pty = Pty(SHELLS[name], {**cli.env, **env}, self.place, (200, 50))

    def __enter__(self) -> Self:
        self._pty.wait(PROMPT)
        return self

    def __exit__(self, kind: type[BaseException] | None, fault: BaseException | None, at: TracebackType | None) -> None:
        self._pty.__exit__(kind, fault, at)

    def line(self, keys: str) -> list[str]:
        """Return the arguments of `ocwatch` if these keys are pressed after its name, and then Enter."""
        before = len(self._lines())
        self._pty.type(f"ocwatch {keys}\r")
        wait_until(lambda: len(self._lines()) > before, 30, why=f"{keys!r}")
        self._pty.wait(PROMPT)
        return self._lines()[before]

    def _lines(self) -> list[list[str]]:
        return [line.split("\0")[:-1] for line in self._record.read_text().splitlines()]


@pytest.fixture
def shell(request: pytest.FixtureRequest, cli: Cli) -> Iterator[Shell]:
    with Shell(cli, request.param) as shell:
        yield shell


def in_shells(*names: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("shell", names, indirect=True)


@in_shells("bash", "zsh", "fish")
def test_a_tab_runs_nothing_and_what_it_inserts_is_one_word(shell: Shell) -> None:
    for name in NAMES:
        shell.cli.register(**{name: resting()})
        quotes = ("", "'") if "!" in name else ("", "'", '"')
        found = {quote: shell.line(f"clear {quote}\t") for quote in quotes}
        assert found == {quote: ["clear", name] for quote in quotes}
    assert not list(shell.place.iterdir())


@in_shells("bash", "zsh", "fish")
def test_what_was_typed_of_a_name_is_compared_as_it_is_meant(shell: Shell) -> None:
    shell.cli.register(**{"evil/x;{mkdir,PWNED}": resting(), "evil/y": resting(), "e*/z": resting()})
    typed = [shell.line(f"clear {keys}\t") for keys in ("evil/x\\;", "'evil/x;{", '"evil/x')]
    assert typed == [["clear", "evil/x;{mkdir,PWNED}"]] * 3
    assert not list(shell.place.iterdir())


@in_shells("bash", "zsh", "fish")
def test_names_that_would_be_options_or_homes_are_not_offered(shell: Shell) -> None:
    shell.cli.register(**{"--all": resting(), "~root/x": resting(), "p/a\n--all": resting()})
    assert shell.line("clear \t") == ["clear"]


@in_shells("bash", "zsh")
def test_an_asterisk_typed_as_a_character_is_no_pattern(shell: Shell) -> None:
    shell.cli.register(**{"evil/y": resting(), "e*/z": resting()})
    assert shell.line("clear e\\*\t") == ["clear", "e*/z"]


@in_shells("bash")
def test_what_several_names_begin_with_ends_in_no_quoted_character(shell: Shell) -> None:
    shell.cli.register(**{"p/;a": resting(), "p/;b": resting(), "q/(a": resting(), "q/;b": resting()})
    assert shell.line("clear p\ta") == ["clear", "p/;a"]
    assert shell.line("clear q\t") == ["clear", "q/"]
    assert shell.line('clear "p\tb"') == ["clear", "p/;b"]


@in_shells("bash", "old bash", "zsh", "fish")
def test_names_of_files_are_quoted_as_well(shell: Shell) -> None:
    for name in ("a $(touch PWNED)", "b;touch PWNED", "c'\"`touch PWNED`", "d*"):
        (shell.place / name).write_text("")
        assert shell.line(f"classify {name[0]}\t") == ["classify", name]
        (shell.place / name).unlink()
    assert not list(shell.place.iterdir())
