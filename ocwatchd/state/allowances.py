"""What the companion plugin noted of rate-limit headers: one small file for each model, the latest answer's."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import orjson

from ocwatchd.clock import from_rfc3339
from ocwatchd.core.allowance import allowance
from ocwatchd.core.forecast import Told
from ocwatchd.state.files import StateError, read_plain

VERSION = 1
MOST = 500
"""Files that are looked at; there is one for each model that was ever used."""
OLD = 86_400.0
"""Seconds after which nothing that was said still holds."""


def read_allowances(directory: Path, now: float) -> dict[str, tuple[Told, ...]]:
    """By model. What cannot be read, or is older than a day, is passed over."""
    found: dict[str, tuple[Told, ...]] = {}
    with suppress(OSError):
        for path in sorted(directory.glob("*.json"))[:MOST]:
            with suppress(OSError, ValueError, StateError):
                raw = orjson.loads(read_plain(path))
                at = from_rfc3339(str(raw["time"])) if _ours(raw) else None
                if at is not None and now - OLD < at <= now + 60:
                    headers = {str(name): str(value) for name, value in raw["headers"].items()}
                    found[str(raw["model"])] = allowance(headers, at)
    return {model: told for model, told in found.items() if told}


def _ours(raw: object) -> bool:
    wanted = isinstance(raw, dict) and isinstance(raw.get("headers"), dict) and isinstance(raw.get("model"), str)
    return wanted and isinstance(raw, dict) and raw.get("version") == VERSION and "time" in raw
