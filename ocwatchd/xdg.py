"""Base directories after the XDG specification, as text. OpenCode uses them on macOS too, so we do.

For the commands that scripts call all day: platformdirs, which `paths` uses, imports tempfile, shutil, random and the
unpackers, 25 CPU ms, and `ocwatch pick` has 25 in all.
"""

from __future__ import annotations

import os
from collections.abc import Mapping


def base(variable: str, usual: str, environ: Mapping[str, str] = os.environ) -> str:
    """The directory that an XDG variable names, else the usual one below HOME. A relative path counts as none."""
    value = environ.get(variable, "")
    if value.startswith("/"):
        return value.rstrip("/")
    return f"{os.path.expanduser('~')}/{usual}"
