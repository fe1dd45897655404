"""Find models that are not in OpenCode's configuration: the models of logged-in providers, and recently used models.

Only names, prices and dates are read. From `auth.json`, only the names of providers are read.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from ocwatchd.config.names import is_model
from ocwatchd.config.opencode_setup import LOCAL_PROVIDERS, NO_CHAT, Offer, Setup
from ocwatchd.ownership import read_followed
from ocwatchd.paths import Paths

CATALOGUE_CAP = 32 << 20
"""Maximum size, in bytes, of OpenCode's cached list of models. In November 2026, the size of the list was 2 MB."""
STATE_CAP = 1 << 20
"""Maximum size of OpenCode's state files, in bytes."""
MAX_RECENT = 3
"""Maximum number of models from OpenCode's recent list that are considered to be in use. The list contains every model
that was ever chosen.
"""

_SMALL = re.compile(
    r"(?:^|[-_. ])(?:mini|nano|lite|flash|haiku|tiny|small|instant|air|fast|spark)(?=$|[-_. \d])", re.IGNORECASE
)

Catalogue = Mapping[str, Mapping[str, Mapping[str, object]]]
"""The properties of each model, by provider and model; empty if only the model's name is known."""


def recent_models(paths: Paths, most: int | None = MAX_RECENT) -> tuple[str, ...]:
    """Return the models that the user chose most recently in OpenCode's TUI, newest first. `most` is the maximum number
    of models (None: no maximum).
    """
    listed = _json(paths.opencode_state / "model.json", STATE_CAP).get("recent")
    found = []
    for entry in listed if isinstance(listed, list) else []:
        if isinstance(entry, dict):
            provider, model = entry.get("providerID"), entry.get("modelID")
            if isinstance(provider, str) and isinstance(model, str) and is_model(f"{provider}/{model}"):
                found.append(f"{provider}/{model}")
    return tuple(dict.fromkeys(found))[:most]


def logged_in_providers(paths: Paths) -> tuple[str, ...]:
    """Return the providers to which the user has logged in with OpenCode."""
    return tuple(
        name for name, value in _json(paths.opencode_data / "auth.json", STATE_CAP).items() if isinstance(value, dict)
    )


def catalogue_file(paths: Paths) -> Path:
    """Return the path of OpenCode's cached list of all providers' models."""
    return paths.cache_dir.parent / "opencode" / "models.json"


def cached_catalogue(paths: Paths) -> Catalogue:
    """Return OpenCode's cached list of all providers' models, or an empty catalog if there is no list."""
    return _read_catalogue(catalogue_file(paths))


def print_catalogue() -> None:
    """Print, as JSON, the models of some providers in a cached list, and only the names of the other providers.

    The process's arguments are the path of the list and the providers.
    """
    import sys  # lazy import: used only in a separate process

    path, *wanted = sys.argv[1:]
    found = _read_catalogue(path)
    print(json.dumps({name: list(models) if name in wanted else [] for name, models in found.items()}))


def _read_catalogue(path: object) -> Catalogue:
    raw = _json(path, CATALOGUE_CAP)
    return {
        provider: {name: about for name, about in models.items() if isinstance(about, dict)}
        for provider, value in raw.items()
        if isinstance(value, dict) and isinstance(models := value.get("models"), dict)
    }


def listed_catalogue(lines: Iterable[str]) -> Catalogue:
    """Return a catalog of model names from the output of `opencode models` (`provider/model`, one per line)."""
    found: dict[str, dict[str, Mapping[str, object]]] = {}
    for line in lines:
        if is_model(line.strip()):
            provider, _, model = line.strip().partition("/")
            found.setdefault(provider, {})[model] = {}
    return found


def further_offers(
    setup: Setup, logged_in: Iterable[str], recent: Iterable[str], catalogue: Catalogue
) -> Iterator[Offer]:
    """Yield models that could be fallbacks but are not in OpenCode's configuration.

    These are the recent models and, for each logged-in provider, the model most similar to the primary: the same model,
    a model of the same family, or the newest model of about the same price. Providers with configured models are
    skipped.
    """
    primary = setup.model
    configured = {offer.name.partition("/")[0] for offer in setup.offers}
    for name in recent:
        if name != primary:
            yield Offer(name, name.partition("/")[0].lower() in LOCAL_PROVIDERS)
    for provider in logged_in:
        if provider not in configured and primary is not None:
            best = _most_like(primary, provider, catalogue)
            if best is not None:
                yield Offer(f"{provider}/{best}", provider.lower() in LOCAL_PROVIDERS)


def _most_like(primary: str, provider: str, catalogue: Catalogue) -> str | None:
    """Return this provider's best replacement for `primary`, or None if no suitable model can call tools."""
    from ocwatchd.config.starter import SAME_NAME, kinship  # lazy import: `config check` does not need it

    own_provider, _, own_name = primary.partition("/")
    model = catalogue.get(own_provider, {}).get(own_name, {})
    usable = {
        name: about
        for name, about in catalogue.get(provider, {}).items()
        if about.get("tool_call") is not False
        and about.get("status") != "deprecated"
        and not NO_CHAT.search(name)
        and not (provider == own_provider and kinship(primary, f"{provider}/{name}") == SAME_NAME)
    }

    def rank(name: str) -> tuple[object, ...]:
        about = usable[name]
        small = bool(_SMALL.search(name)) != bool(_SMALL.search(own_name))
        dated = _descending(about.get("release_date"))
        words = len(re.findall(r"[a-z]+", name.lower()))  # users rarely want `gpt-5-search-api` when `gpt-5` exists
        near = kinship(primary, f"{provider}/{name}")
        return near, small, _price_distance(model, about), dated, words, _descending_version(name), name

    return min(usable, key=rank, default=None)


def _price_distance(one: Mapping[str, object], other: Mapping[str, object]) -> int:
    """Return the base-2 logarithm, rounded, of the ratio of two models' output prices, or 0 if a price is unknown."""
    prices = [cost.get("output") if isinstance(cost := about.get("cost"), dict) else None for about in (one, other)]
    first, second = prices
    if not (isinstance(first, int | float) and isinstance(second, int | float) and first > 0 and second > 0):
        return 0
    return round(abs(math.log2(first / second)))


def _descending(date: object) -> tuple[int, ...]:
    return tuple(-int(part) for part in re.findall(r"\d+", date)) if isinstance(date, str) else (0,)


def _descending_version(name: str) -> tuple[float, ...]:
    """Return a sort key that orders names by version, highest first. A name without a number comes last."""
    return tuple(-float(part) for part in re.findall(r"\d+(?:\.\d+)?", name)[:3] if len(part) < 6) or (0.0,)


def _json(path: object, cap: int) -> dict[str, object]:
    try:
        content = read_followed(str(path), cap)
    except (OSError, ValueError):
        return {}
    import orjson  # lazy import: it reads 2 MB in 10 ms of CPU time (`json`: 35 ms), and its import takes 5 ms

    try:
        raw = orjson.loads(content)
    except (ValueError, RecursionError):
        return {}
    return raw if isinstance(raw, dict) else {}
