"""`ocwatch drill`: does everything work with the OpenCode that is installed? Shown, in a private HOME, offline."""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType

from ocwatchd.cli.escape import escape
from ocwatchd.cli.installed import installed_opencode
from ocwatchd.cli.render import say, say_json, screen_width, wrapped
from ocwatchd.drill.fetch import LATEST, fetch
from ocwatchd.drill.home import private_home
from ocwatchd.drill.steps import Drill, Step
from ocwatchd.errors import ExitCode, OpenCodeUnreachable, UsageError
from ocwatchd.paths import Paths


@dataclass(frozen=True, slots=True)
class Wish:
    """What was asked for. `version` only with `fetched`."""

    fetched: bool
    version: str | None
    keep: bool
    as_json: bool


def drill(wish: Wish) -> int:
    """Run the drill. 0 only if every step passed.

    Raises:
        UsageError: a version without --fetch.
        OpenCodeUnreachable: no OpenCode is installed.
        FetchFailed: none could be fetched.
    """
    began = time.monotonic()
    program = _program(wish)
    signal.signal(signal.SIGTERM, _interrupt)  # whatever was started has to end with us
    with private_home(wish.keep) as home:
        running = Drill(program, home, os.environ)
        if not wish.as_json:
            say(f"Fire drill with {escape(str(program))}, in a private HOME, offline.\n")
        steps: list[Step] = []
        with closing(running.run()) as coming:
            for step in coming:
                steps.append(step)
                if not wish.as_json:
                    say(_text(step))
                    sys.stdout.flush()
        passed = all(step.passed for step in steps)
        kept = str(home.root) if wish.keep else None
        took = time.monotonic() - began
        if wish.as_json:
            about = {"opencode": str(program), "opencode_version": running.version, "passed": passed}
            outside = sorted(running.provider.outside)
            say_json({**about, "seconds": round(took, 3), "steps": [_view(step) for step in steps],
                      "refused_outside": outside, "kept": kept})  # fmt: skip
        else:
            say(f"\n{_verdict(passed, steps, took)}")
            if running.provider.outside:
                say(f"Attempts to reach {escape(', '.join(sorted(running.provider.outside)))} were refused.")
            if kept:
                say(f"Kept: {kept}")
    return ExitCode.DONE if passed else ExitCode.FAILED


def _program(wish: Wish) -> Path:
    if wish.version and not wish.fetched:
        raise UsageError(f"a version is fetched: ocwatch drill --fetch {wish.version}")
    found = None if wish.version else installed_opencode()
    if found:
        return found
    if not wish.fetched:
        raise OpenCodeUnreachable(
            "`opencode` is not on PATH; add its directory to PATH, or let the drill fetch one: ocwatch drill --fetch"
        )
    if not wish.as_json:
        say(f"Fetching OpenCode {wish.version or LATEST} …")
    return fetch(wish.version or LATEST, Paths.from_env().cache_dir, os.environ)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _view(step: Step) -> dict[str, object]:
    return {**asdict(step), "seconds": round(step.seconds, 3)}


def _text(step: Step) -> str:
    mark = "✓" if step.passed else "✗"
    head = f"{mark} {step.seconds:6.2f} s  {step.title}"
    if step.passed:
        return f"{head}\n{_below('', step.seen)}"
    return "\n".join(
        (
            head,
            _below("expected: ", step.expected or "-"),
            _below("seen: ", step.seen),
            _below("do: ", step.remedy or "-"),
        )
    )


def _below(label: str, text: str) -> str:
    return wrapped(label + escape(text), 12, screen_width())


def _verdict(passed: bool, steps: list[Step], took: float) -> str:
    if passed:
        return f"All {len(steps)} steps passed in {took:.0f} s. Nothing of yours was touched."
    failed = sum(not step.passed for step in steps)
    return f"{failed} of {len(steps)} steps failed in {took:.0f} s. Nothing of yours was touched."
