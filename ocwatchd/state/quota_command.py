"""Run `forecast.command`, a user's program that reports plan windows, and keep its last result.

A plan window is a period in which a provider's plan has its own quota. The result is stored in the directory of the
providers' headers, where all readers of plan windows find it. No shell is used. If the program fails, the windows from
its last successful run are kept until they reset.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ocwatchd.clock import from_rfc3339, rfc3339
from ocwatchd.core.forecast.plan_windows import MAX_PERCENT, PlanWindow, length_of
from ocwatchd.core.text.amounts import span
from ocwatchd.state.safe_read import StateError, read_plain, write_unsynced

NAME = "command.json"
"""Name of the file with the result. It cannot be the same as the name of a model's file, which contains `%2F`."""
VERSION = 1
POLL_INTERVAL = 300.0
"""Minimum time, in seconds, between two runs of the program, including those started by an earlier run of the daemon.
"""
TIMEOUT = 30.0
"""Time, in seconds, after which the program is stopped."""
MAX_OUTPUT = 256 << 10
"""Maximum size, in bytes, of the program's output."""
MAX_WINDOWS, MAX_NAME = 50, 60
"""Maximum number of windows, and maximum length, in characters, of the names of providers and windows."""


@dataclass(frozen=True, slots=True)
class Result:
    """The result of the last run. Times are in epoch seconds.

    `windows` contains the windows that the last successful run reported, and `succeeded` is the time of that run.
    `problem` is the reason why the last run failed, or None if it did not fail.
    """

    asked: float
    succeeded: float | None = None
    windows: tuple[PlanWindow, ...] = ()
    problem: str | None = None

    def as_json(self) -> dict[str, object]:
        """Return the state of the command in the form of the JSON contract."""
        succeeded = None if self.succeeded is None else rfc3339(self.succeeded)
        return {"asked": rfc3339(self.asked), "succeeded": succeeded, "problem": self.problem}


def parse(text: bytes, now: float) -> tuple[PlanWindow, ...]:
    """Return the windows that a program has printed. docs/forecast.md documents the format.

    Raises:
        ValueError: The text does not have this format. The message describes the fault without quoting the text.
    """
    try:
        raw = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError("its output is not JSON") from None
    rows = raw.get("windows") if isinstance(raw, dict) else raw
    if not isinstance(rows, list):
        raise ValueError('its output is neither a list nor an object with the list "windows"')
    if len(rows) > MAX_WINDOWS:
        raise ValueError(f"it printed {len(rows)} windows; at most {MAX_WINDOWS} are read")
    return tuple(_window(row, number, now) for number, row in enumerate(rows, 1))


def _window(row: object, number: int, now: float) -> PlanWindow:
    if not isinstance(row, dict):
        raise ValueError(f"window {number} is not an object")
    provider, name, used, reset = (row.get(key) for key in ("provider", "window", "percent", "reset"))
    for key, text in (("provider", provider), ("window", name)):
        if not isinstance(text, str) or not text.strip() or len(text) > MAX_NAME or not text.isprintable():
            raise ValueError(f"`{key}` of window {number} is not a name of 1 to {MAX_NAME} characters")
    if isinstance(used, bool) or not isinstance(used, int | float) or not 0 <= used <= MAX_PERCENT:
        raise ValueError(f"`percent` of window {number} is not a percentage")
    resets = float(reset) if isinstance(reset, int | float) and not isinstance(reset, bool) else None
    if isinstance(reset, str):
        with suppress(ValueError):  # the fault is reported below, without quoting the value
            resets = from_rfc3339(reset)
    if reset is not None and (resets is None or not 0 < resets < 250_000_000_000):
        raise ValueError(f"`reset` of window {number} is neither a time such as 2026-12-01T00:00:00Z nor epoch seconds")
    return PlanWindow(str(provider), str(name), float(used), resets, length_of(str(name)), now)


def run(command: Sequence[str], directory: Path, now: float) -> Result:
    """Run the program, store its result and return the result.

    Raises:
        OSError: The result could not be written.
    """
    before = read(directory)
    # the time is stored before the run, so that the program is not run again immediately if the daemon is restarted
    # during the run
    _write(directory, Result(now, *((before.succeeded, before.windows, before.problem) if before else ())))
    windows, problem = _asked(command, now)
    if windows is None:
        result = Result(now, before.succeeded, before.windows, problem) if before else Result(now, problem=problem)
    else:
        result = Result(now, now, windows)
    _write(directory, result)
    return result


def _asked(command: Sequence[str], now: float) -> tuple[tuple[PlanWindow, ...] | None, str | None]:
    try:
        with tempfile.TemporaryFile() as output:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.DEVNULL,
                timeout=TIMEOUT,
                check=False,
            )
            output.seek(0)
            text = output.read(MAX_OUTPUT + 1)
    except subprocess.TimeoutExpired:
        return None, f"{command[0]} was stopped after {span(TIMEOUT)}"
    except OSError as error:
        return None, f"{command[0]}: {error.strerror or error}"
    if done.returncode:
        return None, f"{command[0]} exited with code {done.returncode}"
    if len(text) > MAX_OUTPUT:
        return None, f"{command[0]}: its output is larger than {MAX_OUTPUT >> 10} KiB"
    try:
        return parse(text, now), None
    except ValueError as fault:
        return None, f"{command[0]}: {fault}"


def _write(directory: Path, result: Result) -> None:
    rows = [
        {"provider": one.provider, "window": one.name, "percent": one.used, "reset": one.resets}
        for one in result.windows
    ]
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_unsynced(directory / NAME, json.dumps({"version": VERSION, **result.as_json(), "windows": rows}).encode())


def read(directory: Path) -> Result | None:
    """Return the result of the last run, or None if there is none or it cannot be read. Never raises."""
    try:
        raw = json.loads(read_plain(directory / NAME))
        asked, succeeded = from_rfc3339(raw["asked"]), raw["succeeded"]
        if raw["version"] != VERSION or asked is None:
            return None
        ended = None if succeeded is None else from_rfc3339(succeeded)
        windows = () if ended is None else parse(json.dumps(raw["windows"]).encode(), ended)
        problem = raw["problem"]
        return Result(asked, ended, windows, problem if isinstance(problem, str) else None)
    except (OSError, StateError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def forget(directory: Path) -> None:
    """Remove the result. This is needed after the command was removed from the configuration."""
    with suppress(OSError):
        (directory / NAME).unlink()


def due(directory: Path, now: float) -> bool:
    """Return whether at least POLL_INTERVAL seconds have passed since the last run."""
    last = read(directory)
    return last is None or abs(now - last.asked) >= POLL_INTERVAL


def windows(directory: Path, now: float, oldest: float) -> Iterator[PlanWindow]:
    """Yield the windows of the last successful run if they are less than `oldest` seconds old."""
    last = read(directory)
    if last is not None and last.succeeded is not None and now - oldest < last.succeeded <= now + 60:
        yield from last.windows
