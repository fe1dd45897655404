"""`ocwatch config`: write a first rate-limit-config.json, check it, and show the values in force with their sources."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ocwatchd.cli.output.escape import escape
from ocwatchd.cli.output.render import iso, say, say_json, table, tell, warn
from ocwatchd.config.coverage import named_models, uncovered
from ocwatchd.config.keys import FORECAST, LIMITS, PER_MODEL, Kind, settings
from ocwatchd.config.known_models import (
    cached_catalogue,
    further_offers,
    listed_catalogue,
    logged_in_providers,
    recent_models,
)
from ocwatchd.config.loading import Examined, examine
from ocwatchd.config.names import AGENTS, ALIASES, CHAIN, POOLS, ROOT, read_names, section
from ocwatchd.config.offered_models import Answer, judge, named_by_opencode, nearest, read_offered
from ocwatchd.config.opencode_setup import OWN_AGENTS, Setup, agent_names, read_setup
from ocwatchd.config.pool_settings import MEMBERS, STRATEGY, WEIGHTS
from ocwatchd.config.reader import Document, Fault, read_document
from ocwatchd.core.domain.chains import no_fallback, split_key
from ocwatchd.core.domain.pools import Pool
from ocwatchd.errors import ConfigError, ExitCode, OcwatchError, OpenCodeUnreachable, StateError, UsageError
from ocwatchd.paths import Paths
from ocwatchd.state.files import is_special, write_atomic, write_named, write_new

if TYPE_CHECKING:
    from ocwatchd.config.starter import Starter


@dataclass(frozen=True, slots=True)
class Finding:
    """One error or warning in a configuration. `line` and `key` are None if they are not known."""

    severity: str
    line: int | None
    key: str | None
    message: str
    text: str
    """The message as it is printed, including the file and the line."""

    def as_json(self) -> dict[str, object]:
        """Return the finding as an object of the JSON contract."""
        return {"severity": self.severity, "line": self.line, "key": self.key, "message": self.message}


@dataclass(frozen=True, slots=True)
class Shown:
    """One setting and the source of its value, `default` or `file`."""

    key: str
    value: object
    unit: str
    default: object
    whence: str
    line: int | None

    @property
    def lines(self) -> list[str]:
        """Return the value as it is written in the file, with its unit. A list has one line for each item."""
        items = self.value if isinstance(self.value, list) and self.value else [self.value]
        return [f"{json.dumps(item, ensure_ascii=False)} {self.unit}".rstrip() for item in items]

    @property
    def whence_text(self) -> str:
        """Return the source of the value, with the line number if it comes from the file."""
        return f"line {self.line}" if self.line else self.whence

    def as_json(self) -> dict[str, object]:
        """Return the setting as an object of the JSON contract."""
        return {
            "key": self.key,
            "value": self.value,
            "unit": self.unit or None,
            "default": self.default,
            "whence": self.whence,
            "line": self.line,
        }


@dataclass(frozen=True, slots=True)
class Place:
    """A path, and the environment variable that determines it (`default` if there is none)."""

    name: str
    path: str
    whence: str

    def as_json(self) -> dict[str, object]:
        """Return the path as an object of the JSON contract."""
        return {"name": self.name, "path": self.path, "whence": self.whence}


def findings(name: str) -> tuple[list[Finding], bool]:
    """Return the errors and warnings of this file, sorted by line, and whether the file exists."""
    try:
        document = read_document(name)
    except ConfigError as fault:
        return [_finding("error", fault)], True
    examined = examine(document)
    # A running daemon breaks the cycle and continues. `config check` reports an error, because the daemon's chain then
    # differs from the one in the file.
    found = [_finding("error", fault) for fault in (*examined.errors, *examined.circles)]
    found += [_finding("warning", fault) for fault in examined.slips]
    return sorted(found, key=lambda finding: finding.line or 0), document.exists


def _finding(severity: str, fault: ConfigError) -> Finding:
    text = f"{severity}: {fault}"
    if isinstance(fault, Fault):
        return Finding(severity, fault.line, fault.key or None, fault.message, text)
    return Finding(severity, None, None, str(fault), text)


def shown(document: Document, examined: Examined) -> tuple[Shown, ...]:
    """Return every setting in force. Each entry of a map is a separate setting."""
    names: Mapping[str, Mapping[str, object]] = {
        CHAIN: {name: list(targets) for name, targets in examined.names.chains.items()},
        ALIASES: examined.names.aliases,
        AGENTS: examined.names.agents,
        POOLS: {name: _pool(pool) for name, pool in examined.names.pools.items()},
        PER_MODEL: _mapping(examined.values[PER_MODEL]),
        LIMITS: _mapping(examined.values[f"{FORECAST}.{LIMITS}"]),
    }
    return tuple(_all_shown(document, examined, names))


def _all_shown(document: Document, examined: Examined, maps: Mapping[str, Mapping[str, object]]) -> Iterable[Shown]:
    for path, key in settings():
        if key.name not in maps:
            yield _shown(document, path, examined.values[".".join(path)], key.default, key.unit)
        elif not maps[key.name]:
            yield _shown(document, path, {}, {}, "")
        elif key.kind is Kind.PER_MODEL:
            for name, own in maps[key.name].items():
                for inner in key.inner:
                    value = _mapping(own)[inner.name]
                    yield _shown(document, (*path, name, inner.name), value, examined.values[inner.name], inner.unit)
        else:
            for name, value in maps[key.name].items():
                yield _shown(document, (*path, name), value, None, "")


def _shown(document: Document, path: tuple[str, ...], value: object, default: object, unit: str) -> Shown:
    written = path[-1] in section(document, ROOT, *path[:-1])
    line = document.positions().line((ROOT, *path)) if written else None
    return Shown(".".join(path), value, unit, default, "file" if written else "default", line)


def _pool(pool: Pool) -> dict[str, object]:
    weights = {WEIGHTS: pool.weights} if pool.weights else {}
    return {MEMBERS: list(pool.members), STRATEGY: pool.strategy, **weights}


def _mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, dict) else {}


def places(paths: Paths, environ: Mapping[str, str]) -> tuple[Place, ...]:
    """Return the paths that depend on environment variables."""
    return (
        Place("configuration", str(paths.config_file), _variable(environ, "OPENCODE_CONFIG_DIR", "XDG_CONFIG_HOME")),
        Place("OpenCode's data", str(paths.opencode_data), _variable(environ, "XDG_DATA_HOME")),
        Place("state of ocwatchd", str(paths.state_dir), _variable(environ, "XDG_STATE_HOME")),
    )


def _variable(environ: Mapping[str, str], *names: str) -> str:
    """Return the source of a path: the first of these variables that is set.

    A relative XDG path is ignored, as the XDG specification requires.
    """
    usable = (n for n in names if environ.get(n) and (not n.startswith("XDG") or environ[n].startswith("/")))
    return next((f"environment: {name}" for name in usable), "default")


def init(write: bool = False, force: bool = False, as_json: bool = False) -> int:
    """Print a first configuration that is derived from the user's OpenCode setup. With `write`, also write it to the
    file.

    Raises:
        UsageError: `force` is given without `write`.
        OcwatchError: A configuration exists and `force` is not given, or the file cannot be written.
    """
    if force and not write:
        raise UsageError("--force works only together with --write")
    paths = Paths.from_env()
    exists = os.path.lexists(paths.config_file)
    if write and exists and not force:
        raise OcwatchError(
            f"{paths.config_file} already exists. To replace it (the old file is kept under another name), add: --force"
        )
    from ocwatchd.config.starter import starter_for  # lazy import: `config check` does not need it

    start = starter_for(derived_setup(paths), schema=paths.schema)
    kept = _replace(paths.config_file, start.text) if write else None
    if write:
        write_schema(paths)
    if as_json:
        say_json({
            "file": str(paths.config_file), "exists": exists, "written": write, "kept": kept and str(kept),
            "primary": start.primary, "targets": list(start.targets), "remark": start.remark,
            "configuration": json.loads(start.text),
        })  # fmt: skip
    else:
        _report_init(paths.config_file, start, exists, write, kept)
    return ExitCode.DONE


def write_schema(paths: Paths) -> None:
    """Write a copy of the JSON Schema for configurations to refer to. They must not refer to the original, because it
    is in a virtual environment that may be removed.
    """
    from ocwatchd.config.schema import FILE  # lazy import: `config check` does not need it

    with suppress(OSError, StateError):  # only editors use the schema, so a failure to write it is ignored
        write_atomic(paths.schema, FILE.read_bytes())


def derived_setup(paths: Paths) -> Setup:
    """Return the models that the user's OpenCode offers: configured models, models of logged-in providers, and recently
    used models.

    If OpenCode's configuration cannot be read, a warning is printed and the other sources are used.
    """
    try:
        setup = read_setup(paths)
    except ConfigError as fault:
        warn(f"OpenCode's configuration cannot be read, so its models are not proposed: {escape(str(fault))}")
        setup = Setup(None, None, (), ())
    recent, logged_in = recent_models(paths), logged_in_providers(paths)
    if setup.model is None and recent:
        setup = replace(setup, model=recent[0])
    if not logged_in and not recent:
        return setup
    catalogue = cached_catalogue(paths) or listed_catalogue(_models_of_program(logged_in))
    return replace(setup, offers=(*setup.offers, *further_offers(setup, logged_in, recent, catalogue)))


def _models_of_program(logged_in: Sequence[str]) -> list[str]:
    """Return the models that the installed OpenCode 1 lists offline for these logins, or an empty list on failure."""
    from ocwatchd.cli.commands.run import installed_opencode  # lazy import: not used by `config check`
    from ocwatchd.opencode.process.program import about_program, list_models  # lazy import: 15 ms of CPU time

    program = installed_opencode()
    if program is None or not logged_in:
        return []
    try:
        if about_program(program, os.environ).generation != 1:
            return []
        return list_models(program, os.environ, logged_in)
    except OpenCodeUnreachable:
        return []


def _replace(file: Path, text: str) -> Path | None:
    """Write the file. If it already exists, rename the existing file and return its new path; otherwise, return None.

    A special file, such as a pipe, is written to instead of being replaced.
    """
    kept = None
    try:
        if is_special(file):
            write_named(file, text.encode())
            return None
        if os.path.lexists(file):
            kept = file.with_name(f"{file.name}.{time.strftime('%Y%m%dT%H%M%S')}.old")
            file.rename(kept)
        write_new(file, text.encode())
    except OSError as error:
        raise OcwatchError(f"{file} cannot be written: {error.strerror}") from None
    return kept


def _report_init(file: Path, start: Starter, exists: bool, written: bool, kept: Path | None) -> None:
    name = escape(str(file))
    if kept is not None:
        say(f"The old file is now {escape(kept.name)}.")
    text = "\n".join(map(escape, start.text.splitlines()))
    say(f"{'Wrote' if written else 'Would write'} {name}:\n\n{text}\n")
    if start.primary is None or not start.targets:
        warn(escape(start.remark_on(file)))
    if not written:
        more = " --force (this keeps the existing file under another name)" if exists else ""
        say(f"Nothing has been written. To write this file: ocwatch config init --write{more}")


def check(file: str | None = None, as_json: bool = False) -> int:
    """Print the errors and warnings of a configuration, and return 4 if there is an error, otherwise 0.

    Raises:
        UsageError: The named file does not exist.
    """
    name = file or str(Paths.from_env().config_file)
    if file is not None and not os.path.lexists(file):
        raise UsageError(f"{file} does not exist")
    found, exists = findings(name)
    if not any(finding.severity == "error" for finding in found):
        found = sorted([*found, *_unknown_models(name), *_unknown_agents(name)], key=lambda finding: finding.line or 0)
    if file is None and not any(finding.severity == "error" for finding in found):
        found += _no_fallback(Paths.from_env())
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


def _unknown_models(name: str) -> list[Finding]:
    """Return an error for each model that OpenCode does not offer, with its line and suggested names."""
    document = read_document(name)
    names, found = read_names(document), []
    paths = Paths.from_env()
    offered, own, positions = read_offered(paths), named_by_opencode(paths), document.positions()
    named = [(path, model) for path, model in named_models(names) if model not in own]
    if any(judge(model, offered).answer is Answer.NO for _, model in named):
        from ocwatchd.opencode.sessions.names import project_directories  # lazy import: rarely needed

        # also read the configurations of all projects, because one of them may define the model
        offered = read_offered(paths, projects=project_directories(str(paths.opencode_data)))
    for path, model in named:
        judgement = judge(model, offered)
        if judgement.answer is not Answer.NO:
            continue
        near = nearest(model, offered, own)
        meant = f". Did you mean {' or '.join(near)}?" if near else ". To list all models, use: opencode models"
        key, line = ".".join(path), positions.line((ROOT, *path)) or positions.line((ROOT, *path[:2]))
        message = f"{model} is unknown: {judgement.why}{meant}"
        where = f"{document.path}:{line}" if line else document.path
        found.append(Finding("error", line, key, message, f"error: {where}: {key}: {message}"))
    return found


def _unknown_agents(name: str) -> list[Finding]:
    """Return a warning for each agent that has a chain but is missing from OpenCode's configuration.

    This is not an error, because a project may define the agent.
    """
    document = read_document(name)
    known, positions = {*OWN_AGENTS, *agent_names(Paths.from_env())}, document.positions()
    found = []
    for key in read_names(document).chains:
        agent, _ = split_key(key)
        if agent is None or agent in known:
            continue
        from difflib import get_close_matches  # lazy import: needed only for a misspelled name

        near = get_close_matches(agent, sorted(known), 1, 0.6)
        meant = f"Did you mean {near[0]}?" if near else "To list all agents, use: opencode agent list"
        message = f"there is no agent {agent} in OpenCode's configuration. {meant}"
        line, path = positions.line((ROOT, CHAIN, key)), f"{CHAIN}.{key}"
        where = f"{document.path}:{line}" if line else document.path
        found.append(Finding("warning", line, path, message, f"warning: {where}: {path}: {message}"))
    return found


def _no_fallback(paths: Paths) -> list[Finding]:
    models = uncovered(paths)
    message = no_fallback(models)
    return [Finding("error", None, CHAIN, message, f"error: {message}")] if models else []


def _verdict(name: str, exists: bool, errors: int, warnings: int) -> str:
    if not exists:
        return f"{name} does not exist, so the defaults apply."
    if not errors and not warnings:
        return f"{name} has no errors."
    counted = [f"{n} {word}{'s' * (n > 1)}" for n, word in ((errors, "error"), (warnings, "warning")) if n]
    return f"{name}: {', '.join(counted)}."


def show(as_json: bool = False) -> int:
    """Print the values in force and the source of each: a default, the file, or the environment.

    Raises:
        ConfigError: The configuration cannot be used.
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
    _report_settings(document, settings)
    say("")
    for place in where:
        say(escape(f"{place.name}: {place.path} ({place.whence})"))
    return ExitCode.DONE


def _report_settings(document: Document, settings: tuple[Shown, ...]) -> None:
    rows = [
        (setting.key, setting.whence_text, line) if number == 0 else ("", "", line)
        for setting in settings
        for number, line in enumerate(setting.lines)
    ]
    say(escape(document.path if document.exists else f"{document.path} does not exist, so the defaults apply.") + "\n")
    say(table(("KEY", "SOURCE", "VALUE"), rows))


def print_schema() -> int:
    """Print the JSON Schema."""
    from ocwatchd.config.schema import schema  # lazy import: needed only for --schema

    say(json.dumps(schema(), indent=1))
    return ExitCode.DONE
