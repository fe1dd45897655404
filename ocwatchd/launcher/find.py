"""Find the `opencode` program: the configured program or, if none is configured, the first one on PATH that is not our
own script.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping

MARK = "OC_SMART_PID"
"""Environment variable set for the program that the launcher becomes or starts. If it contains the launcher's own
process id, the launcher has started itself.
"""


def mark(child: bool) -> dict[str, str]:
    """Return the variable `MARK` with its value for a child, or for the program that replaces this process."""
    return {MARK: f"above {os.getpid()}" if child else f"{os.getpid()}"}


def in_a_circle(environ: Mapping[str, str]) -> bool:
    """Return whether a launcher has started this launcher instead of OpenCode.

    Return False for a launcher that was started by one of OpenCode's tools.
    """
    return environ.get(MARK) in (f"{os.getpid()}", f"above {os.getppid()}")


def find_opencode(path: str, own: Iterable[str], configured: str | None = None) -> str | None:
    """Return the path of the OpenCode executable, or None if there is none. `own` contains the paths of our own
    scripts, which may have any name.
    """
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
