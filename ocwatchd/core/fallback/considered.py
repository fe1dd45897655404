"""List the reasons for the choice of a fallback, which are recorded in the journal and shown by `ocwatch explain`. Pure
functions.
"""

from __future__ import annotations

from collections.abc import Collection

from ocwatchd.core.domain.cooldowns import Cooldowns
from ocwatchd.core.domain.types import ModelRef
from ocwatchd.core.fallback.choice import Choice, Chosen
from ocwatchd.core.fallback.outlook import UNKNOWN, Outlook

MAX_RECORDED = 20
"""Maximum number of targets that are recorded for one choice. No known chain has had more than a dozen models."""


def considered(
    choice: Choice,
    cooldowns: Cooldowns,
    refusing: ModelRef | None,
    failed: Collection[ModelRef],
    now: float,
    outlook: Outlook = UNKNOWN,
    threatened: Collection[ModelRef] = (),
) -> list[dict[str, object]]:
    """Return every target that was considered, nearest first, with the keys `model`, `why` and, if the model is cooling
    down, `until`.

    `refusing` is the model that is limited in this turn, and `failed` contains the targets to which this prompt could
    not be moved. The chosen target comes last and has the key `chosen`. `outlook` contains the values on which the
    choice was based. `threatened` contains models whose forecasts are new and not in `cooldowns` yet.
    """
    passed = choice.passed if isinstance(choice, Chosen) else choice.models[1:]
    rows: list[dict[str, object]] = []
    for model in passed[:MAX_RECORDED]:
        if model in threatened and cooldowns.avoided(model, now) is None:
            rows.append({"model": str(model), "why": "is also about to be limited"})
        else:
            rows.append(_passed_over(model, cooldowns, refusing, failed, now, outlook))
    if isinstance(choice, Chosen):
        rows.append({"model": str(choice.target.model), "why": _why(choice, outlook), "chosen": True})
    return rows


def _why(choice: Chosen, outlook: Outlook) -> str:
    model, pool = str(choice.target.model), choice.target.pool
    reasons = ["available"]
    if pool is not None:
        reasons.append(f"next in the pool {pool}")
    if model in outlook.known:
        reasons.append(f"by experience: {outlook.known[model]}")
    return "; ".join(reasons)


def _passed_over(
    model: ModelRef,
    cooldowns: Cooldowns,
    refusing: ModelRef | None,
    failed: Collection[ModelRef],
    now: float,
    outlook: Outlook,
) -> dict[str, object]:
    if model == refusing:
        return {"model": str(model), "why": "it is the limited model"}
    if model in failed:
        return {"model": str(model), "why": "this prompt could not be moved to it"}
    entry = cooldowns.avoided(model, now)
    if entry is None:
        return {"model": str(model), "why": outlook.refused(model) or "tried before"}
    if entry.foreseen:
        return {"model": str(model), "why": f"is about to be limited ({entry.reason})", "until": entry.until}
    if entry.hearsay:
        return {"model": str(model), "why": "another machine has reported a limit", "until": entry.until}
    why = (
        "its provider is cooling down" if entry.model == model.whole_provider else f"cooling down ({entry.kind.value})"
    )
    return {"model": str(model), "why": why, "until": entry.until}
