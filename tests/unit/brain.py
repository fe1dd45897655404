"""A brain with a policy and three models, and short words for what it is told and what it answers."""

from __future__ import annotations

from dataclasses import replace
from itertools import count

from ocwatchd.core.engine import Engine
from ocwatchd.core.ledger import Ledger
from ocwatchd.core.limits import Certainty, ErrorFacts, LimitEvent, LimitKind, ModelRef, Scope, Verdict
from ocwatchd.core.messages import Configured, Heard, MoveEnded, Note, Refused, Surveyed
from ocwatchd.core.moves import MoveOutcome
from ocwatchd.core.policy import Policy
from ocwatchd.core.views import Door, SessionState, SessionView, TcpAddress
from tests.support.rules import builtin

T = 1_800_000_000.5  # a millisecond clock: not a whole second
A, B, C = (ModelRef("p", name) for name in "abc")
POLICY = Policy(chains={"p/a": ("p/b", "p/c")})
DOOR = Door(TcpAddress("127.0.0.1", 4096), 1)
LIMITED = "Rate limit reached for requests"
SURE = Verdict(Certainty.SURE, LimitKind.RATE_LIMIT, Scope.MODEL, "rule")


def engine(policy=POLICY, ledger=None):
    numbers = count(1)
    return Engine(policy, builtin(), ledger or Ledger(), lambda: f"claim{next(numbers)}")


def refused(at=0.0, model=A, session="ses_1", verdict=SURE, hint=None, small=False, live=True, reason=LIMITED):
    event = LimitEvent(T + at, model.provider, model.model, session, "build", small, None, verdict, hint, reason)
    return Refused(event, live)


def retrying(at=0.1, wait=3600.0, model=A, attempt=1, session="ses_1", message=LIMITED, **more):
    view = SessionView(
        session=session,
        directory="/p",
        door=DOOR,
        state=SessionState.RETRY,
        seen=T + at,
        attempt=attempt,
        next_at=T + wait,
        message=message,
        model=model,
        agent="build",
        user_message="msg_1",
        prompt_model=model,
        answer="msg_2",
    )
    return replace(view, **more)


def failed(at=0.1, error=None, **more):
    facts = error or ErrorFacts(message=LIMITED, status=429, name="APIError")
    return retrying(at, state=SessionState.ERROR, attempt=None, next_at=None, last_error=facts, answer_ended=T, **more)


def seen(view, session="ses_1"):
    return Surveyed(session, view.model, (view,), 1)


def of(kind, effects):
    return [effect for effect in effects if isinstance(effect, kind)]


def notes(effects):
    return [note.what for note in of(Note, effects)]


def feed(brain, *messages, at=0.2):
    return [effect for message in messages for effect in brain.handle(message, T + at)]


def end(move, result, view=None, **more):
    return MoveEnded(move.claim, move.order, MoveOutcome(result, view=view, **more))


def heard(at=0.0, facts=None, model="p/a"):
    return Heard("ses_1", T + at, model, facts)


def configured(**changes):
    return Configured(replace(POLICY, **changes), builtin())


def fields(what, effects):
    (note,) = [note for note in of(Note, effects) if note.what == what]
    return note.fields
