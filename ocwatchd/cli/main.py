"""The `ocwatch` program. It runs frequently used commands directly, and all other commands through typer.

Loading typer takes 60 ms of CPU time, but `status` may take only 60 ms in total, and `pick` 25 ms. `guarded` wraps
every command. It converts a fault into one message and an exit code, never into a traceback. A closed pipe is not a
fault.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence

from ocwatchd.cli.output.escape import escape
from ocwatchd.cli.output.render import screen_width, warn
from ocwatchd.errors import ExitCode, OcwatchError, UsageError

HELP_WIDTH = 80
"""Width of the stored list of commands, in columns; typer renders a narrower list for a narrower terminal."""


def main() -> None:
    """Run the console script `ocwatch`, and end the process with its exit code."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return the exit code. If OCWATCHD_LOG is set, log each step to standard error."""
    work = quick(arguments) or (lambda: _full(arguments))
    if not os.environ.get("OCWATCHD_LOG"):
        return guarded(work, as_json="--json" in arguments)
    from ocwatchd import own_log  # lazy import: `logging` costs 5 ms of CPU time

    own_log.set_up()
    code = guarded(work, as_json="--json" in arguments)
    own_log.log.debug("%s ended with %d", arguments[0] if arguments else "ocwatch", code)
    return code


def quick(arguments: Sequence[str]) -> Callable[[], int] | None:
    """Return a function that runs a simple command line, or None if typer must parse the line or report an error."""
    command, *rest = arguments or ("",)
    if command == "run" and rest[:1] not in (["--help"], ["-h"]):
        return lambda: _launch(rest[1:] if rest[:1] == ["--"] else rest)
    if command == "statusline":
        return _statusline(rest)
    if command in ("--help", "-h") and not rest and screen_width() >= HELP_WIDTH:
        return _help
    if command == "__complete":
        from ocwatchd.cli.commands.complete import complete

        return lambda: complete(rest[0] if rest else "")
    if command in ("block", "clear"):
        return _cooldown_change(command, rest)
    if command == "config" and rest[:1] == ["check"]:
        command, rest = "config check", rest[1:]
    as_json = "--json" in rest
    names = [word for word in rest if word != "--json"]
    if any(word.startswith("-") for word in names):
        return None
    if command == "classify" and names:
        from ocwatchd.cli.commands.classify import classify

        return lambda: classify(names, as_json=as_json)
    if len(names) > (command in ("pick", "config check")):
        return None
    match command:
        case "config check":
            from ocwatchd.cli.commands.config import check

            return lambda: check(names[0] if names else None, as_json)
        case "forecast":
            from ocwatchd.cli.commands.forecast import forecast

            return lambda: forecast(as_json)
        case "--version" | "-V" if not rest:
            return version
        case "status":
            from ocwatchd.cli.commands.status import status

            return lambda: status(as_json)
        case "cooldowns":
            from ocwatchd.cli.commands.status import cooldowns

            return lambda: cooldowns(as_json)
        case "pick":
            from ocwatchd.cli.commands.pick import pick

            return lambda: pick(names[0] if names else None, as_json)
    return None


def _cooldown_change(command: str, rest: Sequence[str]) -> Callable[[], int] | None:
    """Return a function that runs `block` or `clear`, or None if typer must parse the arguments or report an error."""
    flags, values, names = set[str](), dict[str, str](), list[str]()
    valued, known = (
        ({"--for", "--until"}, {"--json", "--force"}) if command == "block" else (set(), {"--json", "--all", "--force"})
    )
    words = iter(rest)
    for word in words:
        option, equals, value = word.partition("=")
        if option in valued:
            found = value if equals else next(words, None)
            if found is None or option in values:
                return None
            values[option] = found
        elif word in known:
            flags.add(word)
        elif word.startswith("-"):
            return None
        else:
            names.append(word)
    if command == "block" and len(names) == 2 and not values:
        return lambda: _block_without_option(*names)
    if len(names) > 1 or (command == "block" and not names):
        return None
    from ocwatchd.cli.commands import block

    as_json, force = "--json" in flags, "--force" in flags
    if command == "block":
        return lambda: block.block(names[0], values.get("--for"), values.get("--until"), as_json, force)
    return lambda: block.clear(names[0] if names else None, "--all" in flags, as_json, force)


