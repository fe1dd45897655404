"""The companion plugin alone, under the Bun inside OpenCode's own binaries: its hooks, its files, its door."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from ocwatchd.core.pools import ROUND_ROBIN, Pool, order
from ocwatchd.opencode import plugin_file
from tests.support.opencode import NEWEST, OLDEST, binary

pytestmark = pytest.mark.e2e

DRIVER = Path(__file__).parents[1] / "support" / "plugin_driver.mjs"
A, B, C = "mock/a", "mock2/b", "mock3/c"


@dataclass(frozen=True)
class Bun:
    """The plugin in a home of its own, under the Bun of one OpenCode."""

    version: str
    home: Path
    tui: bool = False

    @property
    def state(self) -> Path:
        return self.home / ".local/state/ocwatchd"

    def play(
        self, *steps: dict[str, Any], env: dict[str, str] | None = None, without: tuple[str, ...] = ()
    ) -> list[Any]:
        """Start the plugin (`without` some of its parts), then the steps; what each of them came to."""
        self.home.mkdir(exist_ok=True)
        plugin = self.home / plugin_file.NAME
        for name in {plugin_file.NAME, *plugin_file.PARTS} - {*without}:
            part = self.home / name
            part.parent.mkdir(exist_ok=True)
            part.write_bytes(plugin_file.shipped(name))
        whole = [*([] if steps[0]["act"] == "start" else [{"act": "start"}]), *steps]
        done = subprocess.run(
            [str(binary(self.version)), str(DRIVER)],
            env={"BUN_BE_BUN": "1", "HOME": str(self.home), "PATH": os.environ["PATH"], "TZ": "UTC"}
            | ({"IN_WORKER": "1"} if self.tui else {})
            | (env or {}),
            input=json.dumps({"plugin": str(plugin), "steps": whole}),
            capture_output=True,
            text=True,
            timeout=30,
        )
        assert done.returncode == 0, done.stderr
        results = json.loads(done.stdout)
        assert isinstance(results, list)
        return results[len(whole) - len(steps) :]

    def register(self, text: str | None = None, **models: Any) -> None:
        self.state.mkdir(parents=True, exist_ok=True)
        entries = {name.replace("__", "/"): entry for name, entry in models.items()}
        (self.state / "blacklist.json").write_text(text or json.dumps({"version": 1, "models": entries}))

    @property
    def doors(self) -> Path:
        return self.state / "doors"

    def about(self) -> dict[str, Any]:
        """The step that looks at the process's own files."""
        return {"act": "about", "doors": str(self.doors)}

    def facts(self) -> list[dict[str, Any]]:
        return [json.loads(line) for path in self.state.glob("facts/*.jsonl") for line in path.read_text().splitlines()]

    def errors(self) -> str:
        path = self.state / "plugin-errors.log"
        return path.read_text() if path.exists() else ""


@pytest.fixture(params=[NEWEST, OLDEST])
def bun(request: pytest.FixtureRequest, tmp_path: Path) -> Bun:
    return Bun(request.param, tmp_path / "home")


@pytest.fixture
def newest(tmp_path: Path) -> Bun:
    return Bun(NEWEST, tmp_path / "home")


def at(seconds: float) -> str:
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat().replace("+00:00", "Z")


def rests(
    target: str | None = None, agent: str | None = None, until: str | None = "later", **more: Any
) -> dict[str, Any]:
    end = at(3600) if until == "later" else until
    return {"until": end, "target": {"model": target, "agent": agent} if target else None, **more}


def message(model: str, agent: str = "build", parts: int = 1) -> dict[str, Any]:
    provider, _, name = model.partition("/")
    output = {"message": {"agent": agent, "model": {"providerID": provider, "modelID": name}}, "parts": [{}] * parts}
    return {"act": "hook", "name": "chat.message", "input": {"sessionID": "ses_1"}, "output": output}


def went_to(output: dict[str, Any]) -> str:
    chosen = output["message"]
    return f"{chosen['model']['providerID']}/{chosen['model']['modelID']} {chosen['agent']}"


# ---- prevention


