"""Tests of pools on a real OpenCode: ten sessions and three accounts, one of them limited, by the provider's record."""

from __future__ import annotations

import json
import time
from collections import Counter
from typing import Any

import pytest

from tests.support.daemon import Daemon, ocwatch
from tests.support.homes import ProviderSpec
from tests.support.opencode import NEWEST, Home, Serve, model_parts
from tests.support.processes import wait_until
from tests.support.provider import Ok, Provider, error, limited, slow
from tests.support.smart import Smart
from tests.support.strict import picture

pytestmark = pytest.mark.e2e

FIRST, SECOND, THIRD = ACCOUNTS = ("work/sonnet", "home/sonnet", "spare/sonnet")


@pytest.fixture
def accounts(home: Home) -> Home:
    """Three accounts with one model each."""
    home.providers = {
        **{name.partition("/")[0]: ProviderSpec(("sonnet",)) for name in ACCOUNTS},
        "smallco": ProviderSpec(("titles",)),
    }
    home.agents, home.model = {}, FIRST
    home.write_config()
    assert ocwatch(home, "plugin", "install").returncode == 0
    return home


def pool(strategy: str, **more: Any) -> dict[str, Any]:
    return {"sonnet": {"members": list(ACCOUNTS), "strategy": strategy, **more}}


def published(daemon: Daemon) -> dict[str, Any]:
    path = daemon.state / "blacklist.json"
    found = json.loads(path.read_text()).get("pools", {}) if path.exists() else {}
    return found if isinstance(found, dict) else {}


def register(daemon: Daemon) -> dict[str, Any]:
    found = json.loads((daemon.state / "blacklist.json").read_text())
    return found if isinstance(found, dict) else {}


def used(daemon: Daemon) -> dict[str, float]:
    """Return the load of each account by the daemon."""
    members = published(daemon).get("sonnet", {}).get("members", [])
    return Counter({member["model"]: member["load"] for member in members})


def asked(provider: Provider) -> Counter[str]:
    return Counter(request.model for request in provider.requests() if request.status == 200)


def test_ten_sessions_spread_over_what_is_free_and_stay_there(accounts: Home, provider: Provider) -> None:
    provider.script(FIRST, limited(3600))
    with Daemon(accounts, {}, pools=pool("round-robin")) as daemon, Serve(NEWEST, accounts) as serve:
        wait_until(lambda: published(daemon), 60, why="the pool in the blacklist")
        sessions = [serve.create_session() for _ in range(10)]
        for session in sessions:
            serve.prompt_async(session, "The first prompt", model=FIRST)
        for session in sessions:
            serve.wait_answer(session, "/sonnet", timeout=90)
        first = asked(provider)
        refused = len(provider.requests(FIRST))
        print(f"ten at once: {dict(first)} answered, {refused} refused by {FIRST}")
        # A third of the burst meets the limit, which was not known; the refused sessions are distributed as well.
        assert first.total() == 10 and refused <= 5
        assert all(3 <= first[account] <= 7 for account in (SECOND, THIRD))
        moving = {claim["session"] for claim in daemon.journal("claim")}
        wait_until(lambda: moving <= {end["session"] for end in daemon.journal("moved")}, 60, why="all moves to end")
        assert {claim["target"] for claim in daemon.journal("claim")} <= {SECOND, THIRD}
        homes = {session: serve.messages(session)[-1]["info"]["providerID"] for session in sessions}
        for session in sessions:
            serve.wait_status(session, "idle")
            serve.prompt_async(session, "The second prompt", model=FIRST)
        wait_until(lambda: asked(provider).total() == 20, 90, why="every second answer")
        # Each session continues on its account, and the limited account gets no more requests.
        assert {s: serve.messages(s)[-1]["info"]["providerID"] for s in sessions} == homes
        assert len(provider.requests(FIRST)) == refused
        fresh = [serve.create_session() for _ in range(4)]
        for session in fresh:
            serve.prompt_async(session, "A new session", model=FIRST)
        wait_until(lambda: asked(provider).total() == 24, 90, why="the new sessions' answers")
        assert len(provider.requests(FIRST)) == refused
        picked = daemon.ocwatch("pick", "sonnet").stdout.strip()
        assert picked in (SECOND, THIRD)
        assert not (daemon.state / "plugin-errors.log").exists()