def _block_without_option(model: str, end: str) -> int:
    """Report a time that was typed without its option, as in `block MODEL 1h`."""
    from shlex import quote

    option = "--until" if ":" in end else "--for"
    raise UsageError(
        f"unexpected argument: {end}. To set a time, use: ocwatch block {quote(model)} {option} {quote(end)}"
    )


def _statusline(rest: Sequence[str]) -> Callable[[], int] | None:
    match rest:
        case []:
            form = "plain"
        case ["--format" | "-f", form]:
            pass
        case [word] if word.startswith("--format="):
            form = word.removeprefix("--format=")
        case _:
            return None
    from ocwatchd.cli.commands.statusline import statusline

    return lambda: statusline(form)


def _launch(arguments: Sequence[str]) -> int:
    from ocwatchd.cli.commands.run import launch

    launch(arguments, sys.argv[0])


def _help() -> int:
    """Print the list of commands generated by `scripts/man_pages.py`; typer needs 110 ms of CPU time for this."""
    with open(f"{__file__.removesuffix('main.py')}help.txt", encoding="utf-8") as file:  # noqa: PTH123 (a Path costs 5 ms)
        print(file.read(), end="")
    return 0


def version() -> int:
    """Print the version."""
    from ocwatchd import __version__

    print(f"ocwatch {__version__}")
    return 0


def _full(arguments: Sequence[str]) -> int:
    from ocwatchd.cli.app import run_app

    return run_app(arguments)


ALL_ERRORS = "\nTo list all errors: ocwatch config check"
"""Printed after the first error in our configuration."""
INTERRUPTED = 130
"""The exit code with which shells report a command ended by Ctrl-C."""


def guarded(work: Callable[[], int], as_json: bool = False) -> int:
    """Run `work` and return its exit code. Print a fault on standard error; with `as_json`, as a JSON document."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # output must not fail with a UnicodeEncodeError in a non-UTF-8 locale
            stream.reconfigure(errors="backslashreplace")
    try:
        code = work()
        if sys.stdout is not None:
            sys.stdout.flush()  # flush here, where a full disk or a closed pipe can still be reported
    except OcwatchError as fault:
        ours = str(getattr(fault, "path", "")).endswith("/rate-limit-config.json")
        return _failed(str(fault), fault.exit_code, as_json, ALL_ERRORS if ours else "")
    except BrokenPipeError:
        _drop_output()
        return ExitCode.DONE
    except KeyboardInterrupt:
        return INTERRUPTED
    except OSError as error:
        _drop_output()
        return _failed(f"{error.filename or 'standard output'}: {error.strerror or error}", ExitCode.FAILED, as_json)
    return code


def _drop_output() -> None:
    """Discard output that could not be written, because the interpreter would try again at exit and print an error."""
    if sys.stdout is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _lines(message: str) -> str:
    """Return the message, escaped for a terminal, with every line but the first indented.

    Otherwise, a line of quoted text could look like a separate message from ocwatch.
    """
    first, *rest = map(escape, message.split("\n"))
    return "\n".join([first, *(line if line.startswith("  ") else f"  {line}" for line in rest)])


def _failed(message: str, code: int, as_json: bool, advice: str = "") -> int:
    """Print the message, followed by `advice` unless the output is JSON, and return `code`."""
    try:
        if as_json:
            import json

            print(json.dumps({"version": 1, "error": {"code": int(code), "message": message}}), file=sys.stderr)
        else:
            warn(_lines(message + advice))
    except OSError:
        pass  # standard error is also closed, so only the exit code can report the failure
    return code


if __name__ == "__main__":
    main()
