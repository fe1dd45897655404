"""The user's own OpenCode configuration, read as OpenCode reads it: several files, later ones win, `{env:X}` filled in.

Keys and headers that stand in it are never copied anywhere, and `{file:…}` is never opened: it usually holds a key.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping

from ocwatchd.config.reader import parse, read_text
from ocwatchd.errors import ConfigError

FILE_NAMES = ("config.json", "opencode.json", "opencode.jsonc")
"""In the global directory; the later one wins (read in 1.18.33)."""

PROJECT_NAMES = (".opencode/opencode.jsonc", ".opencode/opencode.json", "opencode.jsonc", "opencode.json")
"""In a project's directories, strongest first."""

DEFAULT_AGENT = "build"

_STRING = r'"(?:\\.|[^"\\])*"'
_BARE = _STRING + r"|\{(env|file):([^{}\n]*)\}"
_REFERENCE = r"\{(env|file):([^{}]*)\}"


def global_files(directories: Iterable[str], environ: Mapping[str, str]) -> list[str]:
    """The files that hold for every project, weakest first."""
    files = [os.path.join(directory, name) for directory in directories for name in FILE_NAMES]
    extra = environ.get("OPENCODE_CONFIG", "")
    return [*files, extra] if extra else files


def project_files(directory: str) -> list[str]:
    """The files of the project around `directory`, up to its repository's top, the outermost first."""
    found: list[str] = []
    while True:
        found += [os.path.join(directory, name) for name in PROJECT_NAMES]
        parent = os.path.dirname(directory)
        if parent == directory or os.path.exists(os.path.join(directory, ".git")):
            return found[::-1]
        directory = parent


def merged(files: Iterable[str], environ: Mapping[str, str]) -> dict[str, object]:
    """One object out of all files that exist, and of OPENCODE_CONFIG_CONTENT.

    Raises:
        ConfigError: one of them cannot be read.
    """
    whole: dict[str, object] = {}
    for name in files:
        text = read_text(name)
        if text is not None:
            _merge(whole, _object(text, name, environ))
    inline = environ.get("OPENCODE_CONFIG_CONTENT", "")
    if inline.strip():
        _merge(whole, _object(inline, "OPENCODE_CONFIG_CONTENT", environ))
    return whole


def default_model(config: Mapping[str, object], environ: Mapping[str, str]) -> str | None:
    """The model that a new session uses: of the default agent, if that names one, else the global one."""
    agent = text_of(config, "default_agent", environ) or DEFAULT_AGENT
    own = text_of(object_in(object_in(config, "agent"), agent), "model", environ)
    return own or text_of(config, "model", environ)


def object_in(value: Mapping[str, object], key: str) -> Mapping[str, object]:
    """The object under `key`, empty if there is none."""
    inner = value.get(key)
    return inner if isinstance(inner, dict) else {}


def text_of(value: Mapping[str, object], key: str, environ: Mapping[str, str]) -> str | None:
    """The text under `key` with references filled in; None if there is none, or it is empty."""
    text = value.get(key)
    if not isinstance(text, str):
        return None
    filled = re.sub(_REFERENCE, lambda found: _value(found, environ), text) if "{" in text else text
    return filled.strip() or None


def _object(text: str, name: str, environ: Mapping[str, str]) -> dict[str, object]:
    if not text.strip():
        return {}
    try:
        value = parse(text, name)
    except ConfigError:
        # OpenCode fills references in before it parses, so one may stand bare, as in {"port": {env:PORT}}.
        filled = re.sub(_BARE, lambda found: _bare(found, environ), text, flags=re.DOTALL)
        if filled == text:
            raise
        value = parse(filled, name)
    return value if isinstance(value, dict) else {}


def _bare(found: re.Match[str], environ: Mapping[str, str]) -> str:
    if found.group().startswith('"'):
        return found.group()
    value = _value(found, environ)
    return value if re.fullmatch(r"-?\d{1,15}(\.\d{1,15})?|true|false|null|" + _STRING, value) else "null"


def _value(found: re.Match[str], environ: Mapping[str, str]) -> str:
    return environ.get(found.group(2).strip(), "") if found.group(1) == "env" else ""


def _merge(into: dict[str, object], other: Mapping[str, object]) -> None:
    for key, value in other.items():
        old = into.get(key)
        if isinstance(old, dict) and isinstance(value, dict):
            _merge(old, value)
        else:
            into[key] = value