def test_the_least_used_gets_the_next_by_weight_and_what_cools_is_out_until_it_is_back(
    accounts: Home, provider: Provider
) -> None:
    for name in ACCOUNTS:
        provider.script(name, Ok(f"answer of {name}", used=30_000 if name == SECOND else 1000))
    settings = {"pools": pool("least-used", weights={THIRD: 3}), "mode": "ask"}
    with Daemon(accounts, {}, **settings) as daemon, Serve(NEWEST, accounts) as serve:

        def begin(model: str = FIRST) -> str:
            session = serve.create_session()
            serve.prompt_async(session, "A first prompt", model=model)
            serve.wait_answer(session, "/sonnet")
            serve.wait_status(session, "idle")
            return session

        def answers(session: str) -> list[dict[str, Any]]:
            told = [message["info"] for message in serve.messages(session)]
            return [info for info in told if info["role"] == "assistant" and "completed" in info["time"]]

        def home_of(session: str) -> str:
            last = answers(session)[-1]
            return f"{last['providerID']}/{last['modelID']}"

        wait_until(lambda: published(daemon), 60, why="the pool in the blacklist")
        assert home_of(begin(SECOND)) == SECOND  # named, and not the first member: it is kept
        # Two small sessions beside it: alone it would count as one session, however large, and six begin at once.
        assert {home_of(begin(THIRD)) for _ in range(2)} == {THIRD}
        wait_until(lambda: used(daemon)[SECOND] > 2, 60, why="what the store says of three sessions")
        sessions = [begin() for _ in range(6)]
        spread = Counter(map(home_of, sessions))
        print(f"weights 1, 1, 3, the second one full: {dict(spread)}")
        assert spread[SECOND] == 0
        assert spread[THIRD] > spread[FIRST] >= 1
        resident = next(session for session in sessions if home_of(session) == THIRD)
        wait_until(lambda: used(daemon)[SECOND] > 4, 60, why="what the store says of nine sessions")
        assert daemon.ocwatch("block", THIRD, "--for", "1h").returncode == 0
        assert {home_of(begin()) for _ in range(3)} == {FIRST}
        serve.prompt_async(resident, "A second prompt", model=FIRST)
        serve.wait_answer(resident, f"answer of {FIRST}")
        serve.wait_status(resident, "idle")
        assert daemon.ocwatch("clear", THIRD).returncode == 0
        assert {home_of(begin()) for _ in range(2)} == {THIRD}
        serve.prompt_async(resident, "A third prompt", model=FIRST)
        wait_until(lambda: len(answers(resident)) == 3, why="the third answer")
        assert home_of(resident) == FIRST  # where its cache is now
        # A pool's name can be used wherever a model is named.
        provider.script(SECOND, limited(3600))
        stuck = serve.create_session()
        serve.prompt_async(stuck, "A stuck one", model=SECOND)
        daemon.wait_journal("offered")
        moved = daemon.ocwatch("redirect", stuck, "--to", "sonnet")
        assert moved.returncode == 0, moved
        serve.wait_answer(stuck, "answer of")
        serve.wait_status(stuck, "idle")
        assert home_of(stuck) in (FIRST, THIRD)
        said = Smart(accounts, NEWEST, None).run("run", "--model", "sonnet", "From a start of its own")
        assert (said.returncode, "answer of" in said.stdout) == (0, True)
        (asked_by_smart,) = [r for r in provider.requests() if r.count("From a start of its own")]
        assert asked_by_smart.model in (FIRST, THIRD)


