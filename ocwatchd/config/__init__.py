"""The configuration: `load(paths)` gives rate-limit-config.json as typed values.

`setup` reads what the user's OpenCode offers, and `starter` writes a first configuration from it. Names are imported
when they are asked for: quick commands use `reader`, `names` and `opencode` alone and import no value types.
"""

from __future__ import annotations

TYPE_CHECKING = False  # what `typing` calls so costs 5 CPU ms to import
if TYPE_CHECKING:
    from ocwatchd.config.loading import load
    from ocwatchd.config.model import Config, LogSettings

__all__ = ["Config", "LogSettings", "load"]


def __getattr__(name: str) -> object:
    if name == "load":
        from ocwatchd.config.loading import load

        return load
    if name in ("Config", "LogSettings"):
        from ocwatchd.config import model

        return getattr(model, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