@pytest.mark.parametrize(
    ("register", "asked", "wanted"),
    [
        ({"mock/a": rests(B)}, A, "mock2/b build"),
        ({"mock/a": rests(B, "claude-fallback")}, A, "mock2/b claude-fallback"),
        ({"mock/a": rests("openrouter/x/y:free")}, A, "openrouter/x/y:free build"),
        ({"mock/a": rests(B)}, C, "mock3/c build"),
        ({"mock/a": rests(B, until=None)}, A, "mock2/b build"),
        ({"mock/a": rests(B, until=at(-1))}, A, "mock/a build"),
        ({"mock/a": rests(B, until="2999-01-01T00:00:00")}, A, "mock2/b build"),
        ({"mock/a": rests(B, until="2999-01-01T00:00:00+02:00")}, A, "mock2/b build"),
        ({"mock/a": rests(B, until="soon")}, A, "mock/a build"),
        ({"mock/a": {"target": {"model": B}}}, A, "mock/a build"),
        ({"mock/a": rests()}, A, "mock/a build"),
        ({"mock/a": rests("nonsense")}, A, "mock/a build"),
        ({"mock/a": "nonsense", "mock/*": None, "mock2/b": 3}, A, "mock/a build"),
        # a whole provider; the free models of one
        ({"mock/*": rests(B)}, A, "mock2/b build"),
        ({"mock/*": rests(B)}, "mocking/a", "mocking/a build"),
        ({"o/x:free": rests(B, scope="free_tier")}, "o/y:free", "mock2/b build"),
        ({"o/x-free": rests(B, scope="free_tier")}, "o/y-free", "mock2/b build"),
        ({"o/x:free": rests(B, scope="free_tier")}, "o/y", "o/y build"),
        ({"o/x:free": rests(B, scope="model")}, "o/y:free", "o/y:free build"),
        ({"o/x:free": rests(B, scope="free_tier")}, "p/y:free", "p/y:free build"),
        # a target that is listed itself is followed, never in a circle; of two entries the longer one counts
        ({"mock/a": rests(B), "mock2/b": rests(C, "c-agent")}, A, "mock3/c c-agent"),
        ({"mock/a": rests(B), "mock2/*": rests(C)}, A, "mock3/c build"),
        ({"mock/a": rests(B), "mock2/b": rests(A)}, A, "mock/a build"),
        # a limit that is only foreseen keeps prompts away where something else is free
        ({"mock/a": rests(B, told_by="forecast")}, A, "mock2/b build"),
        ({"mock/a": rests(B, told_by="forecast"), "mock2/b": rests(C)}, A, "mock3/c build"),
        ({"mock/a": rests(B, told_by="forecast"), "mock2/b": rests()}, A, "mock/a build"),
        ({"mock/a": rests(B), "mock2/b": rests(C, told_by="forecast")}, A, "mock3/c build"),
        ({"mock/a": rests(B), "mock2/b": rests(told_by="forecast")}, A, "mock2/b build"),
        ({"mock/a": rests(B), "mock2/b": rests(C, told_by="forecast"), "mock3/c": rests()}, A, "mock2/b build"),
        ({"mock/a": rests(A)}, A, "mock/a build"),
        ({"mock/a": rests(B), "mock2/b": rests()}, A, "mock/a build"),
        ({"mock/a": rests(B), "mock2/b": rests(C), "mock3/c": rests(B)}, A, "mock/a build"),
        ({"mock/a": rests(B, until=at(60)), "mock/*": rests(C)}, A, "mock3/c build"),
    ],
)
def test_a_prompt_goes_where_the_register_says(newest: Bun, register: Any, asked: str, wanted: str) -> None:
    newest.register(**register)
    (output,) = newest.play(message(asked))
    assert went_to(output) == wanted
    assert newest.errors() == ""


def test_who_may_do_less_keeps_the_agent(bun: Bun) -> None:
    bun.register(**{A: rests(B, "claude-fallback")})
    settings = {"agent": {"reviewer": {"mode": "subagent"}, "writer": {"mode": "primary"}}}
    _, *outputs = bun.play(
        {"act": "hook", "name": "config", "input": settings},
        *(message(A, agent) for agent in ("reviewer", "writer", "plan", "general", "claude-primary")),
    )
    assert [went_to(output) for output in outputs] == [
        "mock2/b reviewer",
        "mock2/b claude-fallback",
        "mock2/b plan",
        "mock2/b general",
        "mock2/b claude-fallback",
    ]


