"""Whether a model exists, as far as can be told here. What may be right is never called wrong, but unsure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from ocwatchd.core.providers import WELL_KNOWN
from ocwatchd.doctor.values import Offered

CATALOGUE_FRESH = 7 * 86400.0
"""Seconds for which OpenCode's cached list is believed when it lacks a model; OpenCode renews it at every start."""


class Answer(StrEnum):
    """What is known of a model."""

    YES = "yes"
    NO = "no"
    UNSURE = "unsure"


@dataclass(frozen=True, slots=True)
class Judgement:
    """The answer, and a clause that says whence: `zai offers no model of that name`."""

    answer: Answer
    why: str = ""


def judge(model: str, offered: Offered) -> Judgement:
    """Whether this `provider/model` can be used."""
    provider, _, name = model.partition("/")
    if offered.enabled is not None and provider not in offered.enabled:
        return Judgement(Answer.NO, f"{provider} is not among the enabled_providers of opencode.json")
    if provider in offered.disabled:
        return Judgement(Answer.NO, f"{provider} is among the disabled_providers of opencode.json")
    lists = (offered.by_doors, offered.configured, offered.catalogue)
    if any(name in known.get(provider, ()) for known in lists):
        return Judgement(Answer.YES)
    missing = f"{provider} offers no model of that name"
    if provider in offered.by_doors:
        return Judgement(Answer.NO, f"{missing}, says a running OpenCode")
    if provider in offered.catalogue:
        return _by_catalogue(missing, offered.catalogue_age)
    if provider in WELL_KNOWN:  # of OpenCode's own catalogue, which is not here
        return Judgement(Answer.UNSURE, f"nothing here lists the models of {provider}")
    if offered.configured.get(provider):
        return Judgement(Answer.NO, f"{missing} in opencode.json")
    if provider in offered.configured or provider in offered.signed_in:
        return Judgement(Answer.UNSURE, f"nothing here lists the models of {provider}")
    if not any(lists):
        return Judgement(Answer.UNSURE, "nothing here lists any models")
    return Judgement(Answer.NO, f"there is no provider {provider}")


def _by_catalogue(missing: str, age: float | None) -> Judgement:
    if age is not None and age > CATALOGUE_FRESH:
        return Judgement(Answer.UNSURE, f"{missing} in OpenCode's cached list, which is {age / 86400:.0f} days old")
    return Judgement(Answer.NO, f"{missing} in OpenCode's cached list")
