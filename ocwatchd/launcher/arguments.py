"""Parse the parts of OpenCode's command line that the launcher needs, and remove our own flags.

Everything else is passed on to OpenCode unchanged. OpenCode 1.0 to 1.18 accepts options before and after the
subcommand. It treats arguments after `--` as text.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

OWN = ("--no-fallback", "--wait", "--print-env")
"""Our own flags, which are never passed on to OpenCode."""

_VALUED = frozenset(
    (
        "--log-level", "--command", "-s", "--session", "-m", "--model", "--agent", "--format", "-f", "--file",
        "--title", "--attach", "-p", "--password", "-u", "--username", "--dir", "--port", "--variant", "--prompt",
        "--hostname", "--mdns-domain", "--cors",
        "--server", "--replay-limit",
    )
)  # fmt: skip
"""Options that take the next argument as their value."""

SUBCOMMANDS = frozenset(
    (
        "acp", "agent", "attach", "auth", "completion", "console", "db", "debug", "export", "generate", "github",
        "import", "mcp", "models", "plug", "plugin", "pr", "providers", "run", "serve", "session", "stats", "uninstall",
        "upgrade", "web",
    )
)  # fmt: skip
"""Subcommands of OpenCode 1. If the first argument that is not an option is not one of these, it is the directory in
which the terminal interface starts.
"""

CLIENT_COMMANDS = frozenset(
    ("acp", "api", "auth", "console", "debug", "mcp", "migrate", "mini", "pair", "plugin", "run", "serve", "service")
)
"""Subcommands of OpenCode 2 (0.0.0-next-16350). Only `run` and `mini` take a model."""

_MODEL, _AGENT = ("-m", "--model"), ("--agent",)
_SESSION, _FORMAT = ("-s", "--session"), ("--format",)


class Arguments:
    """A parsed command line. `words` contains OpenCode's arguments, and `own` contains our own flags."""

    __slots__ = ("own", "words")

    def __init__(self, given: Sequence[str]) -> None:
        """Parse `given`. Our own flags are recognized only before `--`."""
        end = list(given).index("--") if "--" in given else len(given)
        self.own = frozenset(word for word in given[:end] if word in OWN)
        self.words = [word for word in given[:end] if word not in OWN] + list(given[end:])

    @property
    def subcommand(self) -> str:
        """Return the subcommand of OpenCode 1, or an empty string for the terminal interface."""
        plain = self._plain()
        first = next(plain, "")
        return first if first in SUBCOMMANDS else ""

    @property
    def client_command(self) -> str:
        """Return the subcommand of OpenCode 2, or an empty string for the terminal interface."""
        first = next(self._plain(), "")
        return first if first in CLIENT_COMMANDS else ""

    @property
    def model(self) -> str | None:
        """Return the value of `--model`."""
        return self._value(_MODEL)

    @property
    def agent(self) -> str | None:
        """Return the value of `--agent`."""
        return self._value(_AGENT)

    @property
    def session(self) -> str | None:
        """Return the value of `--session`."""
        return self._value(_SESSION)

    @property
    def format(self) -> str | None:
        """Return the value of `--format`: `json`, `default` or None."""
        return self._value(_FORMAT)

    @property
    def continues(self) -> bool:
        """Return whether the command continues an earlier session. If so, that session's last model replaces the
        default model.
        """
        return self.session is not None or self.has("-c", "--continue")

    @property
    def prompt(self) -> list[str]:
        """Return the arguments that form the message of a `run`."""
        plain = list(self._plain())
        return plain[1:] + self.words[len(self._options()) + 1 :]

    def value(self, *names: str) -> str | None:
        """Return the value of the last option that has one of these names."""
        return self._value(names)

    def values(self, *names: str) -> list[str]:
        """Return the values of all options that have one of these names."""
        return [value for _, _, value in self._places(names)]

    def has(self, *names: str) -> bool:
        """Return whether one of these options is given, with or without a value."""
        return any(word.partition("=")[0] in names for word in self._options())

    def with_model(self, model: str) -> list[str]:
        """Return the arguments with the value of `--model` replaced."""
        return self._replaced(_MODEL, model)

    def adding_model(self, model: str) -> list[str]:
        """Return the arguments with `--model` added after the subcommand of OpenCode 2."""
        at = self.words.index(self.client_command) + 1
        return [*self.words[:at], "--model", model, *self.words[at:]]

    def with_agent(self, agent: str) -> list[str]:
        """Return the arguments with the value of `--agent` replaced.

        If the option is missing, it is added after the value of `--model` or, without `--model`, after the subcommand.
        """
        if self.agent is not None:
            return self._replaced(_AGENT, agent)
        if self.model is not None:
            at = self._places(_MODEL)[-1][0] + 1
        else:
            at = self.words.index(self.subcommand) + 1 if self.subcommand else 0
        return [*self.words[:at], "--agent", agent, *self.words[at:]]

    # ---- reading

    def _options(self) -> list[str]:
        end = self.words.index("--") if "--" in self.words else len(self.words)
        return self.words[:end]

    def _plain(self) -> Iterator[str]:
        skip = False
        for word in self._options():
            if skip:
                skip = False
            elif word in _VALUED:
                skip = True
            elif not word.startswith("-"):
                yield word

    def _places(self, names: tuple[str, ...]) -> list[tuple[int, str, str]]:
        """Return a tuple for each occurrence of an option: the index of the argument that contains the value, the
        prefix of the value in that argument, and the value.
        """
        words, found, index = self._options(), [], 0
        while index < len(words):
            word = words[index]
            name, equals, value = word.partition("=")
            if word in names and index + 1 < len(words):
                found.append((index + 1, "", words[index + 1]))
            elif name in names and equals:
                found.append((index, f"{name}=", value))
            elif word[:2] in names and word[1:2] != "-" and len(word) > 2 and not equals:
                found.append((index, word[:2], word[2:]))
            index += 2 if word in _VALUED else 1
        return found

    def _value(self, names: tuple[str, ...]) -> str | None:
        places = self._places(names)
        return places[-1][2] if places else None

    def _replaced(self, names: tuple[str, ...], value: str) -> list[str]:
        words = list(self.words)
        for index, before, _ in self._places(names):
            words[index] = before + value
        return words
