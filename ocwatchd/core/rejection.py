"""A stand-in that was given a session and then fails it: a turn that nobody will finish, on a model nobody chose.

A model may refuse what others have said before: Anthropic's thinking wants a thought before each call of the running
turn, Gemini 3 a signature on it, others take no pictures or have a smaller window than they tell. OpenCode 1.0 - 1.18
ends the turn then. Pure.
"""

from __future__ import annotations

from ocwatchd.core.fallback import candidates
from ocwatchd.core.ledger import Ledger
from ocwatchd.core.limits import ModelRef
from ocwatchd.core.policy import Policy
from ocwatchd.core.reason import reason_of
from ocwatchd.core.views import SessionState, SessionView

OF_THE_MODEL = frozenset(("APIError", "ContextOverflowError", "ProviderAuthError"))
"""How OpenCode names the errors of a model's provider (1.0 - 1.18). An answer that was stopped or became too long, or a
tool's own fault, says nothing against a model."""


def rejected(view: SessionView, now: float, fresh: float) -> str | None:
    """What the model said with which the turn ended, within the last `fresh` seconds; None if it is no such failure."""
    error = view.last_error
    if view.state is not SessionState.ERROR or error is None or error.name not in OF_THE_MODEL:
        return None
    if now - (view.answer_ended or view.seen) > fresh:
        return None
    return reason_of(error.message) or error.name


def stands_in_for(view: SessionView, policy: Policy, ledger: Ledger, now: float) -> ModelRef | None:
    """The cooling model in whose place the session's has been put, as prevention does: its own earlier answers tell.

    A person who has chosen the stand-in by hand is served as well: what was chosen has just failed.
    """
    for model in view.before:
        if ledger.cooling(model, now) is not None and any(ref == view.model for ref in candidates(model, policy)):
            return model
    return None