def test_a_message_that_the_daemon_runs_again_is_left_alone(bun: Bun) -> None:
    bun.register(**{A: rests(B)})
    (output,) = bun.play(message(A, parts=0))
    assert went_to(output) == "mock/a build"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "null",
        "[]",
        '"text"',
        '{"version": 2, "models": {"mock/a": {"until": null, "target": {"model": "mock2/b"}}}}',
        '{"version": "1", "models": 7}',
        '{"version": {}, "models": {"mock/a": {"until": null, "target": {"model": "mock2/b"}}}}',
        '{"version": 1, "models": [{"until": null, "target": {"model": "mock2/b"}}]}',
        "\x00" * 1000,
    ],
)
def test_a_register_that_cannot_be_understood_changes_nothing(newest: Bun, text: str) -> None:
    newest.register(text or " ")
    (output,) = newest.play(message(A))
    assert went_to(output) == "mock/a build"


@pytest.mark.parametrize("kind", ["directory", "pipe", "link", "huge", "closed"])
def test_something_else_in_the_registers_place_changes_nothing(newest: Bun, kind: str) -> None:
    newest.state.mkdir(parents=True)
    place = newest.state / "blacklist.json"
    sound = json.dumps({"version": 1, "models": {A: rests(B)}})
    if kind == "directory":
        place.mkdir()
    elif kind == "pipe":
        os.mkfifo(place)
    elif kind == "link":
        (newest.home / "elsewhere.json").write_text(sound)
        place.symlink_to(newest.home / "elsewhere.json")
    elif kind == "huge":
        place.write_text(sound + " " * (9 << 20))
    elif kind == "closed":
        newest.register("{}")
        place.unlink()
    (output,) = newest.play(message(A))
    assert went_to(output) == "mock/a build"


def test_a_change_of_the_register_holds_for_the_next_prompt(bun: Bun) -> None:
    place = str(bun.state / "blacklist.json")

    def write(*models: str) -> dict[str, Any]:
        return {"act": "write", "path": place, "text": json.dumps({"models": {name: rests(B) for name in models}})}

    steps = [message(A), write(A), message(A), write(C), message(A), write(A), message(A)]
    outputs = bun.play(*steps)
    assert [went_to(outputs[at]) for at in (0, 2, 4, 6)] == [
        "mock/a build",
        "mock2/b build",
        "mock/a build",
        "mock2/b build",
    ]


def test_prevention_costs_next_to_nothing(bun: Bun) -> None:
    many = {f"mock{n}/m{n}": rests(B) for n in range(50)}
    bun.register(**many, **{A: rests(B)})
    chosen = message(A)["output"]["message"]
    (spent,) = bun.play({"act": "time", "rounds": 2000, "message": chosen})
    print(f"{bun.version}: median {spent['median']:.4f} ms, p99 {spent['p99']:.4f} ms")
    assert spent["median"] <= 0.2


def test_the_person_is_told_once_per_cooldown(bun: Bun) -> None:
    bun.register(**{A: rests(B, since="2026-11-22T10:00:00Z"), C: rests(B, until=None)})
    again = {"act": "write", "path": str(bun.state / "blacklist.json")}
    later = {"models": {A: rests(B, since="2026-11-22T12:00:00Z", told_by="forecast")}}
    *_, toasts = bun.play(
        *(message(A), message(A), message(C), message(C)),
        {**again, "text": json.dumps(later)},
        *(message(A), message(A), message(B)),
        {"act": "toasts"},
    )
    assert [toast["title"] for toast in toasts] == [
        f"{A} is limited",
        f"{C} is limited",
        f"{A} is about to be limited",
    ]
    assert all(toast["message"].startswith(f"Prompts go to {B} until ") for toast in toasts)


# ---- return


def prompt(model: str, named: bool, agent: str = "build", session: str = "ses_1") -> dict[str, Any]:
    """A prompt for which OpenCode has settled on `model`, because it was named or because the session used it last."""
    step = message(model, agent)
    step["input"] = {"sessionID": session} | ({"model": step["output"]["message"]["model"]} if named else {})
    return step


def moved(since: float = -60, **sessions: tuple[str, str]) -> str:
    entries = {
        name: {"from": {"model": origin}, "to": {"model": target}, "since": at(since)}
        for name, (origin, target) in sessions.items()
    }
    return json.dumps({"version": 1, "sessions": entries})


