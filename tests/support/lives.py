"""Generate histories with the real Engine, the real Journal and a simulated OpenCode.

life = Life(path, {"p/a": ["p/b", "p/c"]}) life.refuse("p/a", "ses_1", wait=3600)      # the limit is logged, the
endpoint shows it, and the session is moved life.pass_time(600)
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path

from ocwatchd.core.domain.cooldowns import Cooldowns, cleared_line
from ocwatchd.core.domain.moves import MoveOutcome, MoveResult
from ocwatchd.core.domain.snapshot import Endpoint, SessionSnapshot, SessionState, TcpAddress
from ocwatchd.core.domain.types import Certainty, Hint, LimitEvent, LimitKind, ModelRef, ResetSource, Scope, Verdict
from ocwatchd.core.engine.engine import Engine
from ocwatchd.core.engine.messages import (
    Aborted,
    BlacklistChanged,
    Effect,
    Message,
    Move,
    MoveEnded,
    Note,
    Probe,
    Probed,
    Refused,
    Tick,
)
from ocwatchd.core.policy import Policy
from ocwatchd.state.journal import Journal
from tests.support.rules import builtin

START = 1_795_341_600.5
WORDS = {
    LimitKind.RATE_LIMIT: "This request would exceed your organization's rate limit of 80,000 input tokens per minute",
    LimitKind.QUOTA: "You have exhausted your capacity on this model. Your quota will reset after 2h41m0s",
    LimitKind.OVERLOADED: "Overloaded",
    LimitKind.BILLING: "Insufficient credits. Add more at the provider's site",
}
STATUS = {LimitKind.OVERLOADED: 529, LimitKind.BILLING: 402}


class Life:
    """One run of a daemon, with a clock that only the test advances. `now` is in epoch seconds."""

    def __init__(self, path: Path, chains: dict[str, list[str]], start: float = START, seed: int = 1) -> None:
        self.time = start
        self.journal = Journal(path, self)
        numbers = count(1)
        policy = Policy(chains={name: tuple(chain) for name, chain in chains.items()})
        self.brain = Engine(policy, builtin(), Cooldowns(), lambda: f"claim{next(numbers):07d}")
        self.snapshots: dict[str, SessionSnapshot] = {}
        self.outcomes: dict[str, Callable[[], MoveResult]] = {}
        self.draw = random.Random(seed)

    def now(self) -> float:
        return self.time

    def pass_time(self, seconds: float) -> None:
        """Let time pass, and wake the engine whenever it has asked for that."""
        end = self.time + seconds
        while (wake := self.brain.next_wake()) is not None and wake <= end:
            self.time = max(wake, self.time)
            self.tell(Tick())
        self.time = end

    def refuse(
        self,
        model: str,
        session: str,
        wait: float | None = None,
        kind: LimitKind = LimitKind.RATE_LIMIT,
        scope: Scope = Scope.MODEL,
        attempt: int = 1,
        small: bool = False,
        header: bool = True,
    ) -> None:
        """Refuse a request. `wait` is the reported wait in seconds; without one (None), OpenCode retries."""
        ref, words = ModelRef.parse(model), WORDS[kind]
        source = (ResetSource.RETRY_AFTER, "the Retry-After header") if header else (ResetSource.TEXT, "try again in")
        hint = None if wait is None else Hint(self.time + wait, wait, *source)
        verdict = Verdict(Certainty.SURE, kind, scope, kind.value.replace("_", "-"), "the text matches this rule")
        event = LimitEvent(
            self.time, ref.provider, ref.model, session, "build", small, STATUS.get(kind, 429), verdict, hint, words,
            "/home/dev/.local/share/opencode/log/opencode.log", self.draw.randrange(1 << 20),
        )  # fmt: skip
        if not small:
            coming = self.time + (wait if wait is not None else 2.0 * 2 ** (attempt - 1))
            self.snapshots[session] = SessionSnapshot(
                session=session,
                directory="/home/dev/project",
                endpoint=Endpoint(TcpAddress("127.0.0.1", 4096), 4711),
                state=SessionState.RETRY,
                attempt=attempt,
                next_at=coming,
                message=words,
                model=ref,
                agent="build",
                user_message="msg_1",
                prompt_model=ref,
                answer="msg_2",
                version="1.18.33",
            )
        self.time += 0.12
        self.tell(Refused(event, True))

    def answer(self, session: str) -> None:
        """Complete the answer and the turn of the session, and show this to the engine."""
        self.snapshots[session] = replace(
            self.snapshots[session],
            state=SessionState.IDLE,
            attempt=None,
            next_at=None,
            answer_started=self.time - 5,
            answer_ended=self.time,
            answer_completed=True,
        )
        self.tell(Probed(session, None, (self.look(session),), 1))

    def moved(self, session: str, model: str) -> bool:
        """Return whether the session is now on another model."""
        return str(self.snapshots[session].model) != model

    def clear(self, model: str) -> None:
        """Clear the model as a user does with `ocwatch clear`."""
        kept = tuple(entry for entry in self.brain.cooldowns.entries() if str(entry.model) != model)
        self.journal.append({**cleared_line(ModelRef.parse(model)), "by": "hand"})
        self.tell(BlacklistChanged(kept, self.time))

    def abort(self, session: str) -> None:
        """Stop the turn, as the user does."""
        self.tell(Aborted(session, self.time))

    def look(self, session: str) -> SessionSnapshot:
        snapshot = self.snapshots[session]
        if snapshot.next_at is not None and snapshot.next_at < self.time:  # OpenCode has sent its next attempt
            snapshot = self.snapshots[session] = replace(snapshot, state=SessionState.BUSY, attempt=None, next_at=None)
        return replace(snapshot, seen=self.time)

    def tell(self, message: Message) -> None:
        """Pass a message to the engine, and carry out all effects that follow from it."""
        todo = self.brain.handle(message, self.time)
        while todo:
            todo = [more for effect in todo for more in self.do(effect)]

    def do(self, effect: Effect) -> list[Effect]:
        match effect:
            case Note():
                self.journal.append({"what": effect.what, **effect.fields}, effect.durable)
            case Probe(session, model) if session is not None:
                self.time += 0.02
                found = (self.look(session),) if session in self.snapshots else ()
                return self.brain.handle(Probed(session, model, found, 1), self.time)
            case Move():
                return self.move(effect)
        return []

    def move(self, move: Move) -> list[Effect]:
        target, snapshot = str(move.order.target.model), move.order.snapshot
        result = self.outcomes.get(target, lambda: MoveResult.MOVED)()
        seconds = 0.25 + self.draw.expovariate(1 / 0.3)
        self.time += seconds + 0.1
        if result is MoveResult.MOVED:
            landed = {"state": SessionState.BUSY, "model": move.order.target.model, "attempt": None, "next_at": None}
            self.snapshots[snapshot.session] = replace(snapshot, **landed)
        after = self.look(snapshot.session)
        if result is MoveResult.TARGET_LIMITED:
            after = replace(
                after,
                state=SessionState.RETRY,
                model=move.order.target.model,
                next_at=self.time + 5400,
                message=WORDS[LimitKind.RATE_LIMIT],
            )
            self.snapshots[snapshot.session] = after
        moved = result is MoveResult.MOVED
        why = f"{target} answers" if moved else "did not answer"
        end = MoveEnded(move.claim, move.order, MoveOutcome(result, why, after, seconds=seconds if moved else None))
        return self.brain.handle(end, self.time)


MODELS = (
    "anthropic/claude-sonnet-4-5", "github-copilot/claude-sonnet-4", "openrouter/qwen/qwen3-coder:free",
    "openai/gpt-5", "google/gemini-2.5-pro",
)  # fmt: skip
CHAINS = {
    MODELS[0]: ["github-copilot/claude-sonnet-4", "openai/gpt-5", "zhipuai/glm-4.6"],
    MODELS[1]: ["openai/gpt-5", "zhipuai/glm-4.6"],
    MODELS[2]: ["zhipuai/glm-4.6"],
    MODELS[3]: ["google/gemini-2.5-pro", "zhipuai/glm-4.6"],
    MODELS[4]: ["zhipuai/glm-4.6", "ollama/gpt-oss:120b"],
}


def busy_days(path: Path, days: float = 7, start: float = START, seed: int = 1) -> Life:
    """Return a history with every common event: bursts by day, quotas, overload, waits, failing fallbacks, aborts."""
    life = Life(path, CHAINS, start, seed)
    draw = life.draw
    results = (MoveResult.MOVED,) * 12 + (MoveResult.TARGET_LIMITED, MoveResult.FAILED)
    life.outcomes = dict.fromkeys(("openai/gpt-5", "google/gemini-2.5-pro"), lambda: draw.choice(results))
    end = start + days * 86400
    number = 0
    while life.time < end:
        hour = life.time % 86400 / 3600
        life.pass_time(draw.expovariate(1 / (2400 if 7 < hour < 21 else 20000)))
        number += 1
        session, model = f"ses_{number:04d}{draw.randrange(16**12):012x}", draw.choices(MODELS, (6, 4, 3, 2, 1))[0]
        match draw.random():
            case chance if chance < 0.30:  # a short wait that is left to OpenCode
                life.refuse(model, session, wait=draw.uniform(2, 25))
                life.pass_time(30)
                life.answer(session)
            case chance if chance < 0.65:
                life.refuse(model, session, wait=draw.uniform(120, 5400))
            case chance if chance < 0.75:
                life.refuse(model, session, draw.uniform(3600, 4 * 3600), LimitKind.QUOTA, header=False)
            case chance if chance < 0.90:
                for attempt in range(1, draw.randrange(2, 6)):
                    if attempt == 1 or not life.moved(session, model):
                        life.refuse(model, session, None, LimitKind.OVERLOADED, attempt=attempt)
                        life.pass_time(2.0 * 2 ** (attempt - 1))
                life.answer(session)
            case chance if chance < 0.94:
                life.refuse(model, session, wait=25)
                life.pass_time(4)
                life.abort(session)
            case chance if chance < 0.97:
                life.refuse(model, session, 60, small=True)
            case _:
                life.refuse(model, session, None, LimitKind.BILLING)
                life.pass_time(draw.uniform(600, 7200))
                life.clear(model)
    return life
