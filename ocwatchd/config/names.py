"""The part of the configuration that names models: chains, aliases, agents. Checked, plain, and quick to import."""

from __future__ import annotations

from collections.abc import Mapping

from ocwatchd.config.reader import Document

ROOT = "rateLimit"
CHAIN, ALIASES, AGENTS = "fallbackChain", "models", "agents"


class Names:
    """`chains` as written (models or aliases, always lists), `aliases` to models, `agents` by model or alias."""

    __slots__ = ("agents", "aliases", "chains")

    def __init__(self, chains: dict[str, tuple[str, ...]], aliases: dict[str, str], agents: dict[str, str]) -> None:
        """Hold what was read."""
        self.chains = chains
        self.aliases = aliases
        self.agents = agents


def read_names(document: Document) -> Names:
    """The names of the configuration.

    Raises:
        ConfigError: a value of the wrong type, or a name that is neither a model nor an alias.
    """
    aliases = _texts(document, ALIASES)
    for alias, model in aliases.items():
        _check(document, (ROOT, ALIASES, alias), model, aliases)
    agents = _texts(document, AGENTS)
    for name in agents:
        _check(document, (ROOT, AGENTS, name), name, aliases)
    return Names(_chains(document, aliases), aliases, agents)


def section(document: Document, *keys: str) -> Mapping[str, object]:
    """The object under `keys`, empty if absent.

    Raises:
        ConfigError: something else than an object stands there.
    """
    value: object = document.data
    for depth, key in enumerate(keys, start=1):
        value = value.get(key) if isinstance(value, dict) else None
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise document.fault(keys[:depth], "has to be an object, { … }")
    return value if isinstance(value, dict) else {}


def remarks(key: str) -> bool:
    """Whether a key is a remark for people: `//…`, `$schema` and the like are nobody's setting."""
    return key.startswith(("//", "$", "#"))


def is_model(name: str) -> bool:
    """Whether `name` has the form provider/model."""
    provider, slash, model = name.partition("/")
    return bool(provider and slash and model) and name == name.strip()


def check_model(document: Document, keys: tuple[str, ...], name: str, aliases: Mapping[str, str]) -> None:
    """Accept a model or an alias.

    Raises:
        ConfigError: it is neither; names the aliases there are.
    """
    _check(document, keys, name, aliases)


def _chains(document: Document, aliases: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    chains: dict[str, tuple[str, ...]] = {}
    for name, value in section(document, ROOT, CHAIN).items():
        if remarks(name):
            continue
        keys = (ROOT, CHAIN, name)
        if name != "*":
            _check(document, keys, name, aliases)
        targets = [value] if isinstance(value, str) else value
        if not isinstance(targets, list):
            raise document.fault(keys, "has to be a model name or a list of them")
        for target in targets:
            if not isinstance(target, str):
                raise document.fault(keys, f"{target!r} is not a model name")
            _check(document, keys, target, aliases)
            if target.endswith("/*"):
                raise document.fault(keys, f"{target} is a whole provider; name one of its models")
        chains[name] = tuple(targets)
    return chains


def _texts(document: Document, name: str) -> dict[str, str]:
    texts: dict[str, str] = {}
    for key, value in section(document, ROOT, name).items():
        if remarks(key):
            continue
        if not isinstance(value, str) or not value.strip():
            raise document.fault((ROOT, name, key), "has to be a name in quotes")
        texts[key] = value
    return texts


def _check(document: Document, keys: tuple[str, ...], name: str, aliases: Mapping[str, str]) -> None:
    if is_model(name) or name in aliases:
        return
    known = ", ".join(sorted(aliases)) or "there are none"
    raise document.fault(keys, f"{name!r} is neither provider/model nor an alias from `models` ({known})")