@pytest.mark.parametrize(
    ("register", "prompts", "wanted"),
    [
        # a session that the daemon moved from A to B; a prompt that names no model comes with B
        ({}, [prompt(B, False)], A),
        ({}, [prompt(B, False, session="ses_2")], B),
        ({}, [prompt(B, False, "bound")], B),
        ({}, [prompt(C, False)], C),
        ({A: rests(B)}, [prompt(B, False)], B),
        ({A: rests(C), B: rests(C)}, [prompt(B, False)], C),
        # whoever names a model is obeyed from then on
        ({}, [prompt(B, True)], B),
        ({}, [prompt(B, True), prompt(B, False)], B),
        ({}, [prompt(A, True), prompt(B, False)], A),
        # what prevention moved comes back as well
        ({C: rests(B, until=None)}, [prompt(C, True, session="ses_2"), {}, prompt(B, False, session="ses_2")], C),
        ({A: rests(B), B: rests(C)}, [prompt(B, False), {}, prompt(C, False)], A),
    ],
)
def test_a_moved_session_comes_back(newest: Bun, register: Any, prompts: list[dict[str, Any]], wanted: str) -> None:
    newest.register(**register)
    (newest.state / "moved.json").write_text(moved(ses_1=(A, B)))
    free = {"act": "write", "path": str(newest.state / "blacklist.json"), "text": '{"version": 1, "models": {}}'}
    settings = {"agent": {"bound": {"model": B}, "loose": {}}}
    results = newest.play({"act": "hook", "name": "config", "input": settings}, *(step or free for step in prompts))
    assert went_to(results[-1]).split()[0] == wanted
    assert newest.errors() == ""


def choose(bun: Bun, model: str) -> dict[str, Any]:
    """The step that a person chooses a model in a TUI, as OpenCode 1.0 to 1.18 writes it down."""
    provider, _, name = model.partition("/")
    chosen = {"recent": [{"providerID": provider, "modelID": name}], "favorite": [], "variant": {}}
    return {"act": "write", "path": str(bun.home / ".local/state/opencode/model.json"), "text": json.dumps(chosen)}


@pytest.mark.parametrize(
    ("register", "before", "chosen", "prompts", "wanted"),
    [
        # a TUI that shows a moved session anew names the stand-in, which nobody chose
        ({}, None, None, [prompt(B, True)], A),
        ({}, B, None, [prompt(B, True)], A),
        ({}, None, C, [prompt(B, True)], A),
        ({A: rests(B)}, None, None, [prompt(B, True)], B),
        ({}, None, None, [prompt(C, True), prompt(B, True)], B),
        # an agent's own model; somebody's choice, then and later
        ({}, None, None, [prompt(B, True, "bound")], B),
        ({}, None, B, [prompt(B, True)], B),
        ({}, A, B, [prompt(B, True), prompt(B, True)], B),
        ({}, None, None, [prompt(A, True), prompt(B, True)], A),
    ],
)
def test_a_tui_names_a_stand_in_that_nobody_chose(
    newest: Bun, register: Any, before: str | None, chosen: str | None, prompts: list[Any], wanted: str
) -> None:
    tui = replace(newest, tui=True)
    tui.register(**register)
    (tui.state / "moved.json").write_text(moved(ses_1=(A, B)))
    if before is not None:
        written = choose(tui, before)
        path = Path(written["path"])
        path.parent.mkdir(parents=True)
        path.write_text(written["text"])
    settings = {"agent": {"bound": {"model": B}}}
    known = {"act": "hook", "name": "config", "input": settings}
    results = tui.play(known, *([choose(tui, chosen)] if chosen else []), *prompts)
    assert went_to(results[-1]).split()[0] == wanted
    assert tui.errors() == ""


def test_with_its_model_a_session_gets_its_agent_back(newest: Bun) -> None:
    tui = replace(newest, tui=True)
    tui.register()
    entry = {"from": {"model": A, "agent": "build"}, "to": {"model": B, "agent": "spare"}, "since": at(-60)}
    (tui.state / "moved.json").write_text(json.dumps({"version": 1, "sessions": {"ses_1": entry}}))
    known = {"act": "hook", "name": "config", "input": {"agent": {"spare": {"model": B}}}}
    (*_, spared, toasts) = tui.play(known, prompt(B, True, "spare"), {"act": "toasts"})
    assert went_to(spared) == f"{A} build"
    assert [toast["title"] for toast in toasts] == [f"{A} is free again"]


