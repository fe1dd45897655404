"""The part of the configuration that names models: chains, aliases, agents. Checked, plain, and quick to import."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ocwatchd.config.reader import Document
from ocwatchd.core.chains import resolve
from ocwatchd.errors import ConfigError

ROOT = "rateLimit"
CHAIN, ALIASES, AGENTS = "fallbackChain", "models", "agents"

Report = Callable[[ConfigError], None]
"""Takes a fault: either raises it, or keeps it so that further ones are found."""


class Names:
    """`chains` as written (models or aliases, always lists), `aliases` to models, `agents` by model or alias."""

    __slots__ = ("agents", "aliases", "chains")

    def __init__(self, chains: dict[str, tuple[str, ...]], aliases: dict[str, str], agents: dict[str, str]) -> None:
        """Hold what was read."""
        self.chains = chains
        self.aliases = aliases
        self.agents = agents


def fail(fault: ConfigError) -> None:
    """Raise the first fault: whoever needs the configuration cannot use it."""
    raise fault


def read_names(document: Document, report: Report = fail) -> Names:
    """The names of the configuration.

    Raises:
        ConfigError: a value of the wrong type, or a name that is neither a model nor an alias.
    """
    aliases = _texts(document, ALIASES, report)
    for alias, model in aliases.items():
        if check_name(document, (ROOT, ALIASES, alias), model, aliases, report) and not is_model(
            resolve(alias, aliases)
        ):
            report(document.fault((ROOT, ALIASES, alias), "leads in a circle of aliases, not to a model"))
    agents = _texts(document, AGENTS, report)
    for name in agents:
        check_name(document, (ROOT, AGENTS, name), name, aliases, report)
    return Names(_chains(document, aliases, report), aliases, agents)


def section(document: Document, *keys: str, report: Report = fail) -> Mapping[str, object]:
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
            if depth == len(keys):  # what lies above is reported once, where it is itself asked for
                report(document.fault(keys, "has to be an object, { … }"))
            return {}
    return value if isinstance(value, dict) else {}


def remarks(key: str) -> bool:
    """Whether a key is a remark for people: `//…`, `$schema` and the like are nobody's setting."""
    return key.startswith(("//", "$", "#"))


def is_model(name: str) -> bool:
    """Whether `name` has the form provider/model."""
    provider, slash, model = name.partition("/")
    return bool(provider and slash and model) and name == name.strip()


def check_name(
    document: Document, keys: tuple[str | int, ...], name: str, aliases: Mapping[str, str], report: Report = fail
) -> bool:
    """Whether `name` is a model or an alias; else it is reported, with the aliases there are."""
    if is_model(name) or name in aliases:
        return True
    report(
        document.fault(keys, f"{name!r} is neither provider/model nor an alias from `models` ({known(name, aliases)})")
    )
    return False


def known(name: str, aliases: Mapping[str, str]) -> str:
    """The aliases there are, for whoever wrote `name`: the one that was meant, or all of them."""
    from difflib import get_close_matches  # late: only a slip needs it

    close = get_close_matches(name, list(aliases), 1, 0.6)
    return f"did you mean {close[0]!r}?" if close else ", ".join(sorted(aliases)) or "there are none"


def _chains(document: Document, aliases: Mapping[str, str], report: Report) -> dict[str, tuple[str, ...]]:
    chains: dict[str, tuple[str, ...]] = {}
    for name, value in section(document, ROOT, CHAIN, report=report).items():
        if remarks(name):
            continue
        keys = (ROOT, CHAIN, name)
        if name != "*":
            check_name(document, keys, name, aliases, report)
        targets = [value] if isinstance(value, str) else value
        if isinstance(targets, list):
            places = [keys if isinstance(value, str) else (*keys, index) for index in range(len(targets))]
            pairs = zip(places, targets, strict=True)
            chains[name] = tuple(str(target) for at, target in pairs if _target(document, at, target, aliases, report))
        else:
            report(document.fault(keys, "has to be a model name or a list of them"))
    return chains


def _target(
    document: Document, keys: tuple[str | int, ...], target: object, aliases: Mapping[str, str], report: Report
) -> bool:
    if not isinstance(target, str):
        report(document.fault(keys, f"{target!r} is not a model name"))
        return False
    if not check_name(document, keys, target, aliases, report):
        return False
    if resolve(target, aliases).endswith("/*"):
        report(document.fault(keys, f"{target} is a whole provider; name one of its models"))
        return False
    return True


def _texts(document: Document, name: str, report: Report) -> dict[str, str]:
    texts: dict[str, str] = {}
    for key, value in section(document, ROOT, name, report=report).items():
        if remarks(key):
            continue
        if isinstance(value, str) and value.strip():
            texts[key] = value
        else:
            report(document.fault((ROOT, name, key), "has to be a name in quotes"))
    return texts
