"""Write the archive for a bug report: all data that helps to understand the problem, and no private data.

Redaction uses an allow-list: a text is kept only if its field is known to contain helpful text, and every part of the
text that looks like a secret is removed (`core.text.redact`). Numbers, flags and the names of fields are kept.
"""

from __future__ import annotations

import io
import json
import platform
import re
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from ocwatchd import __version__
from ocwatchd.config.keys import AUTO, KEYS, Key, Kind
from ocwatchd.config.opencode_config import object_in
from ocwatchd.config.reader import read_document
from ocwatchd.core.text.redact import redact
from ocwatchd.doctor.disk import json_object
from ocwatchd.doctor.values import Check, Facts
from ocwatchd.errors import ConfigError, OcwatchError
from ocwatchd.paths import Paths
from ocwatchd.state.files import write_named
from ocwatchd.state.safe_read import StateError, read_plain

REMOVED = "[removed]"

_SHOWN = frozenset(
    # The journal.
    "agent at because began by claim directory doing door endpoint entry file id kind label measure message mode model "
    "moved next outcome parent phrase reason release reset_source result rule scope session shown since source state "
    "target tamed time title until warnings what why words text "
    # Fields of the blacklist, the heartbeat and the forecasts.
    "before beat capabilities fallbacks following head health inputs loaded members output pool started strategy "
    "updated unserved "
    # Fields of the checks, the processes and the versions.
    "code fault generation models_configured ocwatchd opencode plugin python remedy seen severity standing_back system "
    "version".split()
)
"""The fields whose texts are kept. The texts of all other fields are removed, so a new field is private until it is
listed here.
"""
_SECRET = re.compile(
    r"key|token|secret|passw|auth|header|cookie|credential|prompt|^(parts|body|requestBodyValues|env|environment)$",
    re.IGNORECASE,
)
_COUNTS = re.compile(r"tokens|first_token")
_PROGRAMS = frozenset("curl wget sh bash zsh fish python python3 node notify-send osascript ntfy apprise mail".split())
"""Programs whose names are kept in `notifications.command`. Any other word is hidden, because it may be a topic or a
person's name.
"""


