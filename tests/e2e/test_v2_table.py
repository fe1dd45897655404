"""Tests of the rows by which other tools were compared, on a real OpenCode 2: its service, its terminal, `run`.

Judged by the provider's record. The preview calls no plugin before a prompt, so a prompt for a limited model may send
one request to it before it is moved. On OpenCode 1, and on releases whose hook is called, it never does.
"""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from tests.support.clients2 import RUN, TERMINAL, client, watched
from tests.support.daemon import epoch, settle
from tests.support.opencode2 import Home2
from tests.support.processes import wait_until
from tests.support.provider import Answer, Provider, Request, after_tool, error, limited, ok, tool
from tests.support.reaper import sweep

pytestmark = pytest.mark.e2e
PRIMARY, FALLBACK, THIRD = "mock/primary", "mock2/fallback", "mock3/third"
ANSWER = "answer of mock2/fallback"


@pytest.mark.parametrize("way", ["service", TERMINAL, RUN])
def test_the_first_prompt_and_the_next(way: str, home2: Home2, provider: Provider) -> None:
    # A `run` is moved at OpenCode's own next attempt, so that has to be near. It comes 2 s after the first one, on a
    # busy machine before the model is switched, and then asks the primary once more.
    most = 2 if way == RUN else 1
    provider.script(PRIMARY, limited() if way == RUN else limited(3600))
    with watched(home2, retry={"enabled": False}) as (service, daemon), client(way, home2, provider, service) as user:
        user.ask("The first prompt", ANSWER)
        daemon.wait_journal("moved")
        refused = provider.requests(PRIMARY)
        assert [request.count("The first prompt") for request in refused] in [
            [1] * times for times in range(1, most + 1)
        ]
        (asked,) = provider.requests(FALLBACK)
        assert asked.count("The first prompt") == 1
        session = daemon.journal("moved")[0]["session"]
        assert len(service.user_messages(session)) == 1

        user.ask("The second prompt", ANSWER, new=way == RUN)
        said = [request for request in provider.requests(FALLBACK) if request.count("The second prompt")]
        assert [request.count("The second prompt") for request in said] == [1]
        again = 0 if way == "service" else most  # a terminal and `run` name the primary again
        assert len(provider.requests(PRIMARY)) - len(refused) <= again
        if way != RUN:
            assert [message["text"] for message in service.user_messages(session)] == [
                "The first prompt",
                "The second prompt",
            ]
        assert len(daemon.journal("limit")) <= 2 * most


@pytest.mark.parametrize("way", [TERMINAL, RUN])
def test_a_finished_tool_is_kept(way: str, home2: Home2, provider: Provider) -> None:
    mark = home2.root / "ran"
    call = tool("shell", command=f"echo ran >> {mark}", description="Leaves a mark")
    provider.script(PRIMARY, after_tool(call, limited() if way == RUN else limited(3600)))
    with watched(home2, retry={"enabled": False}) as (service, daemon), client(way, home2, provider, service) as user:
        user.ask("Use the tool", ANSWER)
        daemon.wait_journal("moved")
        assert mark.read_text() == "ran\n"
        (asked,) = provider.requests(FALLBACK)
        assert asked.tool_results
        assert len(service.user_messages(daemon.journal("moved")[0]["session"])) == 1


def test_a_second_session_and_a_restart_of_the_daemon(home2: Home2, provider: Provider) -> None:
    provider.script(PRIMARY, limited(3600))
    with watched(home2) as (service, daemon):
        first, second = service.create_session(), service.create_session()
        service.prompt(first, "Hello")
        service.wait_answer(first, ANSWER)
        until = daemon.wait_reported(PRIMARY)["until"]
        daemon.stop()
        daemon.start()
        assert abs(epoch(daemon.wait_reported(PRIMARY)["until"]) - epoch(until)) < 1
        wait_until(lambda: daemon.heartbeat().get("endpoints"), 30, why="the daemon to find the service")
        service.prompt(second, "Hello from another")
        service.wait_answer(second, ANSWER)
        assert len(provider.requests(PRIMARY)) <= 2
        assert [r.count("Hello from another") for r in provider.requests(FALLBACK) if r.session == second] == [1]


def test_a_limit_in_words_that_no_rule_knows(home2: Home2, provider: Provider) -> None:
    unknown = {"error": {"message": "该模型当前访问人数过多, 请您稍后再试", "type": "x", "code": "1234"}}
    provider.script(PRIMARY, error(429, unknown, {"Retry-After": "3600"}))
    with watched(home2) as (service, daemon):
        session = service.create_session()
        service.prompt(session, "Hello")
        service.wait_answer(session, ANSWER)
        assert daemon.wait_reported(PRIMARY)
        assert len(service.user_messages(session)) == 1


def test_a_session_that_is_hit_seconds_after_another(home2: Home2, provider: Provider) -> None:
    tool_first = after_tool(tool("shell", command="sleep 4", description="Takes a while"), limited(3600))

    def script(request: Request) -> Answer:
        return tool_first(request) if any("B:" in said for said in request.user_texts) else limited(3600)

    provider.script(PRIMARY, script)
    with watched(home2) as (service, daemon):
        slow, quick = service.create_session(), service.create_session()
        service.prompt(slow, "B: use the tool")
        provider.wait_requests(PRIMARY, 1)
        service.prompt(quick, "A: hello")
        service.wait_answer(quick, ANSWER)
        service.wait_answer(slow, ANSWER)
        daemon.wait_journal("moved", 2)
        (asked,) = [request for request in provider.requests(FALLBACK) if request.session == slow]
        assert asked.tool_results


