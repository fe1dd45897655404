"""Derive a new user's first configuration from the user's OpenCode configuration.

Its comments are keys that begin with `//`, so that jq and other JSON parsers can also read the file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ocwatchd.config.names import is_model
from ocwatchd.config.opencode_setup import Agent, Offer, Setup, setup_of
from ocwatchd.config.schema import uri

_FALLBACK = re.compile(r"fall[\s_-]?back", re.IGNORECASE)
_DATE = re.compile(r"[-@](?:\d{8}|\d{4}-\d{2}-\d{2})(?=$|[-:])")
_WORDS = re.compile(r"[a-z]+|\d+(?:[.-]\d+)*[a-z]*")

SAME_NAME, SAME_LINE, SAME_FAMILY, OTHER = range(4)


@dataclass(frozen=True, slots=True)
class Starter:
    """A first configuration, and a note about it for the user. `primary` is None if OpenCode has no default model."""

    text: str
    primary: str | None
    targets: tuple[str, ...]
    remark: str

    def remark_on(self, file: Path) -> str:
        """Return the remark as printed outside the file, which it then names."""
        return self.remark.replace("this file", str(file))


def starter(config: Mapping[str, object], agents: tuple[Agent, ...] = ()) -> str:
    """Return the text of a first configuration for a merged OpenCode configuration and the agents from
    Markdown files.
    """
    return starter_for(setup_of(config, agents)).text


def starter_for(setup: Setup, chosen: tuple[str, ...] | None = None, schema: Path | None = None) -> Starter:
    """Return a first configuration for the models and agents in the user's OpenCode setup.

    `chosen` contains the fallbacks that the user wants, in order; by default, all fallbacks that are found are used.
    `schema` is the copy of the JSON schema to which the configuration refers.
    """
    primary = setup.model if setup.model and is_model(setup.model) else None
    carriers = _fallback_agents(setup, primary)
    targets = chosen if chosen is not None else _targets(primary, setup, carriers) if primary else ()
    remark = _remark(primary, targets)
    rate: dict[str, object] = {
        "//": [remark, "Changes take effect within two seconds. To check them: ocwatch config check"]
    }
    if primary and targets:
        rate["fallbackChain"] = {primary: list(targets), "*": [primary, *targets]}
        used = {agent.model: agent.name for agent in reversed(carriers) if agent.model in targets and agent.leads}
        if used:
            rate["agents"] = used
    else:
        rate["// fallbackChain"] = {"provider/primary-model": ["provider/fallback-model"]}
    text = json.dumps({"$schema": uri(schema), "//": _ABOUT, "rateLimit": rate}, indent=2, ensure_ascii=False)
    return Starter(text + "\n", primary, targets, remark)


_ABOUT = (
    "What ocwatchd does when a model is rate limited. Generated from OpenCode's configuration; edit it as you like."
)


def _remark(primary: str | None, targets: tuple[str, ...]) -> str:
    if primary is None:
        return (
            "No fallback chain: OpenCode's configuration contains no model. Set `model` in opencode.json, then let "
            "ocwatch write this file: ocwatch config init --write --force. Or add `fallbackChain` yourself: a "
            "model, then its fallbacks."
        )
    if not targets:
        return (
            f"No fallback chain: {primary} is the only model in OpenCode's configuration. Add another provider or an "
            "agent with its own model to OpenCode, then let ocwatch write this file: ocwatch config init --write "
            "--force. Or add `fallbackChain` yourself."
        )
    return (
        "When a model on the left is limited, its sessions move to the first available model on the right. * means any "
        "other model."
    )


def _fallback_agents(setup: Setup, primary: str | None) -> tuple[Agent, ...]:
    """Return the agents with their own model that seem to be fallbacks. Agents with `fallback` in the name come before
    those with it in the description.
    """
    usable = [a for a in setup.agents if a.model and is_model(a.model) and a.model != primary]
    by_name = [agent for agent in usable if _FALLBACK.search(agent.name)]
    by_text = [agent for agent in usable if agent not in by_name and _FALLBACK.search(agent.description)]
    return (*by_name, *by_text)


def _targets(primary: str, setup: Setup, carriers: tuple[Agent, ...]) -> tuple[str, ...]:
    others = [offer for offer in setup.offers if offer.name != primary]
    # the sort is stable, so that models of equal rank keep the order of the file
    ranked = sorted(others, key=lambda offer: _rank(primary, offer, setup.small_model))
    return tuple(dict.fromkeys([*(agent.model for agent in carriers if agent.model), *(o.name for o in ranked)]))


def _rank(primary: str, offer: Offer, small: str | None) -> tuple[bool, int, bool, bool]:
    """Return a sort key for possible fallbacks. The models most similar to the primary come first, and local models
    come last.

    Among unrelated models, the model for titles and the models of the primary's own provider come last.
    """
    own = offer.name.partition("/")[0] == primary.partition("/")[0]
    near = kinship(primary, offer.name)
    # a limit often applies to all models of an account, so another model of that account is no better than an unrelated
    # model
    if own:
        near = OTHER
    return offer.local, near, offer.name == small, own


def kinship(one: str, other: str) -> int:
    """Return how closely two models are related, based on their names.

    The values, from the closest relation, are SAME_NAME, SAME_LINE, SAME_FAMILY and OTHER.
    """
    first, second = _name_words(one), _name_words(other)
    if first == second:
        return SAME_NAME
    lines = [[word for word in words if word.isalpha()] for words in (first, second)]
    if lines[0] and lines[0] == lines[1]:
        return SAME_LINE
    return SAME_FAMILY if first[:1] == second[:1] and first else OTHER


def _name_words(model: str) -> list[str]:
    """Return the parts of a model's name, without its date and variant.

    `openrouter/anthropic/claude-sonnet-4.5:free` and `x/claude-sonnet-4-5-20250929` both give claude, sonnet, 4, 5.
    """
    name = model.rpartition("/")[2].lower()
    name = _DATE.sub(
        "", name.removesuffix(":free").removesuffix("-free").removesuffix(":cloud").removesuffix("-latest")
    )
    words = [re.split(r"[.-]", word) for word in _WORDS.findall(name)]
    return [part for parts in words for part in parts]
