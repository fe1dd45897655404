"""Why these targets and no other, written down beside the choice: what `ocwatch explain` shows of it. Pure."""

from __future__ import annotations

from collections.abc import Collection

from ocwatchd.core.fallback import Choice, Chosen
from ocwatchd.core.ledger import Ledger
from ocwatchd.core.limits import ModelRef
from ocwatchd.core.outlook import UNKNOWN, Outlook

MOST = 20
"""Targets written down of one choice; no chain seen had more than a dozen."""


def considered(
    choice: Choice,
    ledger: Ledger,
    refusing: ModelRef | None,
    failed: Collection[ModelRef],
    now: float,
    outlook: Outlook = UNKNOWN,
) -> list[dict[str, object]]:
    """Every target that was looked at, nearest first: `model`, `why` (or why not) and `until`, if it rests.

    `refusing` is the model that refuses this turn, `failed` are targets that this prompt could not be moved to. The
    chosen one comes last and has `chosen`. `outlook` is what the choice was made on.
    """
    passed = choice.passed if isinstance(choice, Chosen) else choice.models[1:]
    rows = [_passed_over(model, ledger, refusing, failed, now, outlook) for model in passed[:MOST]]
    if isinstance(choice, Chosen):
        rows.append({"model": str(choice.target.model), "why": _why(choice, outlook), "chosen": True})
    return rows


def _why(choice: Chosen, outlook: Outlook) -> str:
    model, pool = str(choice.target.model), choice.target.pool
    reasons = ["free"]
    if pool is not None:
        reasons.append(f"its turn in the pool {pool}")
    if model in outlook.known:
        reasons.append(f"by experience: {outlook.known[model]}")
    return "; ".join(reasons)


def _passed_over(
    model: ModelRef,
    ledger: Ledger,
    refusing: ModelRef | None,
    failed: Collection[ModelRef],
    now: float,
    outlook: Outlook,
) -> dict[str, object]:
    if model == refusing:
        return {"model": str(model), "why": "it is what refuses"}
    if model in failed:
        return {"model": str(model), "why": "this prompt could not be moved to it"}
    entry = ledger.avoided(model, now)
    if entry is None:
        return {"model": str(model), "why": outlook.refused(model) or "tried before"}
    if entry.foreseen:
        return {"model": str(model), "why": f"is about to be limited ({entry.reason})", "until": entry.until}
    why = "its provider rests" if entry.model == model.whole_provider else f"rests ({entry.kind.value})"
    return {"model": str(model), "why": why, "until": entry.until}
