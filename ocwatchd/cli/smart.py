"""`oc-smart`: OpenCode under our name. For now it becomes the real `opencode`, arguments and streams as given."""

from __future__ import annotations

import os
import sys
from typing import NoReturn

from ocwatchd.errors import ExitCode

MARK = "OC_SMART_PID"
"""Set to our process id before OpenCode takes our place: whoever finds its own id there was sent round in a circle."""


def main() -> None:
    """The console script `oc-smart`: replaces itself by `opencode` from PATH. Never returns."""
    if os.environ.get(MARK) == str(os.getpid()):
        _give_up("`opencode` on PATH leads back to oc-smart; put the real one on PATH first")
    found = find_opencode(os.environ.get("PATH", os.defpath), sys.argv[0])
    if found is None:
        _give_up("`opencode` is not on PATH; install OpenCode, or add its directory to PATH")
    try:
        os.execve(found, ["opencode", *sys.argv[1:]], {**os.environ, MARK: str(os.getpid())})  # noqa: S606
    except OSError as error:
        _give_up(f"{found} cannot be started: {error.strerror}")


def find_opencode(path: str, own: str) -> str | None:
    """The first executable `opencode` on `path` that is not this very script, under whatever name."""
    for directory in path.split(os.pathsep):
        name = os.path.join(directory or ".", "opencode")  # noqa: PTH118
        if os.path.isfile(name) and os.access(name, os.X_OK) and not _same(name, own):  # noqa: PTH113
            return name
    return None


def _same(one: str, other: str) -> bool:
    try:
        return os.path.samefile(one, other)  # noqa: PTH121
    except OSError:
        return False


def _give_up(message: str) -> NoReturn:
    print(f"oc-smart: {message}", file=sys.stderr)
    sys.exit(ExitCode.OPENCODE_UNREACHABLE)
