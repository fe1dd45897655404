"""The part of the configuration that names models: chains, aliases, agents. Checked, plain, and quick to import."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ocwatchd.config.reader import Document
from ocwatchd.core.chains import resolve
from ocwatchd.errors import ConfigError

TYPE_CHECKING = False  # what `typing` calls so costs 5 CPU ms to import
if TYPE_CHECKING:
    from ocwatchd.core.pools import Pool

ROOT = "rateLimit"
CHAIN, ALIASES, AGENTS, POOLS = "fallbackChain", "models", "agents", "pools"

Report = Callable[[ConfigError], None]
"""Takes a fault: either raises it, or keeps it so that further ones are found."""


class Names:
    """`chains` as written (models, aliases or pools, always lists), `aliases` to models or pools, `agents` by any of
    these names, `pools` by name.
    """

    __slots__ = ("agents", "aliases", "chains", "pools")

    def __init__(
        self,
        chains: dict[str, tuple[str, ...]],
        aliases: dict[str, str],
        agents: dict[str, str],
        pools: dict[str, Pool] | None = None,
    ) -> None:
        """Hold what was read."""
        self.chains = chains
        self.aliases = aliases
        self.agents = agents
        self.pools = pools or {}

    @property
    def known(self) -> Mapping[str, object]:
        """Every name of the user's own."""
        return {**self.aliases, **self.pools}


def fail(fault: ConfigError) -> None:
    """Raise the first fault: whoever needs the configuration cannot use it."""
    raise fault


def read_names(document: Document, report: Report = fail) -> Names:
    """The names of the configuration.

    Raises:
        ConfigError: a value of the wrong type, or a name that is neither a model, nor an alias, nor a pool.
    """
    aliases = _texts(document, ALIASES, report)
    pools = _pools(document, aliases, report)
    known = {**aliases, **pools}
    for alias, model in aliases.items():
        end = resolve(alias, aliases)
        if check_name(document, (ROOT, ALIASES, alias), model, known, report) and not (is_model(end) or end in pools):
            report(document.fault((ROOT, ALIASES, alias), "leads in a circle of aliases, not to a model"))
    agents = _texts(document, AGENTS, report)
    for name in agents:
        check_name(document, (ROOT, AGENTS, name), name, known, report)
    return Names(_chains(document, aliases, known, report), aliases, agents, pools)


def _pools(document: Document, aliases: Mapping[str, str], report: Report) -> dict[str, Pool]:
    found: dict[str, Pool] = {}
    written = section(document, ROOT, POOLS, report=report)
    if not written:
        return found
    from ocwatchd.config.pools import Checks, read_pool  # late: `pick` and the launcher pay only for what they have
    from ocwatchd.core.pools import Pool

    for name, value in written.items():
        if not remarks(name):
            pool = read_pool(document, (ROOT, POOLS, name), value, Checks(aliases, is_model, report))
            # A faulty one keeps its name: one fault is told, not one more at every place that names it.
            found[name] = pool or Pool(name, ())
    return found


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
    document: Document, keys: tuple[str | int, ...], name: str, aliases: Mapping[str, object], report: Report = fail
) -> bool:
    """Whether `name` is a model or an alias (or a pool, if these are among `aliases`); else it is reported, with the
    names there are.
    """
    if is_model(name) or name in aliases:
        return True
    report(
        document.fault(keys, f"{name!r} is neither provider/model nor an alias from `models` ({known(name, aliases)})")
    )
    return False


def known(name: str, aliases: Mapping[str, object]) -> str:
    """The names there are, for whoever wrote `name`: the one that was meant, or all of them."""
    from difflib import get_close_matches  # late: only a slip needs it

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
        if name != "*":
            check_name(document, keys, name, known, report)
        targets = [value] if isinstance(value, str) else value
        if isinstance(targets, list):
            places = [keys if isinstance(value, str) else (*keys, index) for index in range(len(targets))]
            pairs = zip(places, targets, strict=True)
            fit = (target for at, target in pairs if _target(document, at, target, aliases, known, report))
            chains[name] = tuple(map(str, fit))
        else:
            report(document.fault(keys, "has to be a model name or a list of them"))
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
        report(document.fault(keys, f"{target!r} is not a model name"))
        return False
    if not check_name(document, keys, target, known, report):
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
