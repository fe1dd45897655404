"""Tests of moves on every generation of real OpenCode, through the endpoint of a server with a password."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ocwatchd.core.domain.moves import MoveOutcome, MoveResult, Order
from ocwatchd.core.domain.snapshot import SessionSnapshot, SessionState
from ocwatchd.core.domain.types import ModelRef, Target
from ocwatchd.movers.rerun import RerunOverApi
from ocwatchd.opencode.client.v1.routes import Api
from ocwatchd.opencode.discovery.endpoints import EndpointFinder
from ocwatchd.opencode.discovery.probes import Prober
from ocwatchd.opencode.sessions.message_store import SessionStore
from tests.support.opencode import VERSIONS, Home, Serve, wait_until
from tests.support.provider import Provider, Request, after_tool, bash, error, limited, ok, slow, tool

pytestmark = pytest.mark.e2e

PRIMARY, FALLBACK, THIRD = "mock/primary", "mock2/fallback", "mock3/third"
TARGET = Target(ModelRef("mock2", "fallback"), "claude-fallback")
NO_SECOND_MOVE = (MoveResult.ALREADY, MoveResult.REFUSED)
RIGHT_AWAY = 20.0
"""Seconds from the call to the fallback's request that a loaded machine may take; an idle one takes 0.3. OpenCode's own
next attempt would come after an hour.
"""


@dataclass(frozen=True, slots=True)
class Bench:
    """One server, its provider, and our access to it."""

    serve: Serve
    provider: Provider
    surveyor: Prober
    mover: RerunOverApi

    def limited_session(self, text: str, directory: Path | None = None, **more: Any) -> str:
        session = self.serve.create_session(directory=directory)
        self.serve.prompt_async(session, text, directory=directory, **more)
        self.serve.wait_status(session, "retry", directory=directory)
        return session

    def snapshot(self, session: str) -> SessionSnapshot:
        # On a loaded machine an endpoint may miss the second that a probe allows; it is probed again three seconds
        # later.
        (found,) = wait_until(lambda: self.surveyor.session(session).snapshots, why="the endpoint to answer")
        return found

    def move(self, session: str, target: Target = TARGET, **more: Any) -> MoveOutcome:
        return self.mover.move(Order(self.snapshot(session), target, **more))

    def asked(self, model: str, text: str) -> list[Request]:
        """Return this test's requests to a model."""
        return [request for request in self.provider.requests(model) if request.count(text)]


