"""The first configuration of a new user, derived from the OpenCode that is there: plain JSON, remarks as `//` keys.

Remarks are keys, not comments, so that jq and every other JSON reader can read the file too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

from ocwatchd.config.names import is_model
from ocwatchd.config.schema import uri
from ocwatchd.config.setup import Agent, Offer, Setup, setup_of

_FALLBACK = re.compile(r"fall[\s_-]?back", re.IGNORECASE)
_DATE = re.compile(r"[-@](?:\d{8}|\d{4}-\d{2}-\d{2})(?=$|[-:])")
_WORDS = re.compile(r"[a-z]+|\d+(?:[.-]\d+)*[a-z]*")

SAME_NAME, SAME_LINE, SAME_FAMILY, OTHER = range(4)


@dataclass(frozen=True, slots=True)
class Starter:
    """The text for a new file, and what to tell the person. `primary` is None if OpenCode names no model."""

    text: str
    primary: str | None
    targets: tuple[str, ...]
    remark: str


def starter(config: Mapping[str, object], agents: tuple[Agent, ...] = ()) -> str:
    """The starter text for one merged OpenCode configuration and the agents found in files."""
    return starter_for(setup_of(config, agents)).text


def starter_for(setup: Setup) -> Starter:
    """The starter configuration for what the user's OpenCode offers."""
    primary = setup.model if setup.model and is_model(setup.model) else None
    carriers = _fallback_agents(setup, primary)
    targets = _targets(primary, setup, carriers) if primary else ()
    remark = _remark(primary, targets)
    rate: dict[str, object] = {
        "//": [remark, "A change takes effect within a second or two; `ocwatch config check` looks it over."]
    }
    if primary and targets:
        rate["fallbackChain"] = {primary: list(targets), "*": [primary, *targets]}
        used = {agent.model: agent.name for agent in reversed(carriers) if agent.model in targets and agent.leads}
        if used:
            rate["agents"] = used
    else:
        rate["// fallbackChain"] = {"provider/primary-model": ["provider/fallback-model"]}
    text = json.dumps({"$schema": uri(), "//": _ABOUT, "rateLimit": rate}, indent=2, ensure_ascii=False)
    return Starter(text + "\n", primary, targets, remark)


_ABOUT = (
    "What ocwatchd does when a model is rate limited. Written from your OpenCode's own configuration; yours to edit."
)


def _remark(primary: str | None, targets: tuple[str, ...]) -> str:
    if primary is None:
        return (
            "No chain: OpenCode's configuration names no model. Set `model` in opencode.json and delete this file, or "
            "write `fallbackChain` yourself: the limited model, then what stands in for it."
        )
    if not targets:
        return (
            f"No chain: {primary} is the only model that OpenCode's configuration names. Add another provider or an "
            "agent with its own model, or write `fallbackChain` yourself."
        )
    return (
        "When the model on the left is limited, its sessions move to the first free one on the right; * is any other."
    )


def _fallback_agents(setup: Setup, primary: str | None) -> tuple[Agent, ...]:
    """Agents that say fallback, by name before description, with a model of their own."""
    usable = [a for a in setup.agents if a.model and is_model(a.model) and a.model != primary]
    by_name = [agent for agent in usable if _FALLBACK.search(agent.name)]
    by_text = [agent for agent in usable if agent not in by_name and _FALLBACK.search(agent.description)]
    return (*by_name, *by_text)


def _targets(primary: str, setup: Setup, carriers: tuple[Agent, ...]) -> tuple[str, ...]:
    others = [offer for offer in setup.offers if offer.name != primary]
    ranked = sorted(others, key=lambda offer: _rank(primary, offer, setup.small_model))  # stable: the file's own order
    return tuple(dict.fromkeys([*(agent.model for agent in carriers if agent.model), *(o.name for o in ranked)]))


def _rank(primary: str, offer: Offer, small: str | None) -> tuple[bool, int, bool, bool]:
    """Local ones last; by kinship; among strangers the model for titles and the primary's own provider come last."""
    own = offer.name.partition("/")[0] == primary.partition("/")[0]
    near = kinship(primary, offer.name)
    if own:  # a limit often holds for all models of an account
        near = OTHER
    return offer.local, near, offer.name == small, own


def kinship(one: str, other: str) -> int:
    """How closely two models are related by their names: the same, the same line, the same family, or not at all."""
    first, second = _name_words(one), _name_words(other)
    if first == second:
        return SAME_NAME
    lines = [[word for word in words if word.isalpha()] for words in (first, second)]
    if lines[0] and lines[0] == lines[1]:
        return SAME_LINE
    return SAME_FAMILY if first[:1] == second[:1] and first else OTHER


def _name_words(model: str) -> list[str]:
    """`openrouter/anthropic/claude-sonnet-4.5:free` and `x/claude-sonnet-4-5-20250929` -> claude, sonnet, 4, 5."""
    name = model.rpartition("/")[2].lower()
    name = _DATE.sub(
        "", name.removesuffix(":free").removesuffix("-free").removesuffix(":cloud").removesuffix("-latest")
    )
    words = [re.split(r"[.-]", word) for word in _WORDS.findall(name)]
    return [part for parts in words for part in parts]