def test_a_running_tool_of_another_session_is_not_touched(home2: Home2, provider: Provider) -> None:
    mark = home2.root / "ran"
    call = tool("shell", command=f"echo begun >> {mark}; sleep 5; echo ended >> {mark}", description="Takes a while")

    def script(request: Request) -> Answer:
        return after_tool(call, ok("all done"))(request) if request.count("Use the tool") else limited(3600)

    provider.script(PRIMARY, script)
    with watched(home2) as (service, daemon):
        working, other = service.create_session(), service.create_session()
        service.prompt(working, "Use the tool")
        wait_until(mark.exists, 30, why="the tool to run")
        service.prompt(other, "Hello")
        service.wait_answer(other, ANSWER)
        service.wait_answer(working, "all done")
        assert mark.read_text() == "begun\nended\n"
        assert [entry["session"] for entry in daemon.journal("claim")] == [other]


def test_an_open_permission_stays_open(tmp_path: Path, provider: Provider) -> None:
    asks = {"permissions": [{"action": "*", "resource": "*", "effect": "allow"},
                            {"action": "shell", "resource": "*", "effect": "ask"}]}  # fmt: skip
    home = Home2(tmp_path / "home", provider.url, settings=asks)
    mark = home.root / "ran"
    call = tool("shell", command=f"echo ran >> {mark}", description="Leaves a mark")

    def script(request: Request) -> Answer:
        return after_tool(call, limited(3600))(request) if request.count("Use the tool") else limited(3600)

    provider.script(PRIMARY, script)
    try:
        with watched(home) as (service, daemon):
            asking, other = service.create_session(), service.create_session()
            service.prompt(asking, "Use the tool")
            route = f"/api/session/{asking}/permission"
            (asked,) = wait_until(lambda: service.request("GET", route)["data"], 30, why="the permission")
            service.prompt(other, "Hello")
            service.wait_answer(other, ANSWER)
            settle(2)
            assert [entry["id"] for entry in service.request("GET", route)["data"]] == [asked["id"]]
            assert not mark.exists()
            service.request("POST", f"{route}/{asked['id']}/reply", {"reply": "once"})
            service.wait_answer(asking, ANSWER)
            assert mark.read_text() == "ran\n"
            assert {entry["session"] for entry in daemon.wait_journal("moved", 2)} == {asking, other}
    finally:
        sweep(home.root)


def test_a_second_limit_within_seconds_in_one_session(home2: Home2, provider: Provider) -> None:
    provider.script(PRIMARY, limited(3600))
    provider.script(FALLBACK, limited(3600))
    with watched(home2) as (service, daemon):
        session = service.create_session()
        service.prompt(session, "Hello")
        service.wait_answer(session, "answer of mock3/third")
        assert [len(provider.requests(model)) for model in (PRIMARY, FALLBACK, THIRD)] == [1, 1, 1]
        assert provider.requests(THIRD)[0].count("Hello") == 1
        assert len(service.user_messages(session)) == 1
        assert daemon.wait_reported(FALLBACK)


def test_a_known_time_is_obeyed_at_both_ends(home2: Home2, provider: Provider) -> None:
    provider.script(PRIMARY, limited(20), ok("the primary again"))
    with watched(home2, maxDelay=1000) as (service, daemon):
        session = service.create_session()
        service.prompt(session, "Hello")
        service.wait_answer(session, ANSWER)
        until = epoch(daemon.wait_reported(PRIMARY)["until"])
        daemon.wait_journal("returned", timeout=60)
        service.prompt(session, "Once more")
        service.wait_answer(session, "the primary again")
        first, second = provider.requests(PRIMARY)
        assert second.wall >= until - 0.5 >= first.wall + 19


def test_thirty_sessions_at_once_are_all_moved(home2: Home2, provider: Provider) -> None:
    provider.script(PRIMARY, limited(3600))
    with watched(home2) as (service, daemon):
        sessions = [service.create_session() for _ in range(30)]
        for number, session in enumerate(sessions):
            service.prompt(session, f"Prompt number {number}.")
        for number, session in enumerate(sessions):
            service.wait_answer(session, ANSWER, 120)
            asked = [r for r in provider.requests(FALLBACK) if r.session == session]
            assert [r.count(f"Prompt number {number}.") for r in asked] == [1]
            assert len(service.user_messages(session)) == 1
        daemon.wait_journal("moved", 30)
        assert len(provider.requests(PRIMARY)) == 30
        refused, asked_at = provider.requests(PRIMARY)[0].wall, provider.requests(FALLBACK)[-1].wall
        print(f"thirty sessions: {asked_at - refused:.1f} s from the first refusal to the last request")


class CatalogueHome(Home2):
    """A home in which OpenCode fetches its catalogue of models, as for a user."""

    catalogue = ""

    def env(self, cwd: Path | None = None) -> dict[str, str]:
        env = super().env(cwd)
        del env["OPENCODE_DISABLE_MODELS_FETCH"]
        return {**env, "OPENCODE_MODELS_URL": self.catalogue}


def test_with_the_catalogue_of_models_fetched(tmp_path: Path, provider: Provider) -> None:
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            body = json.dumps({}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Print nothing."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    home = CatalogueHome(tmp_path / "home", provider.url)
    home.catalogue = f"http://127.0.0.1:{server.server_address[1]}"
    provider.script(PRIMARY, limited(3600))
    try:
        with watched(home) as (service, daemon):
            session = service.create_session()
            service.prompt(session, "Hello")
            service.wait_answer(session, ANSWER)
            daemon.wait_journal("moved")
            assert provider.requests(FALLBACK)[0].count("Hello") == 1
            assert "/api.json" in asked
    finally:
        sweep(home.root)
        server.shutdown()
        server.server_close()
