"""Tests that the schema, the shipped file, the documentation and the reader agree."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from ocwatchd.config.keys import KEYS, RETRY_KEYS, Key, Kind, settings
from ocwatchd.config.loading import examine, load
from ocwatchd.config.opencode_setup import setup_of
from ocwatchd.config.reader import Document
from ocwatchd.config.schema import FILE, schema, uri
from ocwatchd.config.starter import starter_for
from ocwatchd.errors import ConfigError
from ocwatchd.paths import Paths
from tests.support.schema import accepts

SCHEMA = schema()
ROOT = Path(__file__).parents[2]


def test_the_shipped_file_is_the_generated_one() -> None:
    assert json.loads(FILE.read_text()) == SCHEMA, "run: ocwatch config schema > " + str(FILE)


def test_what_we_write_names_the_shipped_schema_and_obeys_it() -> None:
    setup = setup_of({"model": "p/a", "provider": {"q": {"models": {"b": {}}}}})
    written = json.loads(starter_for(setup).text)
    assert written["$schema"] == uri() == f"file://{FILE}"
    assert accepts(SCHEMA, written)


def test_defaults_obey_the_schema_and_are_what_an_empty_file_gives() -> None:
    whole: dict[str, Any] = {}
    for path, key in settings():
        if key.default is not None:
            inner = whole
            for name in path[:-1]:
                inner = inner.setdefault(name, {})
            inner[path[-1]] = key.default
    assert accepts(SCHEMA, {"rateLimit": whole})
    nothing, defaults = (examine(Document("x", data={"rateLimit": data})) for data in ({}, whole))
    assert nothing.values == defaults.values


# ---- reader and schema agree

MODELS = ("p/a", "q/b:free", "r/c/d", "p/*", "large", "small")
ALIASES = {"large": "p/a", "small": "large"}
JUNK = st.sampled_from([True, 0, -1, 1.5, 1e15, "", " ", "large", "p/a", "p/*", "/a", "p/", " p/a", [], {}])
JUNKS = JUNK | st.lists(JUNK, max_size=3) | st.dictionaries(st.sampled_from(["p/a", "x/", "*", "//"]), JUNK, max_size=2)


def values_of(key: Key) -> st.SearchStrategy[Any]:
    """Return mostly valid values of one key."""
    names, targets = st.sampled_from(MODELS), st.sampled_from([name for name in MODELS if name != "p/*"])
    match key.kind:
        case Kind.SECTION:
            return objects_of(key.inner)
        case Kind.FLAG:
            return st.booleans()
        case Kind.NUMBER:
            return st.integers(0, 10**16) | st.floats(0, 3)
        case Kind.WHOLE:
            return st.integers(0, 10**16) | st.just(3.0)
        case Kind.CHOICE:
            return st.sampled_from([*key.choices, "Auto"])
        case Kind.CHOICES:
            return st.lists(st.sampled_from([*key.choices, "Limit"]), max_size=2, unique=True)
        case Kind.PATIENCE:
            return st.sampled_from(["auto", "Auto", False, True, 0, -1, 0.5, 60_000, 10**16])
        case Kind.TEXT:
            places = ["valkeys://me@host.example:6380", "rediss://[::1]/", "unix:///run/s", "valkey://127.0.0.1:6379"]
            places += ["valkey://host.example", "valkeys://me:secret@host.example", "unix://s", "~/folder", "laptop-1"]
            return st.text(max_size=3) | st.sampled_from(places)
        case Kind.ACCOUNTS:
            accounts = st.sampled_from(["team-max-1", "a b", "", "a@b.example", "x" * 41])
            return st.dictionaries(st.sampled_from(["anthropic", "p/a", " ", "//"]), accounts, max_size=2)
        case Kind.TEXTS:
            texts = ["/var/log", "~/log", "~", "log", "~x", "429", "a|b", "http://127.0.0.1:80/", "http://[::1]:8"]
            texts += ["http://localhost:99999", "http://10.0.0.1:80", "http://127.0.0.1:80\n", "/a\0b"]
            return st.lists(st.sampled_from(texts), max_size=3)
        case Kind.CHAINS:
            return st.dictionaries(names | st.just("*") | st.just("//"), targets | st.lists(targets, max_size=3))
        case Kind.ALIASES:
            return st.just(ALIASES)
        case Kind.AGENTS:
            return st.dictionaries(names, st.sampled_from(["build", "my agent", " "]), max_size=2)
        case Kind.PER_MODEL:
            return st.dictionaries(names, objects_of(key.inner), max_size=2)
        case Kind.POOLS:
            # Always with members: a pool without members is invalid, and `objects_of` might leave them out.
            inner = st.fixed_dictionaries({key.inner[0].name: values_of(key.inner[0])})
            whole = st.tuples(objects_of(key.inner), inner).map(lambda two: {**two[0], **two[1]})
            return st.dictionaries(st.sampled_from(["sonnet", "*", "p/a", " ", "//"]), whole, max_size=2)
        case Kind.MODELS:
            return st.lists(st.sampled_from(["p/x", "q/x/y", "p/*"]), max_size=2)
        case Kind.WEIGHTS:
            return st.just({"//": 1})
        case Kind.LIMITS:
            one = objects_of(key.inner).filter(lambda limit: {"window", "tokens"} <= limit.keys())
            return st.dictionaries(names, one | st.lists(one, max_size=2), max_size=2)


def objects_of(keys: tuple[Key, ...]) -> st.SearchStrategy[dict[str, Any]]:
    mostly_right = {key.name: values_of(key) for key in keys}
    remarks: dict[str, st.SearchStrategy[Any]] = {"// why": JUNK, "$comment": JUNK, "#": JUNK}
    return st.fixed_dictionaries({}, optional={**mostly_right, **remarks})


@st.composite
def configurations(draw: st.DrawFn) -> dict[str, Any]:
    """Return a configuration that is valid except for at most two places, where any value may be.
    The aliases are always the same, because no schema can check which exist.
    """
    settings = draw(objects_of(KEYS))
    for _ in range(draw(st.integers(0, 2))):
        inner: Any = settings
        key: Key | None = draw(st.sampled_from([key for key in KEYS if key.kind is not Kind.ALIASES]))
        if key is not None and key.kind is Kind.SECTION and draw(st.booleans()):
            inner, key = inner.setdefault(key.name, {}), draw(st.sampled_from(key.inner))
        if key is not None and isinstance(inner, dict):
            inner[key.name] = draw(JUNKS)
    return {"rateLimit": {**settings, "models": ALIASES}}


@hypothesis_settings(deadline=None)
@given(configurations())
def test_what_the_schema_accepts_loads_without_a_warning_and_what_it_refuses_does_not(config: dict[str, Any]) -> None:
    examined = examine(Document("file", json.dumps(config), config, exists=True))
    wrong = [fault for fault in (*examined.errors, *examined.slips) if "is matched as literal" not in str(fault)]
    assert accepts(SCHEMA, config) == (not wrong), wrong
    with tempfile.TemporaryDirectory() as directory:
        home = Path(directory)
        paths = Paths(home, home, home / "data", home / "state", home / "cache")
        paths.config_file.write_text(json.dumps(config))
        if examined.errors:
            with pytest.raises(ConfigError):
                load(paths)
        else:
            load(paths)


@pytest.mark.parametrize(
    ("config", "right"),
    [
        ({"$schema": "x", "//": 1, "rateLimit": {}}, True),
        ({"ratelimit": {}}, False),
        ({"rateLimit": {"perModel": {"p/a": {"mode": "auto"}}}}, False),
        ({"rateLimit": {"perModel": {"p/a": {"maxRetries": 1, "jitterRange": 1.01}}}}, False),
        ({"rateLimit": {"models": {"x": "p/a", "any thing": "q/b"}}}, True),
        ({"rateLimit": {"models": {"x": "/a"}}}, False),
        ({"rateLimit": {"cooldown": {"billing": 1}}}, False),
        ({"rateLimit": {"fallbackChain": {"p/a": "q/*"}}}, False),
        ({"rateLimit": {"fallbackChain": {"p/*": "q/b"}}}, True),
    ],
)
def test_both_at_the_edges(config: dict[str, Any], right: bool) -> None:
    examined = examine(Document("file", data=config))
    assert (accepts(SCHEMA, config), not (examined.errors or examined.slips)) == (right, right)


# ---- the documentation


def documented(path: tuple[str, ...], key: Key) -> str:
    choices = ", ".join(f"`{choice}`" for choice in key.choices)
    may = choices or key.kind.value + (f", {key.unit}" if key.unit else "")
    default = "" if key.default is None else f"`{json.dumps(key.default)}`"
    return f"| `{'.'.join(path)}` | {may} | {default} | {key.about} |"


def test_every_key_stands_in_the_documentation_with_type_unit_default_and_meaning() -> None:
    text = (ROOT / "docs" / "configuration.md").read_text().splitlines()
    rows = [documented(path, key) for path, key in settings()]
    assert [row for row in rows if row not in text] == []
    keys = text[text.index("## Keys") :]
    listed = [line.split("`")[1] for line in keys if line.startswith("| `")]
    assert listed == [".".join(path) for path, _ in settings()]
    assert {key.name for key in RETRY_KEYS} < set(listed)