def test_the_order_that_experience_teaches(home: Home, provider: Provider) -> None:
    """A fallback that failed comes last, and one that answered slowly later; `explain` shows the reasons."""
    provider.script("mock/primary", limited(3600))
    provider.script("mock2/fallback", error(401, {"error": {"message": "invalid key", "code": "invalid_api_key"}}))
    provider.script("mock/second", slow("answer of mock/second", 6.0, pieces=2))
    chain = {"mock/primary": ["mock2/fallback", "mock/second", "mock3/third"]}
    with Serve(NEWEST, home) as serve:

        def limited_prompt() -> str:
            session = serve.create_session()
            serve.prompt_async(session, "Who answers?", model="mock/primary")
            return session

        with Daemon(home, chain) as daemon:
            serve.wait_answer(limited_prompt(), "answer of mock/second")
            (moved,) = daemon.wait_journal("moved")
            assert moved["first_token_seconds"] > 2.5  # its first token takes three seconds
            assert daemon.ocwatch("block", "mock/second", "--for", "1h").returncode == 0
            serve.wait_answer(limited_prompt(), "answer of mock3/third")
            daemon.wait_journal("moved", 2)
            assert daemon.ocwatch("clear", "mock/second").returncode == 0
        with Daemon(home, chain, order="learnt") as daemon:
            before = len(provider.requests("mock2/fallback"))
            session = limited_prompt()
            daemon.wait_journal("moved", 3)
            told = " ".join(daemon.ocwatch("explain", session[-8:]).stdout.split())
            print(told)
            assert len(provider.requests("mock2/fallback")) == before == 2
            assert "-> mock3/third: available; by experience: 1 of 1 moves worked, in " in told
            assert " and the answer began " in told
            report = json.loads(daemon.ocwatch("report", "--json").stdout)
            assert {one["model"]: one["success_rate"] for one in report["fallbacks"]}["mock2/fallback"] == 0


def test_a_target_that_the_session_would_not_fit_into_is_passed_over(home: Home, provider: Provider) -> None:
    providers = home.config()["provider"]
    providers["mock2"]["models"]["fallback"]["limit"] = {"context": 8000, "output": 1000}
    home.settings = {"provider": providers}
    home.write_config()
    provider.script("mock/primary", limited(3600))
    provider.script("mock/second", limited(3600))
    chain = {"mock/primary": ["mock2/fallback", "mock3/third"], "mock/second": "mock2/fallback"}
    with Daemon(home, chain) as daemon, Serve(NEWEST, home) as serve:
        session, stuck, small = (serve.create_session() for _ in range(3))
        serve.prompt_async(session, "Sum this up: " + "word " * 10_000, model="mock/primary")
        serve.wait_answer(session, "answer of mock3/third", timeout=60)
        told = daemon.ocwatch("explain", session[-8:]).stdout
        assert "mock2/fallback: too small: the session has 12,5" in " ".join(told.split())
        serve.prompt_async(stuck, "Sum this up: " + "word " * 10_000, model="mock/second")
        (exhausted,) = daemon.wait_journal("exhausted")
        assert "the available models cannot run the session: mock2/fallback: too small" in exhausted["why"]
        by_hand = daemon.ocwatch("redirect", stuck)
        assert (by_hand.returncode, "too small" in by_hand.stderr) == (1, True)
        serve.prompt_async(small, "A short one", model="mock/second")
        serve.wait_answer(small, "answer of mock2/fallback", timeout=60)
        assert [request.count("A short one") for request in provider.requests("mock2/fallback")] == [1]
        print(told)


