"""What `ocwatch config` says, as plain values: findings of a check, settings with their source, places."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ocwatchd.config.keys import FORECAST, LIMITS, PER_MODEL, Kind, settings
from ocwatchd.config.loading import Examined, examine
from ocwatchd.config.names import AGENTS, ALIASES, CHAIN, POOLS, ROOT, section
from ocwatchd.config.pools import MEMBERS, STRATEGY, WEIGHTS
from ocwatchd.config.reader import Document, Fault, read_document
from ocwatchd.core.pools import Pool
from ocwatchd.errors import ConfigError
from ocwatchd.paths import Paths


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong with a file. `severity` is error or warning; line and key where they can be told."""

    severity: str
    line: int | None
    key: str | None
    message: str
    text: str
    """The same for a person, with its place."""

    def as_json(self) -> dict[str, object]:
        """The entry of the JSON contract."""
        return {"severity": self.severity, "line": self.line, "key": self.key, "message": self.message}


@dataclass(frozen=True, slots=True)
class Shown:
    """One setting and whence it has its value: `default` or `file`."""

    key: str
    value: object
    unit: str
    default: object
    whence: str
    line: int | None

    @property
    def lines(self) -> list[str]:
        """The value as it would stand in the file, with its unit; of a list each item."""
        items = self.value if isinstance(self.value, list) and self.value else [self.value]
        return [f"{json.dumps(item, ensure_ascii=False)} {self.unit}".rstrip() for item in items]

    @property
    def whence_text(self) -> str:
        """With the line."""
        return f"line {self.line}" if self.line else self.whence

    def as_json(self) -> dict[str, object]:
        """The entry of the JSON contract."""
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
    """Where something lies, and which variable of the environment moved it there; `default` if none did."""

    name: str
    path: str
    whence: str

    def as_json(self) -> dict[str, object]:
        """The entry of the JSON contract."""
        return {"name": self.name, "path": self.path, "whence": self.whence}


def findings(name: str) -> tuple[list[Finding], bool]:
    """Everything that is wrong with this file, in the order of its lines, and whether there is one at all."""
    try:
        document = read_document(name)
    except ConfigError as fault:
        return [_finding("error", fault)], True
    examined = examine(document)
    # A running daemon cuts a circle and goes on; whoever checks wants to hear that the chain is not what it seems.
    found = [_finding("error", fault) for fault in (*examined.errors, *examined.circles)]
    found += [_finding("warning", fault) for fault in examined.slips]
    return sorted(found, key=lambda finding: finding.line or 0), document.exists


def _finding(severity: str, fault: ConfigError) -> Finding:
    text = f"{severity}: {fault}"
    if isinstance(fault, Fault):
        return Finding(severity, fault.line, fault.key or None, fault.message, text)
    return Finding(severity, None, None, str(fault), text)


def shown(document: Document, examined: Examined) -> tuple[Shown, ...]:
    """Every setting that holds; of maps each entry."""
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
    """The places that the environment decides."""
    return (
        Place("configuration", str(paths.config_file), _variable(environ, "OPENCODE_CONFIG_DIR", "XDG_CONFIG_HOME")),
        Place("OpenCode's data", str(paths.opencode_data), _variable(environ, "XDG_DATA_HOME")),
        Place("state of ocwatchd", str(paths.state_dir), _variable(environ, "XDG_STATE_HOME")),
    )


def _variable(environ: Mapping[str, str], *names: str) -> str:
    """The first that says something; of the XDG ones a relative path says nothing, as their specification has it."""
    telling = (n for n in names if environ.get(n) and (not n.startswith("XDG") or environ[n].startswith("/")))
    return next((f"environment: {name}" for name in telling), "default")
