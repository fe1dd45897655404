"""`ocwatch drill`: test ocwatchd with the installed OpenCode, offline, in a private HOME."""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import FrameType

from ocwatchd.cli.commands.run import installed_opencode
from ocwatchd.cli.output.escape import escape
from ocwatchd.cli.output.render import say, say_json, screen_width, symbol, tell, wrapped
from ocwatchd.core.text.amounts import span
from ocwatchd.drill.fetch import LATEST, fetch
from ocwatchd.drill.home import private_home
from ocwatchd.drill.steps import Drill, Step
from ocwatchd.errors import ExitCode, OpenCodeUnreachable, UsageError
from ocwatchd.paths import Paths


@dataclass(frozen=True, slots=True)
class DrillOptions:
    """The options of the command. `version` is only valid with `fetched`."""

    fetched: bool
    version: str | None
    keep: bool
    as_json: bool


@dataclass(frozen=True, slots=True)
class Result:
    """The result of a drill, with the fields of the JSON contract."""

    opencode: str
    opencode_version: str | None
    passed: bool
    seconds: float
    steps: tuple[Step, ...]
    refused_outside: tuple[str, ...]
    kept: str | None


def drill(options: DrillOptions) -> int:
    """Run the drill, and return 0 if every step passed, otherwise 1.

    Raises:
        UsageError: A version was given without --fetch.
        OpenCodeUnreachable: No OpenCode is installed, and --fetch was not given.
        FetchFailed: OpenCode could not be fetched.
    """
    began = time.monotonic()
    program = _program(options)
    signal.signal(signal.SIGTERM, _interrupt)  # handle SIGTERM, so that the drill also stops its child processes
    with private_home(options.keep) as home:
        running = Drill(program, home, os.environ)
        steps = _run(running, program, options.as_json)
        result = Result(
            opencode=str(program),
            opencode_version=running.version,
            passed=all(step.passed for step in steps),
            seconds=round(time.monotonic() - began, 3),
            steps=tuple(steps),
            refused_outside=tuple(sorted(running.provider.outside)),
            kept=str(home.root) if options.keep else None,
        )
    if options.as_json:
        say_json(asdict(result))
    else:
        tell(_verdict(result))
    return ExitCode.DONE if result.passed else ExitCode.FAILED


def _run(running: Drill, program: Path, quiet: bool) -> list[Step]:
    """Run the steps and return them. Unless `quiet` is set, print each step as soon as it has finished."""
    steps: list[Step] = []
    if not quiet:
        tell(f"Drill with {escape(str(program))}, offline, in a private HOME.\n")
    with closing(running.run()) as coming:
        for step in coming:
            steps.append(replace(step, seconds=round(step.seconds, 3)))
            if not quiet:
                say(_text(step))
                sys.stdout.flush()
    return steps


def _program(options: DrillOptions) -> Path:
    if options.version and not options.fetched:
        raise UsageError(f"a version can only be used with --fetch: ocwatch drill --fetch {options.version}")
    found = None if options.version else installed_opencode()
    if found:
        return found
    if not options.fetched:
        raise OpenCodeUnreachable(
            "`opencode` is not on PATH. Add its directory to PATH, or let the drill fetch it: ocwatch drill --fetch"
        )
    cache = Paths.from_env().cache_dir
    if not options.as_json:
        say(f"Fetching OpenCode {options.version or LATEST} …")
    return fetch(options.version or LATEST, cache, os.environ)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _text(step: Step) -> str:
    head = f"{symbol('ok' if step.passed else 'error')} {step.seconds:6.2f} s  {step.title}"
    if step.passed:
        return f"{head}\n{_below('', step.seen)}"
    return "\n".join(
        (
            head,
            _below("expected: ", step.expected or "-"),
            _below("seen: ", step.seen),
            _below("to do: ", step.remedy or "-"),
        )
    )


def _below(label: str, text: str) -> str:
    return wrapped(label + escape(text), 12, screen_width())


def _verdict(result: Result) -> str:
    number, failed = len(result.steps), sum(not step.passed for step in result.steps)
    done = f"{failed} of {number} steps failed" if failed else f"All {number} steps passed"
    lines = [f"\n{done} in {span(result.seconds)}. None of your files was changed."]
    if result.refused_outside:
        hosts = escape(", ".join(result.refused_outside))
        lines.append(f"OpenCode tried to connect to {hosts}; the drill blocked these connections.")
    if result.kept:
        lines.append(f"The drill's directory is kept: {escape(result.kept)}")
    return "\n".join(lines)
