"""Write the manual pages in man/ and the list of commands that `ocwatch --help` prints: `python -m scripts.man_pages`.

There is one page for `ocwatch` with all its commands, one for `oc-smart` and one for `ocwatchd`. All are generated from
the commands' help texts, and tests compare them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import typer

from ocwatchd import __version__
from ocwatchd.cli.app import app
from ocwatchd.cli.commands.run import HELP
from ocwatchd.daemon.loop import OPTIONS

DIRECTORY = Path(__file__).parents[1] / "man"
COMMANDS = DIRECTORY.parent / "ocwatchd" / "cli" / "help.txt"
EXIT_CODES = (
    ("0", "done"),
    ("1", "failed"),
    ("2", "wrong usage"),
    ("3", "the daemon is not running, or stalled"),
    ("4", "bad configuration, or a model in use has no fallback, or OpenCode does not offer a configured model"),
    ("5", "OpenCode cannot be reached, or is not served"),
    ("75", "every model is cooling down"),
)
FILES = (
    ("~/.config/opencode/rate-limit-config.json", "the configuration"),
    ("~/.local/state/ocwatchd/blacklist.json", "the cooldowns"),
    ("~/.local/state/ocwatchd/journal.jsonl", "what happened, for history and explain"),
)


def pages() -> dict[str, str]:
    """Return the text of each page by its file name."""
    return {"ocwatch.1": _ocwatch(), "oc-smart.1": _smart(), "ocwatchd.1": _daemon()}


def commands() -> str:
    """Return the list of commands, as typer prints it on a terminal of 80 columns or more."""
    root: Any = typer.main.get_command(app)
    context = root.make_context("ocwatch", [], resilient_parsing=True, terminal_width=78)
    return f"{root.get_help(context)}\n"


def _head(name: str, about: str) -> list[str]:
    return [
        f'.TH {name.upper()} 1 "" "ocwatchd {__version__}" "User Commands"',
        ".SH NAME",
        f"{_plain(name)} \\- {_plain(about)}",
    ]


def _ocwatch() -> str:
    root: Any = typer.main.get_command(app)
    lines = _head("ocwatch", "keep OpenCode working when a model is rate limited")
    lines += [".SH SYNOPSIS", ".B ocwatch", "COMMAND [OPTIONS] [ARGUMENTS]", ".SH DESCRIPTION", _plain(str(root.help))]
    lines += [".SH COMMANDS", *_commands(root.commands, "ocwatch")]
    lines += [".SH EXIT STATUS", *(_item(code, about) for code, about in EXIT_CODES)]
    lines += [".SH FILES", *(_item(name, about) for name, about in FILES)]
    lines += [".SH SEE ALSO", ".BR oc\\-smart (1),", ".BR ocwatchd (1)"]
    return "\n".join(lines) + "\n"


def _commands(commands: Mapping[str, Any], before: str) -> Iterator[str]:
    for name, command in sorted(commands.items()):
        if getattr(command, "commands", None):
            yield from _commands(command.commands, f"{before} {name}")
            continue
        arguments = [_argument(param) for param in command.params if param.param_type_name == "argument"]
        yield f".SS {_plain(' '.join([before, name, *arguments]))}"
        yield from _paragraphs(str(command.help or ""))
        for param in command.params:
            if param.param_type_name == "option" and not param.hidden:
                value = "" if param.is_flag else f" {param.metavar or 'VALUE'}"
                yield _item(", ".join((*param.opts, *param.secondary_opts)) + value, str(param.help or ""))


def _argument(param: Any) -> str:
    metavar = str(param.metavar or param.name.upper())
    return metavar if param.required else f"[{metavar}]"


def _smart() -> str:
    lines = _head("oc-smart", "start OpenCode with limited models replaced")
    lines += [".SH SYNOPSIS", ".B oc\\-smart", "[OPTIONS] [OPENCODE ARGUMENTS]", ".SH DESCRIPTION", ".nf"]
    lines += [_plain(line) for line in HELP.splitlines()]
    return "\n".join([*lines, ".fi", ".SH SEE ALSO", ".BR ocwatch (1)"]) + "\n"


def _daemon() -> str:
    about = (
        "The daemon follows OpenCode's logs and event streams and moves limited sessions to a fallback model. It runs "
        "in the foreground and ends within 5 seconds of SIGTERM or SIGINT. To run it as a service:"
    )
    lines = _head("ocwatchd", "the daemon of ocwatch")
    lines += [
        ".SH SYNOPSIS",
        ".B ocwatchd",
        "[OPTION]",
        ".SH DESCRIPTION",
        about,
        ".B ocwatch up",
        ".SH OPTIONS",
        *(_item(", ".join(names), words) for *names, words in OPTIONS),
        ".SH SEE ALSO",
        ".BR ocwatch (1)",
    ]
    return "\n".join(lines) + "\n"


def _paragraphs(text: str) -> Iterator[str]:
    for paragraph in text.split("\n\n"):
        yield ".PP"
        yield _plain(" ".join(paragraph.split()))


def _item(term: str, about: str) -> str:
    return f".TP\n.B {_plain(term)}\n{_plain(about)}"


def _plain(text: str) -> str:
    """Return the text escaped for roff, so that no dot or quote at the beginning of a line is taken for a request."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-").replace("…", "...")
    return f"\\&{escaped}" if escaped[:1] in (".", "'") else escaped


def main() -> None:
    """Write the pages."""
    DIRECTORY.mkdir(exist_ok=True)
    for name, text in pages().items():
        (DIRECTORY / name).write_text(text)
    COMMANDS.write_text(commands())


if __name__ == "__main__":
    main()
