"""Read and check the settings that name models: chains, aliases, pools and agents. The module is fast to import."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ocwatchd.config.reader import Document
from ocwatchd.core.domain.chains import resolve, split_key
from ocwatchd.core.domain.names import is_name
from ocwatchd.errors import ConfigError

TYPE_CHECKING = False  # defined here because importing it from `typing` takes 5 ms of CPU time
if TYPE_CHECKING:
    from ocwatchd.core.domain.pools import Pool

ROOT = "rateLimit"
CHAIN, ALIASES, AGENTS, POOLS = "fallbackChain", "models", "agents", "pools"
UNMOVED = ("notify", "off")
"""The values of `mode` with which ocwatchd never moves a session."""

Report = Callable[[ConfigError], None]
"""A function that handles a fault: it either raises the fault, or stores it so that the check can continue."""


class Names:
    """The names in a configuration.

    `chains` contains the chains as written, with models, aliases or pools, but always as tuples. `aliases` maps each
    alias to a model or pool, `agents` maps any of these names to an agent, and `pools` maps each name to its pool.
    """

    __slots__ = ("agents", "aliases", "chains", "pools")

    def __init__(
        self,
        chains: dict[str, tuple[str, ...]],
        aliases: dict[str, str],
        agents: dict[str, str],
        pools: dict[str, Pool] | None = None,
    ) -> None:
        """Store the names from the configuration."""
        self.chains = chains
        self.aliases = aliases
        self.agents = agents
        self.pools = pools or {}

    @property
    def known(self) -> Mapping[str, object]:
        """All aliases and pools that the user defined."""
        return {**self.aliases, **self.pools}


def fail(fault: ConfigError) -> None:
    """Raise the fault. This is the `Report` for callers that need a usable configuration."""
    raise fault


def read_names(document: Document, report: Report = fail) -> Names:
    """Return the names in the configuration.

    Raises:
        ConfigError: `report` raises, because a value has the wrong type, or a name is neither a model nor an alias nor
            a pool.
    """
    aliases = _texts(document, ALIASES, report)
    pools = _pools(document, aliases, report)
    known = {**aliases, **pools}
    for alias, model in aliases.items():
        end = resolve(alias, aliases)
        if check_name(document, (ROOT, ALIASES, alias), model, known, report) and not (is_model(end) or end in pools):
            report(document.fault((ROOT, ALIASES, alias), "is a circular alias that never leads to a model"))
    agents = _texts(document, AGENTS, report)
    for name in agents:
        check_name(document, (ROOT, AGENTS, name), name, known, report)
    return Names(_chains(document, aliases, known, report), aliases, agents, pools)


def _pools(document: Document, aliases: Mapping[str, str], report: Report) -> dict[str, Pool]:
    found: dict[str, Pool] = {}
    written = section(document, ROOT, POOLS, report=report)
    if not written:
        return found
    from ocwatchd.config.pool_settings import (  # lazy import: needed only for pools
        Checks,
        read_pool,
    )
    from ocwatchd.core.domain.pools import Pool

    for name, value in written.items():
        if not remarks(name):
            pool = read_pool(document, (ROOT, POOLS, name), value, Checks(aliases, is_model, report))
            # A faulty pool keeps its name, so that references to it are not reported as additional faults.
            found[name] = pool or Pool(name, ())
    return found


def section(document: Document, *keys: str, report: Report = fail) -> Mapping[str, object]:
    """Return the object under `keys`, or an empty object if there is none.

    Raises:
        ConfigError: The value is not an object, and `report` raises.
    """
    value: object = document.data
    for depth, key in enumerate(keys, start=1):
        value = value.get(key) if isinstance(value, dict) else None
        if value is None:
            return {}
        if not isinstance(value, dict):
            # A parent of the wrong type is reported by the code that reads it.
            if depth == len(keys):
                report(document.fault(keys, "must be an object, { … }"))
            return {}
    return value if isinstance(value, dict) else {}


def needs_no_fallback(document: Document) -> str | None:
    """Return why no model needs a fallback, as a clause, or None if models need one.

    With `mode` set to `notify` or `off`, no session is moved. A written, empty `fallbackChain` together with a written
    `whenExhausted` set to `wait` asks ocwatchd to wait for the reset.
    """
    rate = document.data.get(ROOT)
    if not isinstance(rate, dict):
        return None
    if rate.get("mode") in UNMOVED:
        return f'no session is moved with "mode": "{rate["mode"]}"'
    if rate.get(CHAIN) == {} and not rate.get(POOLS) and rate.get("whenExhausted") == "wait":
        return 'limited turns wait for the reset with "fallbackChain": {} and "whenExhausted": "wait"'
    return None


def remarks(key: str) -> bool:
    """Return whether a key is a comment (`//…`, `#…`) or `$schema` rather than a setting."""
    return key.startswith(("//", "$", "#"))


def is_model(name: str) -> bool:
    """Return whether `name` has the form provider/model and could be listed in `blacklist.json`."""
    return is_name(name)


def check_name(
    document: Document, keys: tuple[str | int, ...], name: str, aliases: Mapping[str, object], report: Report = fail
) -> bool:
    """Return whether `name` is a model or is in `aliases`, which may also contain pools.

    Report any other name. The message suggests a similar name or lists all known names.
    """
    if is_model(name) or name in aliases:
        return True
    report(
        document.fault(keys, f"{name!r} is neither provider/model nor an alias from `models` ({known(name, aliases)})")
    )
    return False


def known(name: str, aliases: Mapping[str, object]) -> str:
    """Return a clause that suggests a similar name, or lists all known names if none is similar."""
    from difflib import get_close_matches  # lazy import: needed only for a typo

    close = get_close_matches(name, list(aliases), 1, 0.6)
    return f"did you mean {close[0]!r}?" if close else ", ".join(sorted(aliases)) or "there are none"


def _chains(
    document: Document, aliases: Mapping[str, str], known: Mapping[str, object], report: Report
) -> dict[str, tuple[str, ...]]:
    chains: dict[str, tuple[str, ...]] = {}
    for name, value in section(document, ROOT, CHAIN, report=report).items():
        if remarks(name):
            continue
        keys = (ROOT, CHAIN, name)
        agent, model = split_key(name)
        if agent == "" or (agent is not None and agent != agent.strip()):
            report(document.fault(keys, "contains no agent; use agent:NAME or agent:NAME@provider/model"))
        elif model is not None and name != "*":
            check_name(document, keys, model, known, report)
        targets = [value] if isinstance(value, str) else value
        if isinstance(targets, list):
            places = [keys if isinstance(value, str) else (*keys, index) for index in range(len(targets))]
            pairs = zip(places, targets, strict=True)
            fit = (target for at, target in pairs if _target(document, at, target, aliases, known, report))
            chains[name] = tuple(map(str, fit))
        else:
            report(document.fault(keys, "must be a model's name or a list of names"))
    return chains


def _target(
    document: Document,
    keys: tuple[str | int, ...],
    target: object,
    aliases: Mapping[str, str],
    known: Mapping[str, object],
    report: Report,
) -> bool:
    if not isinstance(target, str):
        report(document.fault(keys, f"{target!r} is not a model's name"))
        return False
    if not check_name(document, keys, target, known, report):
        return False
    if resolve(target, aliases).endswith("/*"):
        report(document.fault(keys, f"{target} is a whole provider, not a model; name one of its models"))
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
            report(document.fault((ROOT, name, key), "must be a quoted name"))
    return texts
