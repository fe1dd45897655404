"""`ocwatch`. The commands that scripts call all day are dispatched at once; the rest goes through typer.

typer costs 60 CPU ms before a command begins; `status` may take 60 in all, and `pick` 25.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from ocwatchd.cli.guard import guarded


def main() -> None:
    """The console script `ocwatch`."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command line; returns the exit code."""
    return guarded(quick(arguments) or (lambda: _full(arguments)))


def quick(arguments: Sequence[str]) -> Callable[[], int] | None:
    """The work of a simple command line; None for everything that typer has to look at, usage errors included."""
    command, *rest = arguments or ("",)
    if command == "run" and rest[:1] not in (["--help"], ["-h"]):
        return lambda: _launch(rest[1:] if rest[:1] == ["--"] else rest)
    if command == "statusline":
        return _statusline(rest)
    if command == "__complete":
        from ocwatchd.cli.complete import complete

        return lambda: complete(rest[0] if rest else "")
    as_json = "--json" in rest
    names = [word for word in rest if word != "--json"]
    if any(word.startswith("-") for word in names):
        return None
    if command == "classify" and names:
        from ocwatchd.cli.classify import classify

        return lambda: classify(names, as_json=as_json)
    if len(names) > (command == "pick"):
        return None
    match command:
        case "--version" if not rest:
            return version
        case "status":
            from ocwatchd.cli.listing import status

            return lambda: status(as_json)
        case "cooldowns":
            from ocwatchd.cli.listing import cooldowns

            return lambda: cooldowns(as_json)
        case "pick":
            from ocwatchd.cli.pick import pick

            return lambda: pick(names[0] if names else None, as_json)
    return None


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
    from ocwatchd.cli.statusline import statusline

    return lambda: statusline(form)


def _launch(arguments: Sequence[str]) -> int:
    from ocwatchd.cli.smart import launch

    launch(arguments, sys.argv[0])


def version() -> int:
    """Print the version."""
    from ocwatchd import __version__

    print(f"ocwatch {__version__}")
    return 0


def _full(arguments: Sequence[str]) -> int:
    from ocwatchd.cli.app import run_app

    return run_app(arguments)


if __name__ == "__main__":
    main()