def test_where_a_session_came_from_outlives_the_process(newest: Bun) -> None:
    tui = replace(newest, tui=True)
    tui.register(**{A: rests(B)})
    tui.play(prompt(A, True, session="ses_2"))
    kept = newest.state / "origins" / "ses_2.json"
    assert (kept.stat().st_mode & 0o777, kept.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    tui.register()
    for bun, step in ((newest, prompt(B, False, session="ses_2")), (tui, prompt(B, True, session="ses_2"))):
        (output,) = bun.play(step)
        assert went_to(output) == f"{A} build"

    tui.play(choose(tui, B), prompt(B, True, session="ses_2"))
    (output,) = tui.play(prompt(B, True, session="ses_2"))
    assert went_to(output) == f"{B} build", "chosen by hand, in an earlier process"

    long_ago = kept.stat().st_mtime - 31 * 86_400
    os.utime(kept, (long_ago, long_ago))
    tui.play(prompt(B, True))
    assert not kept.exists()


@pytest.mark.parametrize("text", ["", "{", '{"version": 2, "sessions": {}}', '{"sessions": {"ses_1": 3}}', "[]"])
def test_a_broken_list_of_moved_sessions_changes_nothing(newest: Bun, text: str) -> None:
    newest.register()
    (newest.state / "moved.json").write_text(text.replace("{}", moved(ses_1=(A, B))) or " ")
    (output,) = newest.play(prompt(B, False))
    assert went_to(output) == "mock2/b build"


# ---- other movers


@pytest.mark.parametrize(
    ("plugins", "rival"),
    [
        (None, None),
        ([], None),
        (["opencode-anthropic-auth@0.0.5", "@me/tools", ["opencode-wakatime", {"a": 1}]], None),
        (["file:///home/me/.config/opencode/plugin/rate-limit-fallback.js"], None),
        (["file:///home/me/fallback-project/.opencode/plugin/notify.js"], None),
        (["oh-my-opencode"], "oh-my-opencode"),
        (["x", "oh-my-openagent@latest"], "oh-my-openagent"),
        (["@renjfk/opencode-model-fallback@1.2.3"], "@renjfk/opencode-model-fallback"),
        ([["opencode-auto-fallback", {"models": []}]], "opencode-auto-fallback"),
        (["file:///home/me/.config/opencode/plugins/model-fallback.ts"], "model-fallback.ts"),
        (["file:///srv/node_modules/oh-my-opencode-slim/dist/index.js"], "oh-my-opencode-slim"),
        (["file:///srv/node_modules/@me/failover/dist/index.js"], "@me/failover"),
    ],
)
def test_another_mover_makes_it_stand_back_and_say_so(newest: Bun, plugins: Any, rival: str | None) -> None:
    newest.register(**{A: rests(B)})
    settings = {} if plugins is None else {"plugin": plugins}
    _, output, seen = newest.play({"act": "hook", "name": "config", "input": settings}, message(A), newest.about())
    assert went_to(output) == ("mock2/b build" if rival is None else "mock/a build")
    assert seen["about"]["standing_back"] == (rival and f"another fallback plugin is active: {rival}")


# ---- the door


def test_the_door_passes_requests_on_with_the_password_and_goes_with_the_process(bun: Bun) -> None:
    post = {"method": "POST", "body": '{"a": 1}', "headers": {"content-type": "application/json"}}
    first, second, passed, seen = bun.play(
        {"act": "start"},
        {"act": "start", "directory": "/another/project"},
        {"act": "through", "socket": str(bun.doors), "path": "//evil.example/session?directory=%2Fp", "init": post},
        bun.about(),
    )
    assert first == second == ["chat.message", "chat.params", "config", "dispose", "event"]
    assert passed["status"] == 200
    served = passed["served"]
    assert served["url"].startswith("http://localhost:4096/")
    assert served["url"].endswith("/session?directory=%2Fp")
    assert served["body"] == '{"a": 1}'
    assert served["headers"]["authorization"] == "Basic c2VjcmV0"
    assert "x-opencode-directory" not in served["headers"]
    assert seen["modes"] == {"PID.sock": 0o600, "PID.json": 0o600}
    assert seen["mode"] == 0o700
    assert (seen["about"]["door"], seen["about"]["directory"], seen["about"]["plugin"]) == (True, "/project", "1")
    assert list(bun.doors.iterdir()) == []


def test_a_home_with_a_long_path_has_a_door_too(bun: Bun) -> None:
    deep = Bun(bun.version, bun.home / ("d" * 120))
    deep.home.parent.mkdir()
    passed, seen = deep.play({"act": "through", "socket": str(deep.doors), "path": "/path"}, deep.about())
    assert passed["json"] == {"path": "/path"}
    assert len(seen["own"]) > 150


def test_an_asker_that_gives_up_interrupts_nothing_but_its_event_stream(bun: Bun) -> None:
    paths = ("/config/providers", "/event", "/global/event", "/session/ses_1/prompt_async")
    interrupted = bun.play(*({"act": "leave", "socket": str(bun.doors), "path": path} for path in paths))
    assert interrupted == [False, True, True, False]


def test_a_door_that_others_could_open_is_closed_to_them(bun: Bun) -> None:
    bun.doors.mkdir(parents=True)
    bun.doors.chmod(0o777)
    (seen,) = bun.play(bun.about())
    assert seen["mode"] == 0o700
    assert seen["modes"]["PID.sock"] == 0o600


def test_the_door_closes_with_the_last_project_and_opens_again_if_opencode_goes_on(newest: Bun) -> None:
    def closed(directory: str, old: bool = False) -> dict[str, Any]:
        event = {"event": {"type": "server.instance.disposed", "properties": {"directory": directory}}}
        return {"act": "hook", "name": "event" if old else "dispose", "input": event, "directory": directory}

    seen = newest.play(
        *({"act": "start"}, {"act": "start", "directory": "/second"}),
        *(closed("/second"), newest.about()),
        *(closed("/project", old=True), newest.about()),
        *({"act": "start"}, newest.about()),  # loaded anew at once
        *(closed("/project"), newest.about(), {"act": "sleep", "ms": 3300}, newest.about()),
        {"act": "through", "socket": str(newest.doors), "path": "/path"},
    )
    assert [look["about"] is not None for look in seen if look and "about" in look] == [True, False, True, False, True]
    assert seen[-1]["json"] == {"path": "/path"}


def test_without_a_fetch_there_is_no_door_and_a_note(bun: Bun) -> None:
    bun.register(**{A: rests(B)})
    for client in ("bare", "other"):
        seen, output = bun.play({"act": "start", "client": client}, bun.about(), message(A))[1:]
        assert seen["about"]["door"] is False
        assert went_to(output) == "mock2/b build"
    assert "has no fetch" in bun.errors()


# ---- facts

CHAT = "https://api.example.com/v1/chat/completions"


def announced(session: str, model: str = A, agent: Any = "build", **about: Any) -> dict[str, Any]:
    """OpenCode is about to ask a model."""
    provider, _, name = model.partition("/")
    known = {"id": name, "providerID": provider, "api": {"id": about.get("api", name)}}
    options = {"options": {"baseURL": about["url"]}} if "url" in about else {}
    said = {"sessionID": session, "agent": agent, "model": known, "provider": options}
    return {"act": "hook", "name": "chat.params", "input": said}


def asked(model: str = "a", url: str = CHAT, status: int = 429, answer: Any = None, **headers: str) -> dict[str, Any]:
    """A request to a provider, as the SDKs make it, and what comes back."""
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
        # what is no model request, or was answered, is not noted
        ([asked()], []),
        ([announced("ses_1"), asked("another")], []),
        ([announced("ses_1"), asked(status=200)], []),
        ([announced("ses_1"), {"act": "request", "url": CHAT, "init": {"method": "GET"}}], []),
        ([announced("ses_1", url="https://one.example/v1"), asked()], []),
        # who asked: one session, or the header's; two at once cannot be told apart
        ([announced("ses_1", agent={"name": "title"}), asked()], ["ses_1 mock/a title True"]),
        ([announced("ses_1"), asked(), announced("ses_2", C), asked()], ["ses_1 mock/a build False"] * 2),
        ([announced("ses_1"), asked(), announced("ses_1", agent="plan"), asked()][2:], ["ses_1 mock/a plan False"]),
        ([announced("ses_1"), announced("ses_2"), asked()], ["None mock/a build False"]),
        ([announced("ses_1"), announced("ses_2", C), asked("c")], ["ses_2 mock3/c build False"]),
        ([announced("ses_1"), asked(), asked()], ["ses_1 mock/a build False"] * 2),
        ([announced("ses_1"), announced("ses_2"), asked(X_Session_Id="ses_2")], ["ses_2 mock/a build False"]),
        ([announced("ses_2"), asked("unnamed", x_session_affinity="ses_9")], ["ses_9 None/None None None"]),
        ([announced("ses_1"), asked("unnamed", x_session_id="17")], []),
        # the model by the provider's own name for it; two providers that have one model
        ([announced("ses_1", api="vendor/a-1"), asked("vendor/a-1")], ["ses_1 mock/a build False"]),
        (
            [
                announced("ses_1", url="https://one.example/v1"),
                announced("ses_2", "other/a", url="https://api.example.com/v1/"),
                asked(),
            ],
            ["ses_2 other/a build False"],
        ),
        # protocols that name the model in the path
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


def test_facts_do_not_grow_without_end(newest: Bun) -> None:
    newest.play(announced("ses_1"), {**asked(answer={"Retry-After": "9" * 5000}), "times": 5000})
    assert {len(fact["retry_after"]) for fact in newest.facts()} == {100}
    sizes = {path.suffix: path.stat().st_size for path in newest.state.glob("facts/*")}
    assert sizes[".1"] < 1.01 * 2**20
    assert sizes[".jsonl"] < 2**20


# ---- nothing breaks


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
    assert {line.split()[2] for line in newest.errors().splitlines()} == {f"{Path(part).name}:" for part in gone}


def test_its_own_errors_are_noted_in_a_file_that_stays_small(bun: Bun) -> None:
    bun.register("{not json")
    bun.play(message(A), message(A))
    assert bun.errors().count("blacklist.json: ") == 1
    assert len(bun.errors()) < 500


# ---- pools


def created(session: str) -> dict[str, Any]:
    event = {"type": "session.created", "properties": {"info": {"id": session}}}
    return {"act": "hook", "name": "event", "input": {"event": event}}


def pooled(spread: bool = True, until: float = 86_400, **loads: float) -> dict[str, Any]:
    members = [{"model": name, "weight": 1, "load": loads.get(name[-1], 0), "agent": None} for name in (A, B, C)]
    return {"pool": {"members": members, "spread": spread, "until": at(until), "measured": None}}


@pytest.mark.parametrize(
    ("models", "pools", "asked", "wanted"),
    [
        ({}, pooled(a=9, b=9), A, C),  # the least full one
        ({}, pooled(a=9, b=9), B, B),  # only the first member speaks for the pool
        ({}, pooled(spread=False, a=9), A, A),
        ({}, pooled(until=-1, a=9), A, A),  # the daemon is gone
        ({C: rests()}, pooled(a=9), A, B),  # what cools is out
        ({A: rests()}, pooled(spread=False), A, A),  # an entry without a target
        ({A: rests(C, until="later") | {"target": {"model": C, "pool": "pool"}}}, pooled(c=9), A, B),
        ({A: rests(C) | {"target": {"model": C, "pool": "pool"}}}, pooled(spread=False, b=9), A, B),
        ({A: rests(C) | {"target": {"model": C, "pool": "gone"}}}, {}, A, C),
        ({"x/y": rests(C) | {"target": {"model": C, "pool": "pool"}}}, pooled(until=-1), "x/y", None),
        ({}, {"pool": "nonsense"}, A, A),
        ({}, {"pool": {"members": [1, {"model": 3}], "spread": True, "until": None}}, A, A),
    ],
)
def test_a_new_session_goes_to_its_member(newest: Bun, models: Any, pools: Any, asked: str, wanted: str | None) -> None:
    newest.register(json.dumps({"version": 1, "models": models, "pools": pools}))
    _, output = newest.play(created("ses_1"), message(asked))
    assert went_to(output).split()[0] == wanted or (wanted is None and went_to(output).split()[0] in (A, B, C))
    assert newest.errors() == ""


def test_a_burst_spreads_sessions_stay_and_what_was_begun_before_is_left(bun: Bun) -> None:
    bun.register(json.dumps({"version": 1, "models": {}, "pools": pooled()}))
    new = [f"ses_{number}" for number in range(9)]
    steps = [created(name) for name in new] + [prompt(A, True, session=name) for name in [*new, *new, "ses_old"]]
    outputs = bun.play(*steps)[len(new) :]
    first, again, old = outputs[:9], outputs[9:18], outputs[18]
    assert sorted(map(went_to, first)) == sorted([f"{name} build" for name in (A, B, C)] * 3)
    assert list(map(went_to, again)) == list(map(went_to, first))
    assert went_to(old) == f"{A} build"
    assert bun.errors() == ""


def test_plugin_and_daemon_draw_alike_and_a_session_does_not_go_back_within_its_pool(newest: Bun) -> None:
    sessions = [f"ses_dfb4031{number}ffe" for number in range(12)]
    away = rests(B) | {"target": {"model": B, "agent": None, "pool": "pool"}}
    newest.register(json.dumps({"version": 1, "models": {"x/y": away}, "pools": pooled()}))
    pool = Pool("pool", (A, B, C), ROUND_ROBIN)
    for session in sessions[:4]:
        (output,) = newest.play(prompt("x/y", True, session=session))
        assert went_to(output).split()[0] == order(pool, session, {})[0]
    (newest.state / "moved.json").write_text(moved(ses_1=(A, B)))
    (output,) = newest.play(prompt(B, False))
    assert went_to(output) == f"{B} build"


# ---- the day's budget


def spent(*models: str, until: float = 3600, **more: Any) -> dict[str, Any]:
    """budget.json of a day whose budget is spent: these models are dear."""
    return {"version": 1, "budget": 1, "spent": 2, "until": at(until), "dear": models, **more}


AWAY = {"x/y": rests(C) | {"target": {"model": C, "pool": "pool"}}}


@pytest.mark.parametrize(
    ("left", "models", "pools", "asked", "wanted"),
    [
        # a new session goes to a member without a price, however full that one is
        (spent(A), {}, pooled(b=9), A, C),
        (spent(A, C), {}, pooled(b=9), A, B),
        (spent(A, until=-1), {}, pooled(b=9, c=9), A, A),  # midnight, whoever runs
        (spent(B), {}, pooled(), B, B),  # named, and not for the pool
        (spent(A), {}, pooled(spread=False), A, A),
        # nothing in it is without a price, or free: that is what was named
        (spent(A, B, C), {}, pooled(a=9, b=9), A, C),
        (spent(A, B), {C: rests()}, pooled(a=9), A, B),
        # a stand-in never has one: not out of a pool, not down a chain
        (spent(A), {A: rests()}, pooled(b=9), A, C),
        (spent(C), AWAY, pooled(a=9), "x/y", B),
        (spent(C), AWAY, pooled(spread=False), "x/y", A),
        (spent(A, B, C), AWAY, pooled(), "x/y", "x/y"),
        (spent(A, C), {**AWAY, B: rests()}, pooled(), "x/y", "x/y"),
        (spent(B), {A: rests(B)}, {}, A, A),
        (spent(C), {A: rests(B), B: rests(C)}, {}, A, A),
        (spent(C), {A: rests(B), B: rests(C, told_by="forecast")}, {}, A, B),
        # what cannot be read forbids nothing
        (spent(A, version=2), {}, pooled(b=9, c=9), A, A),
        (spent(dear=7), {}, pooled(b=9, c=9), A, A),
        (spent(A, until=0) | {"until": None}, {}, pooled(b=9, c=9), A, A),
        ([], {}, pooled(b=9, c=9), A, A),
    ],
)
def test_above_the_budget(newest: Bun, left: Any, models: Any, pools: Any, asked: str, wanted: str) -> None:
    newest.register(json.dumps({"version": 1, "models": models, "pools": pools}))
    (newest.state / "budget.json").write_text(json.dumps(left))
    _, output = newest.play(created("ses_1"), message(asked))
    assert went_to(output).split()[0] == wanted


def test_a_session_keeps_the_paid_member_that_it_has_but_gets_none_in_place_of_another_model(bun: Bun) -> None:
    bun.register(json.dumps({"version": 1, "models": AWAY, "pools": pooled(a=9, c=9)}))
    write = {"act": "write", "path": str(bun.state / "budget.json"), "text": json.dumps(spent(A, B))}
    before, _, after, instead, old, new = bun.play(
        created("ses_1"),
        created("ses_3"),
        prompt(A, True),
        write,
        prompt(A, True),
        prompt("x/y", True),
        prompt(A, True, session="ses_2"),
        prompt(A, True, session="ses_3"),
    )[2:]
    assert [went_to(output).split()[0] for output in (before, after, instead, old, new)] == [B, B, C, A, C]
    assert bun.errors() == ""
