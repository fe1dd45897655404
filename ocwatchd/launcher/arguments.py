"""OpenCode's command line, read as far as it matters here, and ours taken out of it. Everything else passes unchanged.

OpenCode 1.0 - 1.18 reads options before and after the subcommand; what follows `--` is text.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

OWN = ("--no-fallback", "--wait", "--print-env")
"""Flags of ours; they are never passed on."""

_VALUED = frozenset(
    (
        "--log-level", "--command", "-s", "--session", "-m", "--model", "--agent", "--format", "-f", "--file",
        "--title", "--attach", "-p", "--password", "-u", "--username", "--dir", "--port", "--variant", "--prompt",
        "--hostname", "--mdns-domain", "--cors",
    )
)  # fmt: skip
"""Options whose value is the next word."""

SUBCOMMANDS = frozenset(
    (
        "acp", "agent", "attach", "auth", "completion", "console", "db", "debug", "export", "generate", "github",
        "import", "mcp", "models", "plug", "plugin", "pr", "providers", "run", "serve", "session", "stats", "uninstall",
        "upgrade", "web",
    )
)  # fmt: skip
"""What the first plain word may be; any other is a directory, for the terminal."""

_MODEL, _AGENT = ("-m", "--model"), ("--agent",)
_SESSION, _FORMAT = ("-s", "--session"), ("--format",)


class Arguments:
    """A command line without our own flags. `words` are what OpenCode gets."""

    __slots__ = ("own", "words")

    def __init__(self, given: Sequence[str]) -> None:
        """Take our flags out of `given`, as far as `--`."""
        end = list(given).index("--") if "--" in given else len(given)
        self.own = frozenset(word for word in given[:end] if word in OWN)
        self.words = [word for word in given[:end] if word not in OWN] + list(given[end:])

    @property
    def subcommand(self) -> str:
        """`run`, `serve`, …; empty for the terminal."""
        plain = self._plain()
        first = next(plain, "")
        return first if first in SUBCOMMANDS else ""

    @property
    def model(self) -> str | None:
        """The explicit model."""
        return self._value(_MODEL)

    @property
    def agent(self) -> str | None:
        """The explicit agent."""
        return self._value(_AGENT)

    @property
    def session(self) -> str | None:
        """The explicit session."""
        return self._value(_SESSION)

    @property
    def format(self) -> str | None:
        """`json`, `default` or None."""
        return self._value(_FORMAT)

    @property
    def continues(self) -> bool:
        """Whether an earlier session goes on: then its own last model counts, not the default one."""
        return self.session is not None or self.has("-c", "--continue")

    @property
    def prompt(self) -> list[str]:
        """The words of `run`'s message."""
        plain = list(self._plain())
        return plain[1:] + self.words[len(self._options()) + 1 :]

    def value(self, *names: str) -> str | None:
        """The last value of an option with these names."""
        return self._value(names)

    def values(self, *names: str) -> list[str]:
        """All values of an option with these names."""
        return [value for _, _, value in self._places(names)]

    def has(self, *names: str) -> bool:
        """Whether one of these options is given, with or without a value."""
        return any(word.partition("=")[0] in names for word in self._options())

    def with_model(self, model: str) -> list[str]:
        """The words with the explicit model replaced."""
        return self._replaced(_MODEL, model)

    def with_agent(self, agent: str) -> list[str]:
        """The words with the explicit agent replaced."""
        return self._replaced(_AGENT, agent)

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
        """Where an option's value stands: index of the word, what precedes the value in it, the value."""
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
