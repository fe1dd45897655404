"""Make a recorded log small and anonymous: only the request bodies are emptied and the home directory renamed."""

from __future__ import annotations

import json
import lzma
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

HOME = "/home/dev"
XZ_FROM = 60_000
"""Size in bytes from which a log is stored as xz."""

_BODY = re.compile(r'"requestBodyValues":')
_REGISTRY = re.compile(rb"https?://registry\.[a-z.]+")


def empty_bodies(text: str) -> str:
    """Return the text with every `requestBodyValues` reduced to its short scalar fields (`model`, `stream`, …).

    Raises:
        ValueError: such a value is not JSON.
    """
    return "".join(_pieces(text))


def _pieces(text: str) -> Iterator[str]:
    decoder = json.JSONDecoder(strict=False)
    at = 0
    for found in _BODY.finditer(text):
        if found.start() < at:
            continue  # inside a body that has just been emptied
        value, end = decoder.raw_decode(text, found.end())
        yield text[at : found.end()]
        yield json.dumps(_kept(value), ensure_ascii=False, separators=(",", ":"))
        at = end
    yield text[at:]


def _kept(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return {k: v for k, v in value.items() if not isinstance(v, dict | list) and len(str(v)) <= 100}


def clean(raw: bytes, home: Path) -> bytes:
    """Return a log in the form in which it is stored."""
    text = empty_bodies(raw.decode(errors="surrogateescape")).encode(errors="surrogateescape")
    for spelled in (str, _quoted, _dashed):
        text = text.replace(spelled(home).encode(), spelled(Path(HOME)).encode())
    return _REGISTRY.sub(b"http://127.0.0.1:9", text)


def _quoted(path: Path) -> str:
    return quote(str(path), safe="")


def _dashed(path: Path) -> str:
    """Return the path in the form in which 0.5 names a project's directory in its data."""
    return str(path).strip("/").replace("/", "-")


def store(name: str, data: bytes, directory: Path) -> None:
    """Write a cleaned log, compressed with xz if it is long."""
    directory.mkdir(parents=True, exist_ok=True)
    if len(data) < XZ_FROM:
        (directory / name).write_bytes(data)
    else:
        (directory / f"{name}.xz").write_bytes(lzma.compress(data, preset=9 | lzma.PRESET_EXTREME))
