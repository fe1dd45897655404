"""An engine with a policy and three models, and helpers that build its messages and select its effects."""

from __future__ import annotations

from dataclasses import replace
from itertools import count

from ocwatchd.core.domain.cooldowns import Cooldowns
from ocwatchd.core.domain.moves import MoveOutcome
from ocwatchd.core.domain.snapshot import Endpoint, SessionSnapshot, SessionState, TcpAddress
from ocwatchd.core.domain.types import Certainty, ErrorDetails, LimitEvent, LimitKind, ModelRef, Scope, Verdict
from ocwatchd.core.engine.engine import Engine
from ocwatchd.core.engine.messages import Configured, MoveEnded, Note, Probed, Refused, TroubleReported
from ocwatchd.core.policy import Policy
from tests.support.rules import builtin

T = 1_800_000_000.5  # in milliseconds, as real clocks, and not a whole second
A, B, C = (ModelRef("p", name) for name in "abc")
POLICY = Policy(chains={"p/a": ("p/b", "p/c")})
DOOR = Endpoint(TcpAddress("127.0.0.1", 4096), 1)
LIMITED = "Rate limit reached for requests"
SURE = Verdict(Certainty.SURE, LimitKind.RATE_LIMIT, Scope.MODEL, "rule")


def engine(policy=POLICY, cooldowns=None):
    numbers = count(1)
    return Engine(policy, builtin(), cooldowns or Cooldowns(), lambda: f"claim{next(numbers)}")


def refused(at=0.0, model=A, session="ses_1", verdict=SURE, hint=None, small=False, live=True, reason=LIMITED):
    event = LimitEvent(T + at, model.provider, model.model, session, "build", small, None, verdict, hint, reason)
    return Refused(event, live)


def retrying(at=0.1, wait=3600.0, model=A, attempt=1, session="ses_1", message=LIMITED, **more):
    snapshot = SessionSnapshot(
        session=session,
        directory="/p",
        endpoint=DOOR,
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
    return replace(snapshot, **more)


def failed(at=0.1, error=None, **more):
    facts = error or ErrorDetails(message=LIMITED, status=429, name="APIError")
    return retrying(at, state=SessionState.ERROR, attempt=None, next_at=None, last_error=facts, answer_ended=T, **more)


def seen(snapshot, session="ses_1"):
    return Probed(session, snapshot.model, (snapshot,), 1)


def of(kind, effects):
    return [effect for effect in effects if isinstance(effect, kind)]


def notes(effects):
    return [note.what for note in of(Note, effects)]


def feed(brain, *messages, at=0.2):
    return [effect for message in messages for effect in brain.handle(message, T + at)]


def end(move, result, snapshot=None, **more):
    return MoveEnded(move.claim, move.order, MoveOutcome(result, snapshot=snapshot, **more))


def heard(at=0.0, facts=None, model="p/a"):
    return TroubleReported("ses_1", T + at, model, facts)


def configured(**changes):
    return Configured(replace(POLICY, **changes), builtin())


def fields(what, effects):
    (note,) = [note for note in of(Note, effects) if note.what == what]
    return note.fields
