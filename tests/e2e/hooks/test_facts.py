"""Tests of the requests that the plugin records, and that none of its faults reaches OpenCode."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from ocwatchd.opencode.plugin import install as plugin_file
from tests.support.bun import A, B, Bun, C, message, pooled, prompt, rests, went_to

pytestmark = pytest.mark.e2e


CHAT = "https://api.example.com/v1/chat/completions"


def announced(session: str, model: str = A, agent: Any = "build", **about: Any) -> dict[str, Any]:
    """Return the step in which OpenCode is about to ask a model."""
    provider, _, name = model.partition("/")
    known = {"id": name, "providerID": provider, "api": {"id": about.get("api", name)}}
    options = {"options": {"baseURL": about["url"]}} if "url" in about else {}
    said = {"sessionID": session, "agent": agent, "model": known, "provider": options}
    return {"act": "hook", "name": "chat.params", "input": said}


def asked(model: str = "a", url: str = CHAT, status: int = 429, answer: Any = None, **headers: str) -> dict[str, Any]:
    """Return a request to a provider, as the SDKs make it, and its response."""
    body = json.dumps(
        {"model": model, "messages": [{"role": "user", "content": "a secret prompt"}]}, separators=(",", ":")
    )
    sent = {name.replace("_", "-"): value for name, value in headers.items()} | {"authorization": "Bearer secret"}
    init = {"method": "POST", "headers": sent, "body": body}
    return {"act": "request", "url": url, "init": init, "status": status, "headers": answer or {}}


def test_a_refused_request_is_noted_and_passed_on_untouched(bun: Bun) -> None:
    told = {"Retry-After": "3600", "retry-after-ms": "3600000.5", "x-secret": "secret", "set-cookie": "secret"}
    _, back = bun.play(announced("ses_1"), asked(answer=told))
    assert back == {"status": 429, "body": "body", "preconnect": "kept"}
    (fact,) = bun.facts()
    assert datetime.fromisoformat(fact.pop("time")) <= datetime.now(UTC)
    assert isinstance(fact.pop("pid"), int)
    assert fact == {
        "version": 1,
        "session": "ses_1",
        "provider": "mock",
        "model": "a",
        "agent": "build",
        "small": False,
        "status": 429,
        "retry_after": "3600",
        "retry_after_ms": 3600000.5,
        "url_host": "api.example.com",
    }
    for path in bun.state.rglob("*"):
        assert path.is_dir() or "secret" not in path.read_text()
    assert {path.stat().st_mode & 0o777 for path in bun.state.glob("facts/*")} == {0o600}


@pytest.mark.parametrize(
    ("steps", "wanted"),
    [
        # requests to something else, and answered requests, are not recorded
        ([asked()], []),
        ([announced("ses_1"), asked("another")], []),
        ([announced("ses_1"), asked(status=200)], []),
        ([announced("ses_1"), {"act": "request", "url": CHAT, "init": {"method": "GET"}}], []),
        ([announced("ses_1", url="https://one.example/v1"), asked()], []),
        # the session: the only one, or the header's; two at once cannot be distinguished
        ([announced("ses_1", agent={"name": "title"}), asked()], ["ses_1 mock/a title True"]),
        ([announced("ses_1"), asked(), announced("ses_2", C), asked()], ["ses_1 mock/a build False"] * 2),
        ([announced("ses_1"), asked(), announced("ses_1", agent="plan"), asked()][2:], ["ses_1 mock/a plan False"]),
        ([announced("ses_1"), announced("ses_2"), asked()], ["None mock/a build False"]),
        ([announced("ses_1"), announced("ses_2", C), asked("c")], ["ses_2 mock3/c build False"]),
        ([announced("ses_1"), asked(), asked()], ["ses_1 mock/a build False"] * 2),
        ([announced("ses_1"), announced("ses_2"), asked(X_Session_Id="ses_2")], ["ses_2 mock/a build False"]),
        ([announced("ses_2"), asked("unnamed", x_session_affinity="ses_9")], ["ses_9 None/None None None"]),
        ([announced("ses_1"), asked("unnamed", x_session_id="17")], []),
        # the model by the provider's name for it; two providers with the same model
        ([announced("ses_1", api="vendor/a-1"), asked("vendor/a-1")], ["ses_1 mock/a build False"]),
        (
            [
                announced("ses_1", url="https://one.example/v1"),
                announced("ses_2", "other/a", url="https://api.example.com/v1/"),
                asked(),
            ],
            ["ses_2 other/a build False"],
        ),
        # protocols with the model in the path
        (
            [announced("ses_1", api="gemini-2.5"), asked("", "https://g.example/v1beta/models/gemini-2.5:stream?alt=sse")],
            ["ses_1 mock/a build False"],
        ),
        (
            [announced("ses_1", api="anthropic.x-v1:0"), asked("", "https://b.example/model/anthropic.x-v1%3A0/converse")],
            ["ses_1 mock/a build False"],
        ),
    ],
)  # fmt: skip
def test_who_asked_which_model(newest: Bun, steps: list[dict[str, Any]], wanted: list[str]) -> None:
    newest.play(*steps)
    facts = newest.facts()
    assert [f"{f['session']} {f['provider']}/{f['model']} {f['agent']} {f['small']}" for f in facts] == wanted
    assert newest.errors() == ""


ERROR = '{"error": {"message": "Rate limit reached, try again in 20m", "code": "rate_limit_exceeded"}}'
JSON, SSE = {"content-type": "application/json"}, {"content-type": "text/event-stream; charset=utf-8"}


@pytest.mark.parametrize(
    ("content", "headers", "wanted"),
    [
        (ERROR, JSON, {"body": ERROR}),
        (ERROR, {}, {"body": ERROR}),
        (ERROR, SSE | {"content-length": str(len(ERROR))}, {"body": ERROR}),
        ('[{"error": {"code": 429}}]', JSON, {"body": '[{"error": {"code": 429}}]'}),
        ('{"type": "error", "error": {"type": "overloaded_error"}}', JSON, {}),
        ("<!doctype html><title>Log in</title>", {"content-type": "text/html"}, {"page": True}),
        ('{"error": "key sk-live_0123456789abcdefghijklmnop"}', JSON, {"body": '{"error": "key …"}'}),
        # an answer, and responses that cannot be recognised as none
        ('{"id": "x", "choices": [{"message": {"content": "an error"}}], "error": null}', JSON, None),
        ('data: {"choices": []}\n\ndata: [DONE]\n\n', SSE, None),
        (ERROR, SSE, None),
        ('{"answer": 42}', JSON, None),
        ('{"error": ', JSON, None),
        ("", JSON, None),
        ('{"error": "' + "x" * 20_000 + '"}', JSON, None),
    ],
)
def test_what_comes_with_success_in_place_of_an_answer_is_noted(
    bun: Bun, content: str, headers: dict[str, str], wanted: dict[str, Any] | None
) -> None:
    """OpenCode neither logs nor stores the error, and asks again and again. The body that it reads is not changed."""
    _, back = bun.play(announced("ses_1"), {**asked(status=200, answer=headers), "content": content})
    assert back == {"status": 200, "body": content, "preconnect": "kept"}
    facts = bun.facts()
    assert len(facts) == (wanted is not None)
    if wanted is not None:
        assert (facts[0]["status"], facts[0]["session"]) == (200, "ses_1")
        assert {key: facts[0][key] for key in wanted} == wanted


def test_facts_do_not_grow_without_end(newest: Bun) -> None:
    newest.play(announced("ses_1"), {**asked(answer={"Retry-After": "9" * 5000}), "times": 5000})
    assert {len(fact["retry_after"]) for fact in newest.facts()} == {100}
    sizes = {path.suffix: path.stat().st_size for path in newest.state.glob("facts/*")}
    assert sizes[".1"] < 1.01 * 2**20
    assert sizes[".jsonl"] < 2**20


def test_an_unwritable_state_directory_changes_nothing(bun: Bun) -> None:
    bun.home.mkdir()
    (bun.home / ".local").write_text("no directory")
    started, output, _, back = bun.play({"act": "start"}, message(A), announced("ses_1"), asked())
    assert "chat.message" in started
    assert went_to(output) == "mock/a build"
    assert back["status"] == 429


def test_hooks_bear_whatever_they_are_given(bun: Bun) -> None:
    bun.register(**{A: rests(B)})
    odd: list[Any] = [None, {}, [], "text", 7, {"event": None}, {"model": 3, "provider": 3, "agent": 3}]
    names = ("chat.message", "chat.params", "config", "event")
    steps = [
        {"act": "hook", "name": n, "input": i, "output": o}
        for n in names
        for i in odd
        for o in (None, {}, {"parts": [1]})
    ]
    results = bun.play(*steps, message(A))
    assert [result for result in results if isinstance(result, dict) and "thrown" in result] == []
    assert went_to(results[-1]) == "mock2/b build"


@pytest.mark.parametrize("missing", [*plugin_file.PARTS, "all"])
def test_without_one_of_its_parts_the_rest_goes_on(newest: Bun, missing: str) -> None:
    newest.register(json.dumps({"version": 1, "models": {A: rests(B)}, "pools": pooled(a=9, b=9)}))
    gone = tuple(part for part in plugin_file.PARTS if missing in (part, "all"))
    output, pooled_output, _, _, about = newest.play(
        message(A), prompt(C, True, session="ses_2"), announced("ses_1"), asked(), newest.about(), without=gone
    )
    assert (went_to(output), went_to(pooled_output)) == ("mock2/b build", f"{C} build")
    assert about["about"]["door"] is not any("door" in part for part in gone)
    assert bool(newest.facts()) is not any("answers" in part for part in gone)
    noted = {line.split()[2] for line in newest.errors().splitlines()}
    assert noted == {f"{Path(part).name}:" for part in gone} - {"decisions.js:", "opencode2.js:"}  # OpenCode 2


def test_its_own_errors_are_noted_in_a_file_that_stays_small(bun: Bun) -> None:
    bun.register("{not json")
    bun.play(message(A), message(A))
    assert bun.errors().count("blacklist.json: ") == 1
    assert len(bun.errors()) < 500


@pytest.mark.parametrize("daemon", [True, False])
@pytest.mark.parametrize("status", [429, 503, 400])
def test_a_prompt_for_a_model_that_was_just_refused_waits_for_the_decision(bun: Bun, daemon: bool, status: int) -> None:
    """The prompt then goes to the fallback without being refused.

    It does not wait without a daemon, nor for an error.
    """
    bun.state.mkdir(parents=True, exist_ok=True)
    if daemon:
        (bun.state / "daemon.json").write_text("{}")
    entered = json.dumps({"version": 1, "models": {A: rests(B)}})
    enters = {"act": "soon", "ms": 300, "path": str(bun.state / "blacklist.json"), "text": entered}
    *_, went = bun.play(announced("ses_1"), asked(status=status), enters, message(A))
    assert went_to(went) == f"{B if daemon and status != 400 else A} build"


def test_the_windows_of_plans_are_noted_and_nothing_that_could_be_a_key(bun: Bun) -> None:
    wanted = {
        "anthropic-ratelimit-unified-5h-utilization": "0.42",
        "anthropic-ratelimit-unified-7d-reset": "1790814600",
        "anthropic-ratelimit-unified-7d_sonnet-utilization": "0.1",
        "anthropic-ratelimit-tokens-reset": "2026-12-01T00:00:00Z",
        "x-ratelimit-reset-requests": "6m0s",
        "x-ratelimit-reset": "Tue, 01 Dec 2026 00:00:00 GMT",
        "x-codex-primary-used-percent": "12.5",
        "x-codex-bengalfox-secondary-reset-after-seconds": "600",
        "x-quota-snapshot-premium_interactions": "ent=1500&ov=0.0&ovPerm=false&rem=31.3&rst=2026-12-01T00%3A00%3A00Z",
        "x-usage-ratelimit-weekly": "ent=200&rem=89.0&rst=2026-12-07T00:00:00Z",
    }
    kept_out = {
        "x-codex-turn-state": "abc",
        "x-codex-plan-type": "plus",
        "x-quota-snapshot-chat": "token=sk4Fa9c2Kd8Lm3Qx7Rt1Wz6Yb5Nh0Pv",
        "x-ratelimit-remaining-tokens": "{secret}",
        "x-ratelimit-limit": "9" * 200,
        "x-secret": "secret",
    }
    bun.play(announced("ses_1"), asked(status=200, answer=wanted | kept_out))
    (path,) = (bun.state / "allowances").iterdir()
    assert json.loads(path.read_text())["headers"] == wanted


KEPT = ": OPENROUTER PROCESSING\n\n"
PING = 'event: ping\ndata: {"type": "ping"}\n\n'
TEXT = 'data: {"choices": [{"delta": {"content": "word"}}]}\n\n'


def streamed(*pieces: tuple[int, str], session: str = "ses_1", **more: Any) -> dict[str, Any]:
    """Return a streamed answer, whose pieces come after so many seconds each."""
    step = asked(answer=SSE, x_session_id=session)
    timed = [(seconds * 1000, text) for seconds, text in pieces]
    return {**step, "act": "stream", "pieces": timed, **more}


def kept_alive(bun: Bun) -> dict[str, str]:
    """Return the recorded times by session."""
    files = list(bun.state.glob("keep-alives/*.json"))
    assert {path.stat().st_mode & 0o777 for path in files} <= {0o600}
    found: dict[str, str] = {}
    for path in files:
        document = json.loads(path.read_text())
        assert document["version"] == 1
        found |= document["sessions"]
    return found


@pytest.mark.parametrize("piece", [KEPT, ":\n\n", "\r\n", PING, PING.replace("\n", "\r\n"), KEPT + KEPT])
def test_keep_alives_of_a_silent_stream_are_recorded(bun: Bun, piece: str) -> None:
    _, read = bun.play(announced("ses_1"), streamed((0, TEXT), (6, piece), (6, piece), (6, TEXT)))
    assert read == {"read": [TEXT, piece, piece, TEXT]}
    (at,) = kept_alive(bun).values()
    assert 11 < datetime.fromisoformat(at).timestamp() - datetime.now(UTC).timestamp() < 12.5
    assert bun.errors() == ""


@pytest.mark.parametrize(
    "pieces",
    [
        [(6, KEPT), (3, KEPT)],
        [(6, KEPT), (6, TEXT), (6, KEPT), (6, TEXT)],  # events of the answer between them
        [(20, "x"), (20, TEXT), (20, KEPT + TEXT), (20, PING.replace("ping", "message"))],
        [(20, 'data: {"choices": []}\n\n'), (20, "data: : keep-alive\n\n"), (20, KEPT * 20)],
    ],
)
def test_what_is_no_keep_alive_of_a_silent_stream_is_not(newest: Bun, pieces: list[tuple[int, str]]) -> None:
    _, read = newest.play(announced("ses_1"), streamed(*pieces))
    assert read["read"] == [text for _, text in pieces]
    assert not (newest.state / "keep-alives").exists()


def test_keep_alives_are_recorded_by_session_and_seldom(newest: Bun) -> None:
    often = [(1, KEPT)] * 25
    newest.play(
        announced("ses_1"),
        announced("ses_2", C),
        streamed(*often),
        streamed(*often[:12], session="ses_2"),
        streamed((400, KEPT), session="ses_3"),
    )
    assert list(kept_alive(newest)) == ["ses_3"], "the others are older than five minutes"


def test_a_title_and_an_answer_that_is_no_stream_are_not_watched(newest: Bun) -> None:
    newest.play(
        announced("ses_1", agent={"name": "title"}),
        streamed((20, KEPT)),
        announced("ses_2", C),
        {**streamed((20, KEPT), session="ses_2"), "headers": JSON},
    )
    assert not (newest.state / "keep-alives").exists()


def test_a_watched_stream_fails_and_ends_as_without_the_plugin(bun: Bun) -> None:
    _, failed, stopped = bun.play(
        announced("ses_1"), streamed((0, TEXT), fails="reset by peer"), streamed((0, TEXT), (0, TEXT), cancel=1)
    )
    assert failed == {"read": [TEXT], "failed": "reset by peer"}
    assert stopped == {"read": [TEXT], "cancelled": "enough"}


def test_keep_alives_that_cannot_be_recorded_do_not_harm_the_answer(newest: Bun) -> None:
    newest.state.mkdir(parents=True)
    (newest.state / "keep-alives").write_text("in the way of a directory")
    _, read = newest.play(announced("ses_1"), streamed((20, KEPT), (1, TEXT)))
    assert read["read"] == [KEPT, TEXT]
    assert "stream: " in newest.errors()
