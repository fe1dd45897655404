"""Tests of the companion plugin in real OpenCodes: prevention, facts, the endpoint, and that it does no harm."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from ocwatchd.core.domain.snapshot import Endpoint, UnixAddress
from ocwatchd.opencode.client.v1.routes import Api
from tests.support.daemon import Daemon, epoch, ocwatch, settle
from tests.support.homes import ANTHROPIC, DEFAULT_PROVIDERS, GOOGLE, OPENAI, ProviderSpec
from tests.support.opencode import GENERATIONS, MIDDLE, NEWEST, OLDEST, Home, Serve, run_command, run_prompt
from tests.support.processes import start, stop, wait_until
from tests.support.provider import Provider, error, limited, ok, tool

pytestmark = pytest.mark.e2e

PRIMARY, SECOND, FALLBACK = "mock/primary", "mock/second", "mock2/fallback"

TWO_SETS = "1.15.13"
"""`serve` of this version, and of 1.14.48 but not 1.14.41, separates turns of the port from those of its plugins."""


@pytest.fixture
def armed(home: Home) -> Home:
    """A home with the plugin, installed as by a user, and a configuration; no daemon runs."""
    assert ocwatch(home, "plugin", "install").returncode == 0
    Daemon(home)
    return home


def state(home: Home) -> Path:
    return home.root / ".local/state/ocwatchd"


def facts(home: Home) -> list[dict[str, Any]]:
    files = (state(home) / "facts").glob("*.jsonl")
    return [json.loads(line) for path in files for line in path.read_text().splitlines()]


def errors(home: Home) -> str:
    path = state(home) / "plugin-errors.log"
    return path.read_text() if path.exists() else ""


@pytest.mark.parametrize("version", GENERATIONS)
def test_what_one_session_learnt_all_know_also_after_a_restart(version: str, armed: Home, provider: Provider) -> None:
    provider.script(PRIMARY, limited(3600))
    daemon = Daemon(armed)
    with daemon, Serve(version, armed) as serve:
        first, second = serve.create_session(), serve.create_session()
        serve.prompt_async(first, "The first prompt", model=PRIMARY)
        serve.wait_answer(first, "answer of mock2/fallback", timeout=60)
        daemon.wait_journal("moved")
        serve.wait_status(first, "idle")
        serve.prompt_async(first, "The next prompt", model=PRIMARY)
        serve.prompt_async(second, "Another session", agent="claude-primary")
        provider.wait_requests(FALLBACK, 3)
        assert len(provider.requests(PRIMARY)) == 1
        assert [len(serve.user_messages(session)) for session in (first, second)] == [2, 1]
        assert len(daemon.journal("claim")) == 1
    with Serve(version, armed) as serve:  # the daemon has ended, and this is another process
        session = serve.create_session()
        serve.prompt_async(session, "After the restart", model=PRIMARY)
        serve.wait_answer(session, "answer of mock2/fallback")
    with daemon, Serve(version, armed) as serve:
        session = serve.create_session()
        serve.prompt_async(session, "With the daemon back", model=PRIMARY)
        serve.wait_answer(session, "answer of mock2/fallback")
    assert len(provider.requests(PRIMARY)) == 1
    assert errors(armed) == ""


@pytest.mark.parametrize("version", [NEWEST, MIDDLE, OLDEST])
def test_prompts_that_follow_a_refusal_wait_for_the_decision_and_are_not_refused(
    version: str, armed: Home, provider: Provider
) -> None:
    """If the daemon was busy for a moment, all were refused, and were stopped and run again one by one."""
    provider.script(PRIMARY, limited(3600))
    with Daemon(armed) as daemon, Serve(version, armed) as serve:
        first, *others = (serve.create_session() for _ in range(6))
        os.kill(daemon.pid, signal.SIGSTOP)
        try:
            serve.prompt_async(first, "The one that is refused", model=PRIMARY)
            provider.wait_requests(PRIMARY)
            wait_until(lambda: facts(armed), why="the plugin to have seen the refusal")
            with ThreadPoolExecutor(len(others)) as pool:
                for session in others:
                    pool.submit(serve.prompt_async, session, "At the same time", model=PRIMARY)
                os.kill(daemon.pid, signal.SIGCONT)
        finally:
            os.kill(daemon.pid, signal.SIGCONT)
        for session in (first, *others):
            serve.wait_answer(session, "answer of mock2/fallback")
        assert len(provider.requests(PRIMARY)) == 1
        assert [len(serve.user_messages(session)) for session in (first, *others)] == [1] * 6


def test_what_the_port_has_prompted_is_moved_where_the_plugins_door_does_not_know_it(
    armed: Home, provider: Provider
) -> None:
    provider.script(PRIMARY, limited(3600))
    daemon = Daemon(armed)
    with daemon, Serve(TWO_SETS, armed) as serve:
        session = serve.create_session()  # also loads the plugin
        wait_until(lambda: list((state(armed) / "doors").glob("*.sock")), 60, why="the endpoint is open")
        serve.prompt_async(session, "Prompted over the port", model=PRIMARY)
        serve.wait_answer(session, "answer of mock2/fallback", timeout=60)
        daemon.wait_journal("moved")
        assert len(serve.user_messages(session)) == 1
    assert [len(provider.requests(model)) for model in (PRIMARY, FALLBACK)] == [1, 1]


def test_the_primary_again_as_soon_as_it_may(version: str, armed: Home, provider: Provider) -> None:
    with Serve(version, armed) as serve:
        session = serve.create_session()
        cooldown = rests(FALLBACK, seconds=25)
        register(armed, {PRIMARY: cooldown})  # OpenCode may need longer to start
        serve.prompt_async(session, "While it cools", model=PRIMARY)
        serve.wait_answer(session, "answer of mock2/fallback")
        serve.wait_status(session, "idle")
        settle(max(epoch(cooldown["until"]) + 0.1 - time.time(), 0))
        serve.prompt_async(session, "Afterwards", model=PRIMARY)
        serve.wait_answer(session, "answer of mock/primary")


@pytest.mark.parametrize("version", [NEWEST, MIDDLE])
def test_a_prompt_that_names_no_model_comes_back_with_its_session(
    version: str, armed: Home, provider: Provider
) -> None:
    provider.script(PRIMARY, limited(20), ok("the primary again"))
    with Daemon(armed, maxDelay=1000) as daemon, Serve(version, armed) as serve:
        session = serve.create_session()
        serve.prompt_async(session, "Move me", model=PRIMARY)
        serve.wait_answer(session, "answer of mock2/fallback")
        end = epoch(daemon.wait_cooldown(PRIMARY)["until"])
        daemon.wait_journal("moved")
        serve.wait_status(session, "idle")
        settle(max(end + 0.3 - time.time(), 0))
        serve.prompt_async(session, "And now?")
        serve.wait_answer(session, "the primary again")
        assert len(provider.requests(FALLBACK)) == 1


def test_a_subagent_of_a_cooling_model_is_sent_elsewhere(version: str, armed: Home, provider: Provider) -> None:
    armed.agents = {**armed.agents, "helper": {"model": SECOND, "mode": "subagent", "description": "helps"}}
    armed.write_config()
    register(armed, {SECOND: rests(FALLBACK, agent="claude-fallback")})
    call = tool("task", description="help", prompt="Count the files", subagent_type="helper")
    provider.script(PRIMARY, call, ok("the parent is done"))
    provider.script(FALLBACK, ok("counted elsewhere"))
    with Serve(version, armed) as serve:
        session = serve.create_session()
        serve.prompt_async(session, "Let somebody count", model=PRIMARY)
        serve.wait_answer(session, "the parent is done", timeout=60)
        assert provider.requests(SECOND) == []
        (asked,) = provider.requests(FALLBACK)
        assert asked.count("Count the files") == 1
        (child,) = serve.request("GET", f"/session/{session}/children")
        assert {m["info"]["agent"] for m in serve.user_messages(child["id"])} == {"helper"}


@pytest.mark.parametrize("broken", ["corrupt", "newer", "unwritable"])
def test_whatever_is_broken_opencode_answers_as_without_us(
    version: str, broken: str, armed: Home, provider: Provider
) -> None:
    if broken == "corrupt":
        register(armed, '{"version": 1, "models": {"mock/primary": {"until": nu')
    elif broken == "newer":
        register(armed, json.dumps({"version": 2, "models": {PRIMARY: rests(FALLBACK)}}))
    else:
        state(armed).parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(state(armed), ignore_errors=True)  # the record that `plugin install` has written there
        state(armed).write_text("no directory")
    provider.script(PRIMARY, error(429, headers={"Retry-After": "2"}), ok("as without us"))
    with Serve(version, armed) as serve:
        session = serve.create_session()
        serve.prompt_async(session, "Is anybody there?", model=PRIMARY)
        serve.wait_answer(session, "as without us")
        assert provider.requests(FALLBACK) == []
    assert [r.status for r in provider.requests(PRIMARY)] == [429, 200]


def test_refused_requests_are_noted_with_what_the_log_does_not_say(
    version: str, armed: Home, provider: Provider
) -> None:
    provider.script(PRIMARY, limited(3600))
    provider.script("smallco/titles", limited(1800))
    with Serve(version, armed) as serve:
        session = serve.create_session()
        serve.prompt_async(session, "A prompt that is nobody's business", model=PRIMARY)
        (refused,) = provider.wait_requests(PRIMARY)
        wait_until(lambda: {f["model"] for f in facts(armed)} == {"primary", "titles"}, why="both facts")
        (main,) = [fact for fact in facts(armed) if not fact["small"]]
        assert refused.wall - 0.1 < epoch(main.pop("time")) < time.time()
        assert main.pop("url_host") == provider.url.removeprefix("http://")
        assert (main.pop("version"), main.pop("pid"), main.pop("session")) == (1, serve.pid, session)
        assert (main.pop("provider"), main.pop("model"), main.pop("agent")) == ("mock", "primary", "build")
        assert main == {"small": False, "status": 429, "retry_after": "3600"}
        title = next(fact for fact in facts(armed) if fact["small"])
        assert (title["session"], title["agent"], title["retry_after"]) == (session, "title", "1800")
        for path in state(armed).rglob("*"):
            assert not path.is_file() or "business" not in path.read_text()


def test_facts_of_every_protocol(version: str, armed: Home, provider: Provider) -> None:
    models = {"anthro/claude-x": ANTHROPIC, "openish/gpt-x": OPENAI, "googly/gemini-x": GOOGLE}
    parts = [(*name.split("/"), npm) for name, npm in models.items()]
    armed.providers = {**DEFAULT_PROVIDERS, **{p: ProviderSpec((m,), npm) for p, m, npm in parts}}
    armed.write_config()
    with Serve(version, armed) as serve:
        asked = {}
        for name in models:
            provider.script(name, limited(3600))
            asked[serve.create_session()] = name
        for session, name in asked.items():
            serve.prompt_async(session, "Hello", model=name)
        wait_until(lambda: len(facts(armed)) >= 3, 40, why="a fact of each")
        seen = {fact["session"]: f"{fact['provider']}/{fact['model']}" for fact in facts(armed)}
        assert seen == asked


# ---- the endpoint outside a TUI


@pytest.mark.parametrize("version", [NEWEST, MIDDLE])
def test_a_server_has_one_door_for_all_its_projects_and_its_port_is_not_asked_as_well(
    version: str, armed: Home, provider: Provider
) -> None:
    # The refusals are delayed until both have asked; otherwise the plugin sends the second to the fallback at once.
    provider.script(PRIMARY, replace(limited(3600), delay=5.0))
    other = armed.project("other", git=True)
    with (
        Daemon(armed) as daemon,
        Serve(version, armed, armed.project("one", git=True), password="open sesame") as serve,
    ):
        sessions = [serve.create_session(), serve.create_session(directory=other)]
        serve.prompt_async(sessions[0], "Here", model=PRIMARY)
        serve.prompt_async(sessions[1], "There", model=PRIMARY, directory=other)
        serve.wait_answer(sessions[0], "answer of mock2/fallback", timeout=60)
        serve.wait_answer(sessions[1], "answer of mock2/fallback", timeout=60, directory=other)
        (sock,) = (state(armed) / "doors").glob("*.sock")
        assert sock.name == f"{serve.pid}.sock"
        # Without a password: the endpoint's own directory excludes other users.
        endpoint = Api(Endpoint(UnixAddress(str(sock)), serve.pid))
        assert endpoint.path().directory == str(serve.project)
        assert endpoint.session(sessions[1], str(other)).directory == str(other)
        refused = len(provider.requests(PRIMARY))  # 1 on a machine so busy that the second asked 5 s after the first
        assert len(daemon.wait_journal("moved", refused)) == refused
        assert len(daemon.journal("claim")) == refused


@pytest.mark.parametrize("version", [NEWEST, OLDEST])
def test_a_run_is_sent_elsewhere_beforehand(version: str, armed: Home, provider: Provider) -> None:
    register(armed, {PRIMARY: rests(FALLBACK)})
    done = run_prompt(version, armed, "Answer me", model=PRIMARY)
    assert (done.returncode, "answer of mock2/fallback" in done.stdout) == (0, True), done
    assert provider.requests(PRIMARY) == []


@pytest.mark.parametrize("version", [NEWEST, MIDDLE])
def test_a_run_in_retry_is_never_stopped(version: str, armed: Home, provider: Provider) -> None:
    provider.script(PRIMARY, limited(3600))
    with Daemon(armed) as daemon:
        command = run_command(version, "Wait if you must", model=PRIMARY)
        run = start(command, armed, armed.project(), armed.root / "run.out")
        try:
            daemon.wait_journal("left")
            assert facts(armed)[0]["status"] == 429
            settle(2)
            assert run.poll() is None
            assert daemon.journal("claim") == []
            assert provider.requests(FALLBACK) == []
        finally:
            stop(run)


def test_beside_another_fallback_plugin_it_stands_back(version: str, armed: Home, provider: Provider) -> None:
    (armed.config_dir / "plugin" / "my-model-fallback.js").write_text("export const Other = async () => ({})\n")
    register(armed, {PRIMARY: rests(FALLBACK)})
    with Serve(version, armed) as serve:
        session = serve.create_session()
        serve.prompt_async(session, "Who is in charge?", model=PRIMARY)
        serve.wait_answer(session, "answer of mock/primary")
        file = state(armed) / "doors" / f"{serve.pid}.json"
        wait_until(lambda: json.loads(file.read_text())["door"], 60, why="the endpoint to open")
        about = json.loads(file.read_text())
        assert about["standing_back"] == "another fallback plugin is active: my-model-fallback.js"
        assert (about["opencode"], about["door"]) == (version, True)


def test_what_another_fallback_plugin_does_not_move_is_moved_after_it_had_its_time(
    armed: Home, provider: Provider
) -> None:
    (armed.config_dir / "plugin" / "my-model-fallback.js").write_text("export const Other = async () => ({})\n")
    provider.script(PRIMARY, limited(3600))
    with Daemon(armed) as daemon, Serve(NEWEST, armed) as serve:
        session = serve.create_session()
        serve.prompt_async(session, "Who moves me?", model=PRIMARY)
        (left,) = daemon.wait_journal("left")
        assert "my-model-fallback.js" in left["why"]
        (claim,) = daemon.wait_journal("claim")
        assert epoch(claim["time"]) - epoch(left["time"]) == pytest.approx(10, abs=3)
        serve.wait_answer(session, "answer of mock2/fallback")
        assert len(serve.user_messages(session)) == 1


def register(home: Home, models: dict[str, Any] | str) -> None:
    state(home).mkdir(parents=True, mode=0o700, exist_ok=True)
    text = models if isinstance(models, str) else json.dumps({"version": 1, "models": models})
    (state(home) / "blacklist.json").write_text(text)


def rests(target: str, agent: str | None = None, seconds: float = 3600) -> dict[str, Any]:
    end = datetime.now(UTC) + timedelta(seconds=seconds)
    return {"until": end.isoformat().replace("+00:00", "Z"), "target": {"model": target, "agent": agent}}
