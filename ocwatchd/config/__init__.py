"""The configuration: `load(paths)` returns rate-limit-config.json as typed values.

`opencode_setup` reads the models and agents of the user's OpenCode, and `starter` derives a first configuration from
them. This package's names are imported on first use, because fast commands need only `reader`, `names` and
`opencode_config`.
"""

from __future__ import annotations

TYPE_CHECKING = False  # defined here because importing it from `typing` takes 5 ms of CPU time
if TYPE_CHECKING:
    from ocwatchd.config.loading import load
    from ocwatchd.config.model import Config, LogSettings

__all__ = ["Config", "LogSettings", "load"]


def __getattr__(name: str) -> object:
    if name == "load":
        from ocwatchd.config.loading import load  # lazy import: names of this package are imported on first use

        return load
    if name in ("Config", "LogSettings"):
        from ocwatchd.config import model  # lazy import: names of this package are imported on first use

        return getattr(model, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