def test_prevention_pick_and_launcher_know_the_floor(home: Home, provider: Provider) -> None:
    """A session's content and the models' capabilities also decide where a new prompt goes."""
    providers = home.config()["provider"]
    providers["mock2"]["models"]["fallback"]["limit"] = {"context": 8000, "output": 1000}
    providers["mock3"]["models"]["third"] |= {
        "attachment": True,
        "modalities": {"input": ["text", "image"], "output": ["text"]},
    }
    home.settings = {"provider": providers}
    home.write_config()
    assert ocwatch(home, "plugin", "install").returncode == 0
    for name in ("mock/primary", "mock3/third"):
        provider.script(name, Ok(f"answer of {name}", used=9000))
    with Daemon(home, {"mock/primary": ["mock2/fallback", "mock3/third"]}) as daemon, Serve(NEWEST, home) as serve:
        long, seeing, short = (serve.create_session() for _ in range(3))
        serve.prompt_async(long, "Much was said", model="mock/primary")
        serve.wait_answer(long, "answer of mock/primary")
        assert daemon.ocwatch("block", "mock/primary", "--for", "1h").returncode == 0
        wait_until(lambda: "mock2/fallback" in register(daemon).get("capabilities", {}), 60, why="what models take")
        assert [row["model"] for row in register(daemon)["fallbacks"]["mock/primary"]] == [
            "mock2/fallback",
            "mock3/third",
        ]
        serve.wait_status(long, "idle")
        serve.prompt_async(long, "Go on", model="mock/primary")
        looks = {"parts": [{"type": "text", "text": "Look"}, picture()], "model": model_parts("mock/primary")}
        serve.request("POST", f"/session/{seeing}/prompt_async", looks)
        serve.prompt_async(short, "A short one", model="mock/primary")
        serve.wait_answer(long, "answer of mock3/third")
        serve.wait_answer(seeing, "answer of mock3/third")
        serve.wait_answer(short, "answer of mock2/fallback")
        assert len(provider.requests("mock/primary")) == 1
        daemon.wait_journal("prevented", 2)
        told = {name: " ".join(daemon.ocwatch("explain", name[-8:]).stdout.split()) for name in (long, seeing)}
        assert "a new prompt went to another model" in told[long]
        assert "- mock2/fallback: too small: the session has 9,0" in told[long]
        assert (
            "- mock2/fallback: does not support attachments of the kind image -> mock3/third: available" in told[seeing]
        )
        print(told[long])
        assert daemon.ocwatch("pick", "mock/primary").stdout == "mock2/fallback\n"
        assert daemon.ocwatch("pick", "mock/primary", "--session", long).stdout == "mock3/third\n"
        went = Smart(home, NEWEST, None).run("--print-env", "run", "-m", "mock/primary", "-s", long, "And on")
        assert "opencode run -m mock3/third" in went.stdout
        assert "mock2/fallback: too small" in went.stderr
        assert not (daemon.state / "plugin-errors.log").exists()


def test_a_forecast_from_headers_and_one_without(home: Home, provider: Provider) -> None:
    """The plugin sees the headers of answers, and the message store has the use; no request is made."""
    left = {
        "x-ratelimit-limit-requests": "50",
        "x-ratelimit-remaining-requests": "2",
        "x-ratelimit-reset-requests": "2h0m0s",
        "anthropic-ratelimit-unified-5h-utilization": "0.62",
        "anthropic-ratelimit-unified-5h-reset": str(int(time.time() + 3 * 3600)),
        "x-secret": "secret",
    }
    provider.script("mock/primary", Ok(headers=left))
    assert ocwatch(home, "plugin", "install").returncode == 0
    with Serve(NEWEST, home) as serve:
        for model in ("mock/primary", "mock2/fallback"):
            session = serve.create_session()
            serve.prompt_async(session, "Count me", model=model)
            serve.wait_answer(session, f"answer of {model}")
            serve.wait_status(session, "idle")
    said = json.loads(ocwatch(home, "forecast", "--json").stdout)
    by_model = {one["model"]: one for one in said["forecasts"]}
    exact, unknown = by_model["mock/primary"], by_model["mock2/fallback"]
    assert (exact["label"], exact["measure"], exact["limit"]) == ("exact", "requests", 50)
    assert exact["used"] in (48, 49)  # the answered message may be newer than its headers
    assert exact["hits"] < exact["free"]
    assert (unknown["label"], unknown["hits"], unknown["windows"][0]["requests"]) == ("not enough data", None, 1)
    (plan,) = said["plan_windows"]
    assert (plan["provider"], plan["window"], plan["used_percent"]) == ("mock", "5h", 62)
    assert plan["used_up"] < plan["resets"]
    files = [path.read_text() for path in (home.root / ".local/state/ocwatchd/allowances").iterdir()]
    assert len(files) == 1 and "secret" not in files[0]
    print(ocwatch(home, "forecast").stdout)
