"""Made-up histories by the real thing: the real Engine decides, the real Journal writes; only OpenCode is played.

life = Life(path, {"p/a": ["p/b", "p/c"]})
life.refuse("p/a", "ses_1", wait=3600)      # the log tells, the door shows, the session is moved
life.pass_time(600)
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path

from ocwatchd.core import notes
from ocwatchd.core.engine import Engine
from ocwatchd.core.ledger import Ledger
from ocwatchd.core.limits import Certainty, Hint, LimitEvent, LimitKind, ModelRef, Scope, ToldBy, Verdict
from ocwatchd.core.messages import (
    Aborted,
    Effect,
    LookUp,
    Message,
    Move,
    MoveEnded,
    Note,
    Refused,
    RegisterChanged,
    Surveyed,
    Tick,
)
from ocwatchd.core.moves import MoveOutcome, MoveResult
from ocwatchd.core.policy import Policy
from ocwatchd.core.views import Door, SessionState, SessionView, TcpAddress
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
    """One daemon's life with one clock that only the test moves. `now` is epoch seconds."""

    def __init__(self, path: Path, chains: dict[str, list[str]], start: float = START, seed: int = 1) -> None:
        self.time = start
        self.journal = Journal(path, self)
        numbers = count(1)
        policy = Policy(chains={name: tuple(chain) for name, chain in chains.items()})
        self.brain = Engine(policy, builtin(), Ledger(), lambda: f"claim{next(numbers):07d}")
        self.views: dict[str, SessionView] = {}
        self.outcomes: dict[str, Callable[[], MoveResult]] = {}
        self.draw = random.Random(seed)

    def now(self) -> float:
        return self.time

    def pass_time(self, seconds: float) -> None:
        """Let time pass; what the brain wants to look at meanwhile is looked at."""
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
        """A request is refused; `wait` is what the provider tells (None: nothing, OpenCode retries in 2 s or more)."""
        ref, words = ModelRef.parse(model), WORDS[kind]
        source = (ToldBy.RETRY_AFTER, "the Retry-After header") if header else (ToldBy.TEXT, "try again in")
        hint = None if wait is None else Hint(self.time + wait, wait, *source)
        verdict = Verdict(Certainty.SURE, kind, scope, kind.value.replace("_", "-"), "the words name it")
        event = LimitEvent(
            self.time, ref.provider, ref.model, session, "build", small, STATUS.get(kind, 429), verdict, hint, words,
            "/home/dev/.local/share/opencode/log/opencode.log", self.draw.randrange(1 << 20),
        )  # fmt: skip
        if not small:
            coming = self.time + (wait if wait is not None else 2.0 * 2 ** (attempt - 1))
            self.views[session] = SessionView(
                session=session,
                directory="/home/dev/project",
                door=Door(TcpAddress("127.0.0.1", 4096), 4711),
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
        """The session's model answers and the turn ends; the brain looks."""
        self.views[session] = replace(
            self.views[session],
            state=SessionState.IDLE,
            attempt=None,
            next_at=None,
            answer_started=self.time - 5,
            answer_ended=self.time,
            answer_completed=True,
        )
        self.tell(Surveyed(session, None, (self.look(session),), 1))

    def moved(self, session: str, model: str) -> bool:
        """Whether the session is on another model by now."""
        return str(self.views[session].model) != model

    def clear(self, model: str) -> None:
        """A person clears the model, as `ocwatch clear` does."""
        kept = tuple(entry for entry in self.brain.ledger.entries() if str(entry.model) != model)
        note = notes.cleared(ModelRef.parse(model))
        self.journal.append({"what": note.what, **note.fields, "by": "hand"})
        self.tell(RegisterChanged(kept, self.time))

    def abort(self, session: str) -> None:
        """The user stops the turn."""
        self.tell(Aborted(session, self.time))

    def look(self, session: str) -> SessionView:
        view = self.views[session]
        if view.next_at is not None and view.next_at < self.time:  # OpenCode has asked again
            view = self.views[session] = replace(view, state=SessionState.BUSY, attempt=None, next_at=None)
        return replace(view, seen=self.time)

    def tell(self, message: Message) -> None:
        """Everything that follows, until nothing does."""
        todo = self.brain.handle(message, self.time)
        while todo:
            todo = [more for effect in todo for more in self.do(effect)]

    def do(self, effect: Effect) -> list[Effect]:
        match effect:
            case Note():
                self.journal.append({"what": effect.what, **effect.fields}, effect.durable)
            case LookUp(session, model) if session is not None:
                self.time += 0.02
                found = (self.look(session),) if session in self.views else ()
                return self.brain.handle(Surveyed(session, model, found, 1), self.time)
            case Move():
                return self.move(effect)
        return []

    def move(self, move: Move) -> list[Effect]:
        target, view = str(move.order.target.model), move.order.view
        result = self.outcomes.get(target, lambda: MoveResult.MOVED)()
        seconds = 0.25 + self.draw.expovariate(1 / 0.3)
        self.time += seconds + 0.1
        if result is MoveResult.MOVED:
            landed = {"state": SessionState.BUSY, "model": move.order.target.model, "attempt": None, "next_at": None}
            self.views[view.session] = replace(view, **landed)
        after = self.look(view.session)
        if result is MoveResult.TARGET_LIMITED:
            after = replace(
                after,
                state=SessionState.RETRY,
                model=move.order.target.model,
                next_at=self.time + 5400,
                message=WORDS[LimitKind.RATE_LIMIT],
            )
            self.views[view.session] = after
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
    """A life with all that happens to people: bursts by day, quotas, overload, waits, failing targets, aborts."""
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
            case chance if chance < 0.30:  # a short wait that OpenCode sits out
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
