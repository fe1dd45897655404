"""A simulated OpenCode with users and a clock, for the real engine. The engine's requests are answered later, in any
order.

    world = World()
    world.refuse(0, wait=3600)
    world.answer(0)           # the probe that followed
    world.end_move(0, "moved")
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path

from ocwatchd.core.domain.cooldowns import Cooldown, Cooldowns
from ocwatchd.core.domain.moves import MoveOutcome, MoveResult
from ocwatchd.core.domain.snapshot import Endpoint, RunningTool, SessionSnapshot, SessionState, TcpAddress
from ocwatchd.core.domain.timeline import Timeline
from ocwatchd.core.domain.types import (
    Certainty,
    ErrorDetails,
    Hint,
    LimitEvent,
    LimitKind,
    ModelRef,
    ResetSource,
    Scope,
    Verdict,
)
from ocwatchd.core.engine.engine import Engine
from ocwatchd.core.engine.messages import (
    Aborted,
    Acted,
    Answer,
    Asked,
    BlacklistChanged,
    ClockSet,
    Configured,
    Effect,
    Failure,
    Message,
    Move,
    MoveEnded,
    Note,
    Probe,
    Probed,
    Refused,
    Shown,
    TakenOver,
    Tick,
    TroubleReported,
    Verified,
)
from ocwatchd.core.policy import Mode, Policy
from ocwatchd.daemon.recovery import previous_run
from ocwatchd.state.journal import Journal
from tests.support.rules import builtin

START = 1_800_000_000.5
MODELS = tuple(ModelRef("p", name) for name in "abc")
POLICY = Policy(chains={"p/a": ("p/b", "p/c"), "p/b": ("p/c", "p/a")})
WORDS = "Rate limit reached for requests"
SURE = Verdict(Certainty.SURE, LimitKind.RATE_LIMIT, Scope.MODEL, "rule")
PORTS = (TcpAddress("127.0.0.1", 4096), TcpAddress("127.0.0.1", 4097))
STOPPED = ErrorDetails(message="The operation was aborted.", name="MessageAbortedError")
MOST_WAITING = 20
"""Maximum number of probes that are open at the same time; further ones are dropped."""


class Broken(AssertionError):
    """The engine broke an invariant."""


@dataclass
class Played:
    """The state of a session in the simulated OpenCode."""

    snapshot: SessionSnapshot

    def becomes(self, state: SessionState, **more: object) -> None:
        """Change the state that the session shows, and reset the fields that belong to other states."""
        empty: dict[str, object] = {
            "attempt": None,
            "next_at": None,
            "message": "",
            "last_error": None,
            "answer_ended": None,
            "answer_completed": False,
            "answer_began": False,
            "running": (),
            "asking": False,
        }
        self.snapshot = replace(self.snapshot, state=state, **(empty | more))


class World:
    """Sessions 0 and 1 of OpenCode 1, and session 2 of OpenCode 2. Every method is one event.

    Raises:
        Broken: by any method, if the engine breaks an invariant.
    """

    def __init__(self, make: Callable[..., Engine] = Engine) -> None:
        """`make` creates the engine of each run of the daemon."""
        self.time = START
        self.wall = 0.0
        self._timeline = Timeline()
        self._timeline.read(self.now(), self.time)
        self._make, self._numbers, self._ids = make, count(1), count(1)
        self.policy = POLICY
        self.open = True
        """Whether OpenCode's endpoints can be reached."""
        self.engine = self._engine(())
        self.sessions = [Played(self._begin(number)) for number in range(3)]
        self.probes: list[Probe] = []
        self.moves: list[Move] = []
        self.questions: dict[int, Answer | None] = {}
        self.made: list[int] = []
        """Requests for which the plugin has switched the model but has not yet reported the result."""
        self.lines: list[dict[str, object]] = []
        self.effects: list[list[Effect]] = []
        self.claims: dict[str, str] = {}
        """The session of each claim that is open in this run of the daemon."""
        self.verified: set[str] = set()
        self.resumed: set[tuple[str, str | None]] = set()
        self._shown: dict[str, Shown] = {}

    def now(self) -> float:
        """Return epoch seconds according to the machine's clock, which may be wrong."""
        return self.time + self.wall

    def _engine(self, entries: Iterable[Cooldown]) -> Engine:
        return self._make(self.policy, builtin(), Cooldowns(entries), lambda: f"claim{next(self._numbers)}")

    def _begin(self, number: int) -> SessionSnapshot:
        return SessionSnapshot(
            session=f"ses_{number}",
            directory="/p",
            endpoint=Endpoint(PORTS[number // 2], 1 + number // 2, generation=1 + number // 2),
            state=SessionState.BUSY,
            seen=START,
            model=MODELS[0],
            prompt_model=MODELS[0],
            agent="build",
            user_message=f"msg_{next(self._ids)}",
            answer=f"msg_{next(self._ids)}",
            switchable=number == 2,
        )

    # ---- events

    def tell(self, message: Message) -> None:
        """Pass a message to the engine, as the daemon does, and record its effects."""
        step = self._timeline.read(self.now(), self.time)
        if step is not None:
            self._take(self.engine.handle(ClockSet(step), self.now()))
        self._take(self.engine.handle(message, self.now()))

    def refuse(self, number: int, *, wait: float, known: bool = True, logged: bool = True) -> None:
        """Refuse OpenCode's attempt; OpenCode will retry. With `known`, there is a reset time; with `logged`, the log
        contains the refusal immediately.
        """
        played = self.sessions[number]
        model = played.snapshot.model
        attempt = (played.snapshot.attempt or 0) + 1
        played.becomes(
            SessionState.RETRY, attempt=attempt, next_at=self.now() + (wait if known else 2.0), message=WORDS
        )
        if logged and model is not None:
            hint = Hint(self.now() + wait, wait, ResetSource.RETRY_AFTER, "header") if known else None
            event = LimitEvent(
                self.now(), model.provider, model.model, f"ses_{number}", "build", False, 429, SURE, hint, WORDS
            )
            self.tell(Refused(event, True))

    def hear(self, number: int) -> None:
        """Report a retry through an event stream."""
        self.tell(TroubleReported(f"ses_{number}", self.now()))

    def give_up(self, number: int) -> None:
        """End the turn with the error."""
        played = self.sessions[number]
        error = ErrorDetails(message=WORDS, status=429, name="APIError")
        played.becomes(SessionState.ERROR, last_error=error, answer_ended=self.now())
        self.hear(number)

    def work(self, number: int, *, tool: bool, question: bool) -> None:
        """Repeat the request and receive an answer, which may call a tool or ask the user a question."""
        running = (RunningTool("bash"),) if tool else ()
        self.sessions[number].becomes(SessionState.BUSY, answer_began=True, running=running, asking=question)

    def hold_up(self, number: int) -> None:
        """Run a tool at the same time as the refused attempt."""
        played = self.sessions[number]
        if played.snapshot.state in (SessionState.RETRY, SessionState.BUSY):  # the end of a turn ends its tools
            played.snapshot = replace(played.snapshot, running=(RunningTool("bash"),))

    def finish(self, number: int) -> None:
        """End the turn successfully."""
        self.sessions[number].becomes(
            SessionState.IDLE, answer_completed=True, answer_began=True, answer_ended=self.now()
        )

    def stop(self, number: int) -> None:
        """Stop the turn, as the user does."""
        played = self.sessions[number]
        played.becomes(SessionState.ERROR, last_error=STOPPED, answer_ended=self.now())
        self.tell(Aborted(f"ses_{number}", self.now()))

    def prompt(self, number: int) -> None:
        """Send another prompt as the user."""
        played = self.sessions[number]
        played.becomes(SessionState.BUSY)
        played.snapshot = replace(
            played.snapshot, user_message=f"msg_{next(self._ids)}", answer=f"msg_{next(self._ids)}"
        )

    def move_by_hand(self, number: int) -> None:
        """Move the session with a command, as a user does."""
        self.tell(TakenOver(f"ses_{number}"))

    def clear(self, *models: int) -> None:
        """Clear these models as a user does."""
        gone = {MODELS[model] for model in models}
        kept = [entry for entry in self.engine.cooldowns.entries() if entry.model not in gone]
        self.tell(BlacklistChanged(tuple(kept), self.now()))

    def block(self, model: int, seconds: float) -> None:
        """Block a model as a user does."""
        theirs = Cooldowns(self.engine.cooldowns.entries())
        theirs.block(MODELS[model], self.now() + seconds, self.now())
        self.tell(BlacklistChanged(theirs.entries(), self.now()))

    def configure(self, mode: Mode, *, wait: bool) -> None:
        """Edit the configuration as a user does."""
        self.policy = replace(POLICY, mode=mode, wait=wait)
        self.tell(Configured(self.policy, builtin()))

    def pass_time(self, seconds: float) -> None:
        """Let time pass, at most until the engine wants to wake up."""
        end, wake = self.time + seconds, self.engine.next_wake()
        self.time = end if wake is None else min(max(wake - self.wall, self.time), end)
        self.tell(Tick())

    def set_clock(self, seconds: float) -> None:
        """Set the machine's clock forward or back."""
        self.wall += seconds
        self.tell(Tick())

    def answer(self, index: int, *, found: bool = True, failing: int = 0) -> None:
        """Answer one of the open probes."""
        if not self.probes:
            return
        found = found and self.open
        probe = self.probes.pop(index % len(self.probes))
        shown = [self._look(number) for number in range(3) if probe.session in (None, f"ses_{number}")]
        if probe.session is None:
            shown = [snapshot for snapshot in shown if snapshot.stuck]
        self.tell(Probed(probe.session, probe.model, tuple(shown) if found else (), int(found), failing=failing))

    def close(self, *, again: bool) -> None:
        """Close the endpoints, or open them `again`."""
        self.open = again

    def _look(self, number: int) -> SessionSnapshot:
        played = self.sessions[number]
        if played.snapshot.next_at is not None and played.snapshot.next_at < self.now():
            played.becomes(SessionState.BUSY)  # OpenCode has sent its next attempt
        return replace(played.snapshot, seen=self.now())

    def end_move(self, index: int, result: MoveResult, *, stranded: bool = False, shows: bool = True) -> None:
        """End one of the running moves."""
        if not self.moves:
            return
        move = self.moves.pop(index % len(self.moves))
        number = int(move.order.session.removeprefix("ses_"))
        stranded = stranded and result is MoveResult.FAILED
        self._carry_out(number, move, result, stranded=stranded)
        after = self._look(number) if shows and not stranded else None
        self.tell(MoveEnded(move.claim, move.order, MoveOutcome(result, "played", after, stranded=stranded)))

    def _carry_out(self, number: int, move: Move, result: MoveResult, *, stranded: bool) -> None:
        played, target = self.sessions[number], move.order.target.model
        again = {"answer": f"msg_{next(self._ids)}", "model": target, "prompt_model": target}
        match result:
            case MoveResult.MOVED:
                turn = move.order.session, move.order.snapshot.answer
                if turn in self.resumed:
                    raise Broken(f"{turn} was run again twice")
                self.resumed.add(turn)
                played.becomes(SessionState.BUSY, answer_began=True, **again)
            case MoveResult.TARGET_LIMITED:
                played.becomes(SessionState.RETRY, attempt=1, next_at=self.now() + 3600, message=WORDS, **again)
            case MoveResult.SWITCHED:
                played.snapshot = replace(played.snapshot, prompt_model=target)
            case MoveResult.USER_TOOK_OVER:
                played.becomes(SessionState.ERROR, last_error=STOPPED, answer_ended=self.now())
            case MoveResult.FAILED if stranded:
                played.becomes(SessionState.ERROR, last_error=STOPPED, answer_ended=self.now())

    def use_switched(self, number: int) -> None:
        """Make OpenCode use the model to which the session was switched. The model answers."""
        played = self.sessions[number]
        if played.snapshot.prompt_model != played.snapshot.model:
            played.becomes(SessionState.BUSY, answer_began=True, model=played.snapshot.prompt_model)
            self.hear(number)

    def ask(self, delay: float | None) -> None:
        """Ask for a decision about a refused attempt, as the plugin in OpenCode 2 does."""
        played, number = self.sessions[2], next(self._ids)
        played.becomes(SessionState.BUSY)
        facts = ErrorDetails(message=WORDS, status=429, name="APIError")
        hint = None if delay is None else Hint(self.now() + delay, delay, ResetSource.RETRY_AFTER, "header")
        failure = Failure(
            "ses_2", played.snapshot.model, "build", self.now(), facts, hint, live=True, final=delay is None
        )
        self.questions[number] = None
        self.tell(Asked(number, failure, 1, delay, 2, "/p"))

    def act(self, index: int, *, done: bool) -> None:
        """Report the plugin's action. A question left to OpenCode is closed."""
        if not self.questions:
            return
        number = list(self.questions)[index % len(self.questions)]
        answer = self.questions.pop(number)
        if answer is not None and answer.target is not None and done:
            self.sessions[2].snapshot = replace(self.sessions[2].snapshot, prompt_model=answer.target.model)
            self.made.append(number)
        self.tell(Acted(number, done, "played"))

    def report(self, index: int, *, answers: bool) -> None:
        """Report the result of a move that the plugin made."""
        if self.made:
            self.tell(Verified(self.made.pop(index % len(self.made)), answers))

    def restart(self, *, killed: bool) -> None:
        """End the daemon and start it again. If `killed`, running moves fail and their turns stay stopped."""
        last = self.engine
        for move in list(self.moves):
            number = int(move.order.session.removeprefix("ses_"))
            self._carry_out(number, move, MoveResult.FAILED if killed else MoveResult.MOVED, stranded=killed)
        self.moves, self.probes, self.questions, self.made, self.claims = [], [], {}, [], {}
        self.engine = self._engine(last.cooldowns.entries())
        before = previous_run(self.lines, self.now() - 3600, {}, self.now())
        self.engine.cooldowns.lift(before.cleared)
        self.engine.remember(before.refused, self._shown.values(), self.now())
        self.engine.remember_origins(before.origins)
        self.engine.remember_resumes(before.resumes)
        for session, parked in before.parked.items():
            self._take(self.engine.recall_parked(session, parked, self.now()))
        for session, claims in before.unfinished.items():
            self._take(self.engine.resume(session, claims, self.now()))
        for session in before.unhandled:
            self._take(self.engine.probe_session(session, self.now(), missed=session in before.missed))

    # ---- effects of the engine

    def _take(self, effects: list[Effect]) -> None:
        self.effects.append(effects)
        for effect in effects:
            match effect:
                case Note():
                    self._note(effect)
                case Probe() if len(self.probes) < MOST_WAITING:
                    self.probes.append(effect)
                case Move():
                    self._check(effect)
                    self.moves.append(effect)
                case Answer(number):
                    self.questions[number] = effect
                case Shown():
                    self._shown[effect.session] = effect
                case _:
                    pass

    def _note(self, note: Note) -> None:
        self.lines.append(json.loads(Journal(Path("/none"), self).line({"what": note.what, **note.fields})))
        claim, session = str(note.fields.get("claim")), str(note.fields.get("session"))
        if note.what == "claim":
            if session in self.claims.values():
                raise Broken(f"two claims are open for {session}")
            self.claims[claim] = session
        elif note.what in frozenset(MoveResult):
            self.claims.pop(claim, None)
        if note.what == MoveResult.MOVED:
            if claim in self.verified:
                raise Broken(f"{claim} is reported as moved a second time")
            self.verified.add(claim)

    def _check(self, move: Move) -> None:
        order, shown = move.order, move.order.snapshot
        if self.claims.get(move.claim) != order.session:
            raise Broken(f"{move} was not claimed first")
        if (shown.tool_running or shown.asking) and not shown.switchable:
            raise Broken(f"{order.session} is moved during a running tool or an open question")
        if not (shown.stuck or order.looping or order.own_abort or shown.switchable):
            raise Broken(f"{order.session} is moved although it is not stuck: {shown.state}")


ENDS = tuple(MoveResult)


def happen(world: World, draw: random.Random) -> str:
    """Make one randomly drawn event happen, and return its name."""
    number = draw.randrange(3)
    name, happens = draw.choice(_THINGS)
    happens(world, number, draw)
    return name


_THINGS: tuple[tuple[str, Callable[[World, int, random.Random], None]], ...] = (
    ("refuse", lambda w, n, d: w.refuse(n, wait=d.choice((5.0, 300.0, 7200.0)), known=d.random() < 0.7)),
    ("refuse", lambda w, n, d: w.refuse(n, wait=d.choice((5.0, 300.0, 7200.0)), known=d.random() < 0.7)),
    ("refuse unseen", lambda w, n, d: w.refuse(n, wait=3600.0, logged=False)),
    ("hear", lambda w, n, d: w.hear(n)),
    ("give up", lambda w, n, d: w.give_up(n)),
    ("work", lambda w, n, d: w.work(n, tool=d.random() < 0.5, question=d.random() < 0.2)),
    ("hold up", lambda w, n, d: w.hold_up(n)),
    ("finish", lambda w, n, d: w.finish(n)),
    ("stop", lambda w, n, d: w.stop(n)),
    ("prompt", lambda w, n, d: w.prompt(n)),
    ("move by hand", lambda w, n, d: w.move_by_hand(n)),
    ("clear", lambda w, n, d: w.clear(*d.sample(range(3), d.randrange(1, 4)))),
    ("block", lambda w, n, d: w.block(n, d.choice((60.0, 3600.0)))),
    ("configure", lambda w, n, d: w.configure(d.choice(tuple(Mode)), wait=d.random() < 0.5)),
    ("pass time", lambda w, n, d: w.pass_time(d.choice((0.1, 3.0, 60.0, 3600.0)))),
    ("pass time", lambda w, n, d: w.pass_time(d.choice((0.1, 3.0, 60.0, 3600.0)))),
    ("set the clock", lambda w, n, d: w.set_clock(d.choice((-3600.0, -5.0, 5.0, 3600.0)))),
    *[("answer", lambda w, n, d: w.answer(d.randrange(99), found=d.random() < 0.9, failing=int(d.random() < 0.1)))] * 6,
    *[("end a move", lambda w, n, d: w.end_move(d.randrange(99), d.choice(ENDS), stranded=d.random() < 0.5))] * 2,
    ("verify a move", lambda w, n, d: w.end_move(d.randrange(99), MoveResult.MOVED)),
    ("close", lambda w, n, d: w.close(again=d.random() < 0.7)),
    ("use what was switched to", lambda w, n, d: w.use_switched(2)),
    ("ask", lambda w, n, d: w.ask(d.choice((None, 2.0, 30.0, 7200.0)))),
    ("act", lambda w, n, d: w.act(d.randrange(99), done=d.random() < 0.7)),
    ("report", lambda w, n, d: w.report(d.randrange(99), answers=d.random() < 0.5)),
    ("restart", lambda w, n, d: w.restart(killed=d.random() < 0.5)),
)
