"""Which program `opencode` is: the configured one, else the first on PATH that is not ourselves."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping

MARK = "OC_SMART_PID"
"""In the environment of what we become or start: who finds itself there was sent round in a circle."""


def mark(child: bool) -> dict[str, str]:
    """The variable to set for a child, or for what takes our place."""
    return {MARK: f"above {os.getpid()}" if child else f"{os.getpid()}"}


def in_a_circle(environ: Mapping[str, str]) -> bool:
    """Whether this process is what a launcher took for OpenCode. Launchers that OpenCode's tools start are not."""
    return environ.get(MARK) in (f"{os.getpid()}", f"above {os.getppid()}")


def find_opencode(path: str, own: Iterable[str], configured: str | None = None) -> str | None:
    """The executable to start; None if there is none. `own` are our own scripts, whatever name they were called by."""
    if configured:
        name = os.path.expanduser(configured)
        if os.sep in name:
            return name if _usable(name, own) else None
        return next(_on_path(path, name, own), None)
    return next(_on_path(path, "opencode", own), None)


def _on_path(path: str, program: str, own: Iterable[str]) -> Iterator[str]:
    for directory in path.split(os.pathsep):
        name = os.path.join(directory or ".", program)
        if _usable(name, own):
            yield name


def _usable(name: str, own: Iterable[str]) -> bool:
    return os.path.isfile(name) and os.access(name, os.X_OK) and not any(_same(name, script) for script in own)


def _same(one: str, other: str) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False