def redacted(value: object, home: str, field: str = "") -> object:
    """Return `value` without secrets, and with `~` for the home directory. For a secret field, only the name is
    kept.
    """
    if isinstance(value, Mapping):
        return {redacted_text(str(key), home): _item(str(key), item, field, home) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [redacted(item, home, field) for item in value]
    if isinstance(value, str):
        return redacted_text(value, home) if field in _SHOWN else REMOVED
    return value if isinstance(value, int | float) or value is None else REMOVED


def _item(name: str, item: object, field: str, home: str) -> object:
    counts = isinstance(item, int | float) and _COUNTS.search(name)
    if _SECRET.search(name) and not counts and field != "models_configured":
        return REMOVED
    return redacted(item, home, field if field == "models_configured" else name)


def redacted_text(text: str, home: str) -> str:
    """Return a text without secrets, and with `~` for the home directory."""
    return redact(text, home, REMOVED)


def redacted_settings(values: object, keys: tuple[Key, ...], home: str) -> object:
    """Return a part of rate-limit-config.json, redacted according to `keys`. For an unknown key, only the name is kept,
    together with its value if that is a boolean or null.
    """
    if not isinstance(values, Mapping):
        return REMOVED
    known = {name: key for key in keys for name in (key.name, key.formerly)}
    return {
        redacted_text(str(name), home): _setting(known[name], value, home) if name in known else _unknown(value)
        for name, value in values.items()
        if not str(name).startswith("//")  # these keys are comments, which may contain anything
    }


def _unknown(value: object) -> object:
    return value if isinstance(value, bool) or value is None else REMOVED


def _setting(key: Key, value: object, home: str) -> object:
    match key.kind:
        case Kind.SECTION:
            return redacted_settings(value, key.inner, home)
        case Kind.PER_MODEL | Kind.POOLS | Kind.LIMITS if isinstance(value, Mapping):
            return {redacted_text(str(name), home): _inner(key, item, home) for name, item in value.items()}
        case Kind.CHOICE:
            return value if value in key.choices else REMOVED
        case Kind.TEXTS if key.name == "command":
            return _program(value)
        case Kind.PATIENCE:
            return value if value == AUTO or isinstance(value, int | float) else REMOVED
        case Kind.CHOICES:
            return [each if each in key.choices else REMOVED for each in value] if isinstance(value, list) else REMOVED
        case Kind.FLAG | Kind.NUMBER | Kind.WHOLE:
            return value if isinstance(value, int | float) else REMOVED
        case Kind.TEXT | Kind.TEXTS if not key.shown:
            return REMOVED
        case Kind.ACCOUNTS:  # account names may be names of people or customers
            return {redacted_text(str(name), home): REMOVED for name in value} if isinstance(value, dict) else REMOVED
    return _texts(value, home)


def _inner(key: Key, item: object, home: str) -> object:
    if isinstance(item, list):
        return [redacted_settings(one, key.inner, home) for one in item]
    return redacted_settings(item, key.inner, home)


def _texts(value: object, home: str) -> object:
    """Return a redacted copy of a value that contains model names, agent names, patterns or paths."""
    if isinstance(value, Mapping):
        return {redacted_text(str(name), home): _texts(item, home) for name, item in value.items()}
    if isinstance(value, list):
        return [_texts(item, home) for item in value]
    return redacted_text(value, home) if isinstance(value, str) else value


def _program(value: object) -> object:
    """Return a command line without its arguments, which may contain addresses, topics, keys and passwords."""
    words = [str(word) for word in value] if isinstance(value, list) else [str(value)]
    name = words[0].rpartition("/")[2] if words else ""
    return [name if name in _PROGRAMS else REMOVED, *[REMOVED] * (len(words) - 1)] if words else []


LINES = 500
"""Number of lines taken from the end of the journal and of the plugin's error log."""
SHORTEST = 4
"""Minimum length of a private text from the configuration that is removed from all files. Shorter texts also occur as
parts of harmless words.
"""
NAME = "ocwatchd-report"
"""Name of the directory in the archive."""


def write_bundle(path: Path, paths: Paths, facts: Facts, checks: Sequence[Check]) -> tuple[tuple[str, ...], bool]:
    """Write the archive, a tar.gz with mode 0600. Return the names of the files in it, and whether it was written to
    standard output.

    An ordinary file is replaced as a whole. A special file, such as a pipe, is not replaced but written to.

    Raises:
        OcwatchError: The archive cannot be written.
    """
    home = str(paths.home)
    documents: dict[str, object] = {
        "versions.json": versions(facts),
        "doctor.json": {"version": 1, "checks": [asdict(check) for check in checks]},
        "blacklist.json": json_object(paths.blacklist),
        "daemon.json": json_object(paths.heartbeat),
        "opencode-processes.json": [asdict(running) for running in facts.running],
    }
    config, unfit = _config(paths, home)
    files = {name: json.dumps(redacted(value, home), indent=1, default=str) for name, value in documents.items()}
    files["rate-limit-config.json"] = json.dumps(config, indent=1, default=str)
    files["journal.jsonl"] = "\n".join(_journal(paths, home))
    # The lines are redacted as a single text, because a secret may extend over several lines.
    files["plugin-errors.log"] = redacted_text("\n".join(_raw_tail(paths.state_dir / "plugin-errors.log")), home)
    files = {name: _without(unfit, text) for name, text in files.items()}
    try:
        on_stdout = write_named(path.absolute(), _archive(files, int(facts.now)))
    except OSError as fault:
        raise OcwatchError(f"{path} cannot be written: {fault.strerror or fault}") from fault
    return tuple(files), on_stdout


def versions(facts: Facts) -> dict[str, object]:
    """Return the versions of the programs and the system, and the configured models, without the machine's name."""
    return {
        "ocwatchd": __version__,
        "opencode": facts.version,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "models_configured": {name: sorted(models) for name, models in facts.offered.configured.items()},
    }


def _config(paths: Paths, home: str) -> tuple[object, frozenset[str]]:
    """Return our redacted configuration, and its private texts, which must be removed from other files that quote
    them.
    """
    try:
        values = object_in(read_document(paths.config_file).data, "rateLimit")
    except ConfigError as fault:
        return redacted({"fault": str(fault)}, home), frozenset()
    shown = redacted_settings(values, KEYS, home)
    return shown, frozenset(_all_texts(values)) - frozenset(_all_texts(shown))


def _all_texts(value: object) -> Iterator[str]:
    """Yield every text in a document except the names of fields."""
    if isinstance(value, str):
        yield value
    for item in value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ():
        yield from _all_texts(item)


def _without(unfit: Iterable[str], text: str) -> str:
    """Return `text` (JSON or plain text) without the texts in `unfit`. The longest ones are removed first."""
    for one in sorted(unfit, key=len, reverse=True):
        if len(one) >= SHORTEST:
            for written in (one, repr(one)[1:-1]):
                text = text.replace(json.dumps(written)[1:-1], REMOVED)
    return text


def _journal(paths: Paths, home: str) -> list[str]:
    lines = []
    for line in _raw_tail(paths.journal):
        try:
            lines.append(json.dumps(redacted(json.loads(line), home)))
        except (ValueError, RecursionError):  # a line may be incomplete after a crash
            continue
    return lines


def _raw_tail(path: Path) -> list[str]:
    try:
        return read_plain(path).decode(errors="replace").splitlines()[-LINES:]
    except (OSError, StateError):
        return []


def _archive(files: Mapping[str, str], now: int) -> bytes:
    """Return the archive. Unlike an ordinary tar archive, it does not contain the user's name and ids."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, text in files.items():
            entry = tarfile.TarInfo(f"{NAME}/{name}")
            data = f"{text}\n".encode(errors="backslashreplace")
            entry.size, entry.mtime, entry.mode = len(data), now, 0o600
            archive.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()