@pytest.fixture(scope="module", params=(*VERSIONS, "1.1.65"))
def bench(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    version = str(request.param)
    with Provider() as provider:
        root = tmp_path_factory.mktemp(f"opencode-{version}")
        home = Home(root / "home", provider.url, environment={"OPENCODE_SERVER_PASSWORD": "let me in"})
        with Serve(version, home, password="let me in") as serve:
            store = SessionStore(home.data_dir)
            yield Bench(serve, provider, Prober(EndpointFinder(home.data_dir, environ={}), store), RerunOverApi())


@pytest.fixture(autouse=True)
def scripts(bench: Bench) -> None:
    bench.provider.script(PRIMARY, limited(3600))
    bench.provider.script(FALLBACK, ok("the fallback's answer"))
    bench.provider.script(THIRD, ok("the third's answer"))


def test_a_limited_turn_moves_with_its_finished_tool_call(bench: Bench) -> None:
    call = after_tool(bash("echo ran >> effect.txt; echo tool-result"), limited(3600))
    bench.provider.script(PRIMARY, call)
    session = bench.limited_session("Move me", system="Be very brief")
    snapshot = bench.snapshot(session)
    assert (snapshot.state, snapshot.attempt, snapshot.answer_completed) == (SessionState.RETRY, 1, False)
    assert (snapshot.model, snapshot.agent, snapshot.queued) == (ModelRef("mock", "primary"), "build", 0)
    assert snapshot.next_at is not None
    assert 3500 < snapshot.next_at - time.time() < 3601

    began = time.monotonic()
    outcome = bench.mover.move(Order(snapshot, TARGET))
    assert (outcome.result, outcome.posts, outcome.stranded) == (MoveResult.MOVED, 1, False)
    bench.serve.wait_answer(session, "the fallback's answer")
    (asked,) = bench.asked(FALLBACK, "Move me")
    print(f"{bench.serve.version}: {asked.monotonic - began:.3f} s from the call to the target's request")
    assert asked.monotonic - began < RIGHT_AWAY
    assert asked.count("Move me") == 1
    assert [result.strip() for result in asked.tool_results] == ["tool-result"]
    assert "Be very brief" in str(asked.body["messages"])
    assert (bench.serve.project / "effect.txt").read_text() == "ran\n"
    (prompt,) = bench.serve.user_messages(session)
    assert prompt["info"]["id"] == snapshot.user_message
    assert prompt["info"]["agent"] == "claude-fallback"
    assert outcome.snapshot is not None
    assert outcome.snapshot.model == TARGET.model

    bench.serve.wait_status(session, "idle")
    again = bench.mover.move(Order(snapshot, TARGET))
    assert (again.result, again.posts) == (MoveResult.ALREADY, 0)
    assert len(bench.asked(FALLBACK, "Move me")) == 1


def test_prompts_queued_behind_the_retry_come_along(bench: Bench) -> None:
    session = bench.limited_session("First of two")
    decided_on = bench.snapshot(session)
    bench.serve.prompt_async(session, "Second of two")
    wait_until(lambda: len(bench.serve.user_messages(session)) == 2)
    assert bench.snapshot(session).queued == 1
    assert bench.mover.move(Order(decided_on, TARGET)).result is MoveResult.MOVED
    bench.serve.wait_answer(session, "the fallback's answer")
    (asked,) = bench.asked(FALLBACK, "Second of two")
    assert (asked.count("First of two"), asked.count("Second of two")) == (1, 1)
    assert len(bench.serve.user_messages(session)) == 2


def test_a_user_who_stopped_the_turn_is_left_alone(bench: Bench) -> None:
    session = bench.limited_session("Stop me")
    snapshot = bench.snapshot(session)
    bench.serve.abort(session)
    bench.serve.wait_status(session, "idle")
    wait_until(lambda: bench.snapshot(session).aborted)
    outcome = bench.mover.move(Order(snapshot, TARGET))
    assert (outcome.result, outcome.posts) == (MoveResult.USER_TOOK_OVER, 0)
    assert bench.asked(FALLBACK, "Stop me") == []

    # The same stop, if it was ours: a move that was interrupted after the abort continues.
    assert bench.move(session, own_abort=True).result is MoveResult.MOVED
    bench.serve.wait_answer(session, "the fallback's answer")
    assert len(bench.serve.user_messages(session)) == 1


def test_a_limited_target_is_told_and_the_next_one_takes_over(bench: Bench) -> None:
    bench.provider.script(FALLBACK, limited(1800))
    session = bench.limited_session("Down the chain")
    first = bench.move(session)
    assert first.result is MoveResult.TARGET_LIMITED
    assert first.snapshot is not None
    assert (first.snapshot.state, first.snapshot.model) == (SessionState.RETRY, TARGET.model)
    second = bench.mover.move(Order(first.snapshot, Target(ModelRef("mock3", "third"))))
    assert second.result is MoveResult.MOVED
    bench.serve.wait_answer(session, "the third's answer")
    (asked,) = bench.asked(THIRD, "Down the chain")
    assert asked.count("Down the chain") == 1
    assert len(bench.serve.user_messages(session)) == 1


@pytest.mark.parametrize("target", [Target(ModelRef("mock2", "none")), Target(TARGET.model, "nobody")])
def test_an_unknown_target_touches_nothing(bench: Bench, target: Target) -> None:
    session = bench.limited_session("Where to?")
    outcome = bench.move(session, target)
    assert (outcome.result, outcome.stranded) == (MoveResult.FAILED, False)
    assert "does not know the" in outcome.why
    assert bench.snapshot(session).state is SessionState.RETRY


def test_a_turn_that_has_failed_for_good_moves(bench: Bench) -> None:
    bench.provider.script(PRIMARY, error(402, {"error": {"message": "Insufficient credit", "code": "no_credit"}}))
    session = bench.serve.create_session()
    bench.serve.prompt_async(session, "Paid for")
    wait_until(lambda: bench.snapshot(session).state is SessionState.ERROR)
    snapshot = bench.snapshot(session)
    assert snapshot.last_error is not None
    assert (snapshot.last_error.status, snapshot.last_error.message) == (402, "Insufficient credit")
    assert session in [found.session for found in bench.surveyor.stuck().snapshots]
    assert bench.mover.move(Order(snapshot, TARGET)).result is MoveResult.MOVED
    bench.serve.wait_answer(session, "the fallback's answer")
    assert len(bench.serve.user_messages(session)) == 1


def test_a_target_that_fails_is_told_with_its_error(bench: Bench) -> None:
    bench.provider.script(FALLBACK, error(401, {"error": {"message": "bad key"}}))
    session = bench.limited_session("Wrong key")
    outcome = bench.move(session)
    assert (outcome.result, outcome.stranded) == (MoveResult.FAILED, False)
    assert outcome.snapshot is not None
    assert outcome.snapshot.last_error is not None
    assert outcome.snapshot.last_error.status == 401
    assert bench.mover.move(Order(outcome.snapshot, Target(ModelRef("mock3", "third")))).result is MoveResult.MOVED


def test_a_turn_that_works_is_never_touched(bench: Bench) -> None:
    bench.provider.script(PRIMARY, slow("a slow answer", 3.0))
    session = bench.serve.create_session()
    bench.serve.prompt_async(session, "Take your time")
    bench.serve.wait_status(session, "busy")
    assert bench.move(session).result is MoveResult.ALREADY
    bench.serve.wait_answer(session, "a slow answer")
    assert bench.asked(FALLBACK, "Take your time") == []


def test_sessions_of_another_directory_are_found_and_moved(bench: Bench) -> None:
    other = bench.serve.home.project("other", git=True)
    session = bench.limited_session("Elsewhere", directory=other)
    here = bench.limited_session("Here")
    assert {session, here} <= {snapshot.session for snapshot in bench.surveyor.stuck().snapshots}
    assert bench.snapshot(session).directory == str(other)
    assert bench.move(session).result is MoveResult.MOVED
    bench.serve.wait_answer(session, "the fallback's answer", directory=other)
    assert bench.snapshot(here).state is SessionState.RETRY


def test_four_sessions_move_at_once(bench: Bench) -> None:
    texts = [f"Number {number} of four" for number in range(4)]
    sessions = [bench.limited_session(text) for text in texts]
    with ThreadPoolExecutor(8) as pool:  # each session is moved twice, as by a second daemon or an impatient user
        outcomes = list(pool.map(bench.move, sessions * 2))
    by_session = [[outcomes[at].result, outcomes[at + 4].result] for at in range(4)]
    assert all(results.count(MoveResult.MOVED) == 1 for results in by_session), by_session
    assert {result for results in by_session for result in results} <= {*NO_SECOND_MOVE, MoveResult.MOVED}
    for session, text in zip(sessions, texts, strict=True):
        bench.serve.wait_answer(session, "the fallback's answer")
        assert len(bench.asked(FALLBACK, text)) == 1
        assert len(bench.serve.user_messages(session)) == 1


def test_a_session_that_is_being_summed_up_moves_as_well(bench: Bench) -> None:
    bench.provider.script(PRIMARY, ok("a first answer"))
    session = bench.serve.create_session()
    bench.serve.prompt_async(session, "Sum me up")
    bench.serve.wait_answer(session, "a first answer")
    bench.serve.wait_status(session, "idle")
    bench.provider.script(PRIMARY, limited(3600))
    with ThreadPoolExecutor(1) as pool:
        route, body = f"/session/{session}/summarize", {"providerID": "mock", "modelID": "primary"}
        summed_up = pool.submit(bench.serve.request, "POST", route, body)
        bench.serve.wait_status(session, "retry")
        assert bench.move(session).result is MoveResult.MOVED
        summed_up.result(30)
    bench.serve.wait_answer(session, "the fallback's answer")


def test_a_subagent_is_moved_with_its_parent(bench: Bench) -> None:
    task = tool("task", description="Look", prompt="Look into it", subagent_type="general")

    def primary(request: Request) -> Any:
        return limited(3600) if request.count("Look into it") else task

    bench.provider.script(PRIMARY, primary)
    parent = bench.serve.create_session()
    bench.serve.prompt_async(parent, "Use a helper")

    def retrying_child() -> SessionSnapshot | None:
        return next((snapshot for snapshot in bench.surveyor.stuck().snapshots if snapshot.parent == parent), None)

    child: SessionSnapshot = wait_until(retrying_child)
    waiting = bench.snapshot(parent)
    assert waiting.state is SessionState.BUSY
    assert [(running.tool, running.child) for running in waiting.running] == [("task", child.session)]
    assert bench.mover.move(Order(waiting, TARGET)).result is MoveResult.ALREADY  # not without naming the session
    outcome = bench.mover.move(Order(waiting, TARGET, child=child.session))
    assert outcome.result is MoveResult.MOVED
    bench.serve.wait_answer(parent, "the fallback's answer")
    assert len(bench.serve.user_messages(parent)) == 1
    assert bench.surveyor.session(child.session).snapshots[0].state is not SessionState.RETRY


def test_another_home_has_no_door_here_and_the_password_comes_from_the_process(bench: Bench, tmp_path: Path) -> None:
    assert EndpointFinder(tmp_path, environ={}).find().open == ()
    (endpoint,) = EndpointFinder(bench.serve.home.data_dir, environ={}).find().open
    assert (endpoint.pid, endpoint.directory, endpoint.many) == (bench.serve.pid, str(bench.serve.project), True)
    assert Api(endpoint).path().home == str(bench.serve.home.root)


def test_the_last_messages_can_be_had_alone(bench: Bench) -> None:
    session = bench.limited_session("Only the last")
    api = Api(bench.snapshot(session).endpoint)
    assert len(api.messages(session, str(bench.serve.project), 1)) == 1
    assert len(api.messages(session, str(bench.serve.project), 50)) == 2


def test_events_tell_the_retry_as_it_begins_and_a_toast_is_accepted(bench: Bench) -> None:
    snapshot = bench.snapshot(bench.limited_session("Before"))
    api = Api(snapshot.endpoint)
    events = api.events(snapshot.directory, idle=10)
    assert next(events)["type"] == "server.connected"
    session = bench.limited_session("Listen")
    for event in events:
        told = event["properties"]
        if event["type"] == "session.status" and told["sessionID"] == session and told["status"]["type"] == "retry":
            break
    assert told["status"]["attempt"] == 1
    api.toast("moved", "info", "ocwatchd", snapshot.directory)
