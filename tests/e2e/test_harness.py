"""Tests of the test support, and of basic behaviours of OpenCode, on three generations."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import pytest

from tests.support.binaries import package_name
from tests.support.opencode import Home, Serve, run_prompt
from tests.support.processes import PORTS, free_port
from tests.support.provider import (
    Answer,
    Drop,
    Provider,
    Request,
    after_tool,
    bash,
    error,
    limited,
    midstream,
    ok,
    slow,
)

pytestmark = pytest.mark.e2e

PRIMARY = "mock/primary"


def errors_of(serve: Serve, session: str) -> list[str]:
    """Return the names of the errors stored with the session's assistant messages."""
    return [m["info"]["error"]["name"] for m in serve.messages(session) if "error" in m["info"]]


def test_a_prompt_is_answered_and_a_limit_shows_as_retry(version: str, home: Home, provider: Provider) -> None:
    provider.script(PRIMARY, ok("forty-two"), limited(3600))
    with Serve(version, home) as serve:
        session = serve.create_session()
        serve.prompt_async(session, "What is six times seven?", model=PRIMARY)
        serve.wait_answer(session, "forty-two")
        (asked,) = provider.requests(PRIMARY)
        assert asked.count("What is six times seven?") == 1
        # The title is requested from the small model with the same prompt, so only the model distinguishes the two.
        provider.wait_for(lambda seen: any(r.model == "smallco/titles" for r in seen), titles=True)

        serve.wait_status(session, "idle")
        before = time.time()
        serve.prompt_async(session, "And seven times eight?", model=PRIMARY)
        status = serve.wait_status(session, "retry")
        assert status["attempt"] == 1
        assert before + 3599 < status["next"] / 1000 < time.time() + 3601
        assert [r.status for r in provider.requests(PRIMARY)] == [200, 429]
        serve.abort(session)
        serve.wait_status(session, "idle")
        assert len(serve.user_messages(session)) == 2


def test_free_ports_differ_and_the_kernel_assigns_none_of_them() -> None:
    ports = [free_port() for _ in range(100)]
    assert len(set(ports)) == 100
    assert all(1024 < port < 32768 for port in ports)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", free_port()))
        taken.listen()
        assert taken.getsockname()[1] not in {free_port() for _ in range(PORTS)}


def test_status_is_kept_per_project_directory(version: str, home: Home, provider: Provider) -> None:
    provider.script(PRIMARY, limited(3600))
    other = home.project("other", git=True)
    with Serve(version, home, home.project("one", git=True)) as serve:
        session = serve.create_session(directory=other)
        serve.prompt_async(session, "Hello", model=PRIMARY, directory=other)
        serve.wait_status(session, "retry", directory=other)
        assert session not in serve.status()
        serve.abort(session, directory=other)
        serve.wait_status(session, "idle", directory=other)


def test_a_finished_tool_call_stands_before_the_limit(version: str, home: Home, provider: Provider) -> None:
    provider.script(PRIMARY, after_tool(bash("echo ran >> effect.txt"), limited(3600)))
    with Serve(version, home) as serve:
        session = serve.create_session()
        serve.prompt_async(session, "Run it", model=PRIMARY)
        serve.wait_status(session, "retry")
        first, second = provider.requests(PRIMARY)
        assert (first.status, second.status) == (200, 429)
        assert second.ends_with_tool_result
        assert len(second.tool_results) == 1
        assert (serve.project / "effect.txt").read_text() == "ran\n"
        serve.abort(session)


def test_four_sessions_at_once_are_answered_each_by_its_prompt(version: str, home: Home, provider: Provider) -> None:
    def by_prompt(request: Request) -> Answer:
        return slow(f"done {request.prompt}", seconds=0.5)

    provider.script(PRIMARY, by_prompt)
    with Serve(version, home) as serve:
        sessions = {serve.create_session(): f"job-{n}" for n in range(4)}
        for session, job in sessions.items():
            serve.prompt_async(session, job, model=PRIMARY)
        for session, job in sessions.items():
            serve.wait_answer(session, f"done {job}")
        assert all(r.session in (None, *sessions) for r in provider.requests(PRIMARY))


def test_errors_that_are_not_retried_end_in_the_message(version: str, home: Home, provider: Provider) -> None:
    refusal = {"error": {"message": "Incorrect API key provided", "code": "invalid_api_key"}}
    provider.script(PRIMARY, error(401, refusal))
    provider.script("mock/second", midstream({"error": {"message": "boom", "type": "invalid_request_error"}}))
    with Serve(version, home) as serve:
        for model in (PRIMARY, "mock/second"):
            session = serve.create_session()
            serve.prompt_async(session, "Hello", model=model)
            provider.wait_requests(model)
            serve.wait_status(session, "idle")
            assert errors_of(serve, session), model
            assert len(provider.requests(model)) == 1


def test_a_dropped_connection_is_recorded_without_a_status(version: str, home: Home, provider: Provider) -> None:
    provider.script(PRIMARY, Drop(), ok("after all"))
    with Serve(version, home) as serve:
        session = serve.create_session()
        serve.prompt_async(session, "Hello", model=PRIMARY)
        provider.wait_for(lambda seen: [r.status for r in seen][:1] == [0])
        serve.abort(session)


def test_run_prints_the_answer(version: str, home: Home, provider: Provider, tmp_path: Path) -> None:
    provider.script("mock2/fallback", ok("from the fallback"))
    done = run_prompt(version, home, "Hello", agent="claude-fallback")
    assert (done.returncode, "from the fallback" in done.stdout) == (0, True), done
    assert [r.count("Hello") for r in provider.requests()] == [1]


@pytest.mark.parametrize(
    ("system", "machine", "name"),
    [("Linux", "x86_64", "opencode-linux-x64"), ("Darwin", "arm64", "opencode-darwin-arm64")],
)
def test_the_package_fits_the_machine(system: str, machine: str, name: str) -> None:
    assert package_name(system, machine) == name
