"""Base directories after the XDG specification, as text. OpenCode uses them on macOS too, so we do.

Three lines of our own instead of platformdirs, which imports tempfile, shutil, random and the unpackers: 1.2 MiB of an
idle daemon and 25 CPU ms of every command that needs to know where things lie.
"""

from __future__ import annotations

import os
from collections.abc import Mapping


def base(variable: str, usual: str, environ: Mapping[str, str] = os.environ) -> str:
    """The directory that an XDG variable names, else the usual one below HOME. A relative path counts as none."""
    value = environ.get(variable, "")
    if value.startswith("/"):
        return value.rstrip("/")
    return f"{os.path.expanduser('~')}/{usual}"  # noqa: PTH111
