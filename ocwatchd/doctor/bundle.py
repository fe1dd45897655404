"""The archive for a bug report: what helps to understand, and nothing that is nobody's business."""

from __future__ import annotations

import io
import json
import platform
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from ocwatchd import __version__
from ocwatchd.config.opencode import object_in
from ocwatchd.config.reader import read_document
from ocwatchd.doctor.disk import json_object
from ocwatchd.doctor.redact import redacted, redacted_text
from ocwatchd.doctor.values import Check, Facts
from ocwatchd.errors import ConfigError, OcwatchError
from ocwatchd.paths import Paths
from ocwatchd.state.files import write_atomic
from ocwatchd.state.plain import StateError, read_plain

LINES = 500
"""Last lines of the journal and of the plugin's errors."""
NAME = "ocwatchd-report"


def write_bundle(path: Path, paths: Paths, facts: Facts, checks: Sequence[Check]) -> tuple[str, ...]:
    """Write a tar.gz, mode 0600, whole or not at all; the names in it.

    Raises:
        OcwatchError: it cannot be written.
    """
    home = str(paths.home)
    documents: dict[str, object] = {
        "versions.json": versions(facts),
        "doctor.json": {"version": 1, "checks": [asdict(check) for check in checks]},
        "rate-limit-config.json": _config(paths),
        "blacklist.json": json_object(paths.blacklist),
        "daemon.json": json_object(paths.heartbeat),
        "opencode-processes.json": [asdict(running) for running in facts.running],
    }
    files = {name: json.dumps(redacted(value, home), indent=1, default=str) for name, value in documents.items()}
    files["journal.jsonl"] = "\n".join(_journal(paths, home))
    files["plugin-errors.log"] = "\n".join(_tail(paths.state_dir / "plugin-errors.log", home))
    try:
        write_atomic(path.absolute(), _archive(files, int(facts.now)))
    except OSError as fault:
        raise OcwatchError(f"{path} cannot be written: {fault.strerror or fault}") from fault
    return tuple(files)


def versions(facts: Facts) -> dict[str, object]:
    """What runs here, without the machine's name."""
    return {
        "ocwatchd": __version__,
        "opencode": facts.version,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "models_configured": {name: sorted(models) for name, models in facts.offered.configured.items()},
    }


def _config(paths: Paths) -> object:
    """Ours, as parsed: remarks may say anything, so they stay behind."""
    try:
        return _without_remarks(object_in(read_document(paths.config_file).data, "rateLimit"))
    except ConfigError as fault:
        return {"fault": str(fault)}


def _without_remarks(value: object) -> object:
    if isinstance(value, Mapping):
        return {key: _without_remarks(item) for key, item in value.items() if not str(key).startswith("//")}
    return value


def _journal(paths: Paths, home: str) -> list[str]:
    lines = []
    for line in _raw_tail(paths.journal):
        try:
            lines.append(json.dumps(redacted(json.loads(line), home)))
        except (ValueError, RecursionError):  # torn by a crash
            continue
    return lines


def _tail(path: Path, home: str) -> list[str]:
    return [redacted_text(line, home) for line in _raw_tail(path)]


def _raw_tail(path: Path) -> list[str]:
    try:
        return read_plain(path).decode(errors="replace").splitlines()[-LINES:]
    except (OSError, StateError):
        return []


def _archive(files: Mapping[str, str], now: int) -> bytes:
    """Without the user's name and numbers, which tar would keep."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, text in files.items():
            entry = tarfile.TarInfo(f"{NAME}/{name}")
            data = f"{text}\n".encode()
            entry.size, entry.mtime, entry.mode = len(data), now, 0o600
            archive.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()
