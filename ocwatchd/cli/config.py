"""`ocwatch config`: look at rate-limit-config.json, check it, write a first one, show what holds and whence."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from ocwatchd.cli.config_views import Shown, findings, places, shown
from ocwatchd.cli.escape import escape
from ocwatchd.cli.render import iso, say, say_json, table, tell, warn
from ocwatchd.config.loading import examine
from ocwatchd.config.reader import Document, read_document
from ocwatchd.config.setup import Setup, read_setup
from ocwatchd.config.starter import Starter, starter_for
from ocwatchd.errors import ConfigError, ExitCode, OcwatchError, UsageError
from ocwatchd.paths import Paths
from ocwatchd.state.files import write_new


def init(write: bool = False, force: bool = False, as_json: bool = False) -> int:
    """Show a first configuration, derived from the user's OpenCode; with `write` put it in its place.

    Raises:
        UsageError: `force` without `write`.
        OcwatchError: there is a configuration already and `force` is not given, or it cannot be written.
    """
    if force and not write:
        raise UsageError("--force belongs to --write: without it nothing is written")
    paths = Paths.from_env()
    exists = os.path.lexists(paths.config_file)
    if write and exists and not force:
        raise OcwatchError(f"{paths.config_file} exists; --force replaces it and keeps the old one beside it")
    start = starter_for(derived_setup(paths))
    kept = _replace(paths.config_file, start.text) if write else None
    if as_json:
        say_json({
            "file": str(paths.config_file), "exists": exists, "written": write, "kept": kept and str(kept),
            "primary": start.primary, "targets": list(start.targets), "remark": start.remark,
            "configuration": json.loads(start.text),
        })  # fmt: skip
    else:
        _tell_init(paths.config_file, start, exists, write, kept)
    return ExitCode.DONE


def derived_setup(paths: Paths) -> Setup:
    """What the user's OpenCode offers; nothing, with a word on standard error, if its configuration cannot be read."""
    try:
        return read_setup(paths)
    except ConfigError as fault:
        warn(f"OpenCode's configuration is of no help: {escape(str(fault))}")
        return Setup(None, None, (), ())


def _replace(file: Path, text: str) -> Path | None:
    """Write it; what was there is kept under another name."""
    kept = None
    try:
        if os.path.lexists(file):
            kept = file.with_name(f"{file.name}.{time.strftime('%Y%m%dT%H%M%S')}.old")
            file.rename(kept)
        write_new(file, text.encode())
    except OSError as error:
        raise OcwatchError(f"{file} cannot be written: {error.strerror}") from None
    return kept


def _tell_init(file: Path, start: Starter, exists: bool, written: bool, kept: Path | None) -> None:
    name = escape(str(file))
    if kept is not None:
        say(f"The old one is now {escape(kept.name)}.")
    text = "\n".join(map(escape, start.text.splitlines()))
    say(f"{'Wrote' if written else 'Would write'} {name}:\n\n{text}\n")
    if start.primary is None or not start.targets:
        warn(escape(start.remark))
    if not written:
        more = " (there is one already: add --force)" if exists else ""
        say(f"Nothing is written yet; to do so: ocwatch config init --write{more}")


def check(file: str | None = None, as_json: bool = False) -> int:
    """Say everything that is wrong with a configuration: 4 if it holds an error, 0 with warnings alone.

    Raises:
        UsageError: the named file does not exist.
    """
    name = file or str(Paths.from_env().config_file)
    if file is not None and not os.path.lexists(file):
        raise UsageError(f"{file} does not exist")
    found, exists = findings(name)
    errors = [finding for finding in found if finding.severity == "error"]
    if as_json:
        say_json({
            "file": name, "exists": exists, "ok": not errors, "findings": [finding.as_json() for finding in found],
        })  # fmt: skip
    else:
        for finding in found:
            tell(escape(finding.text))
        tell(escape(_verdict(name, exists, len(errors), len(found) - len(errors))))
    return ExitCode.BAD_CONFIG if errors else ExitCode.DONE


def _verdict(name: str, exists: bool, errors: int, warnings: int) -> str:
    if not exists:
        return f"There is no {name}: the defaults hold."
    if not errors and not warnings:
        return f"{name} is well."
    counted = [f"{n} {word}{'s' * (n > 1)}" for n, word in ((errors, "error"), (warnings, "warning")) if n]
    return f"{name}: {', '.join(counted)}."


def show(as_json: bool = False) -> int:
    """What holds, and whence: a default, the file, or the environment.

    Raises:
        ConfigError: the configuration cannot be used.
    """
    paths = Paths.from_env()
    document = read_document(paths.config_file)
    examined = examine(document)
    if examined.errors:
        raise examined.errors[0]
    settings, where = shown(document, examined), places(paths, os.environ)
    if as_json:
        say_json({
            "time": iso(time.time()), "file": document.path, "exists": document.exists,
            "settings": [setting.as_json() for setting in settings], "places": [place.as_json() for place in where],
        })  # fmt: skip
        return ExitCode.DONE
    _tell_show(document, settings)
    say("")
    for place in where:
        say(escape(f"{place.name}: {place.path} ({place.whence})"))
    return ExitCode.DONE


def _tell_show(document: Document, settings: tuple[Shown, ...]) -> None:
    rows = [
        (setting.key, setting.whence_text, line) if number == 0 else ("", "", line)
        for setting in settings
        for number, line in enumerate(setting.lines)
    ]
    say(escape(document.path if document.exists else f"There is no {document.path}: the defaults hold.") + "\n")
    say(table(("KEY", "WHENCE", "VALUE"), rows))


def print_schema() -> int:
    """Print the JSON Schema."""
    from ocwatchd.config.schema import schema

    say(json.dumps(schema(), indent=1))
    return ExitCode.DONE
