"""The companion plugin alone, under the Bun inside OpenCode's own binaries: its hooks, its files, its door."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

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

    @property
    def state(self) -> Path:
        return self.home / ".local/state/ocwatchd"

    def play(self, *steps: dict[str, Any], env: dict[str, str] | None = None) -> list[Any]:
        """Start the plugin, then the steps; what each of them came to."""
        self.home.mkdir(exist_ok=True)
        plugin = self.home / "rate-limit-fallback.js"
        plugin.write_bytes(plugin_file.shipped())
        whole = [*([] if steps[0]["act"] == "start" else [{"act": "start"}]), *steps]
        done = subprocess.run(
            [str(binary(self.version)), str(DRIVER)],
            env={"BUN_BE_BUN": "1", "HOME": str(self.home), "PATH": os.environ["PATH"], "TZ": "UTC", **(env or {})},
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


def rests(target: str | None = None, agent: str | None = None, until: str | None = "later", **more: Any) -> dict[str, Any]:
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
    assert [went_to(outputs[at]) for at in (0, 2, 4, 6)] == ["mock/a build", "mock2/b build", "mock/a build", "mock2/b build"]


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
    later = {"models": {A: rests(B, since="2026-11-22T12:00:00Z")}}
    *_, toasts = bun.play(
        *(message(A), message(A), message(C), message(C)),
        {**again, "text": json.dumps(later)},
        *(message(A), message(A), message(B)),
        {"act": "toasts"},
    )
    assert [toast["title"] for toast in toasts] == [f"{A} is limited", f"{C} is limited", f"{A} is limited"]
    assert all(toast["message"].startswith(f"Prompts go to {B} until ") for toast in toasts)


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
    assert served["url"] == "http://localhost:4096//evil.example/session?directory=%2Fp"
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


def test_a_door_that_others_could_open_is_closed_to_them(bun: Bun) -> None:
    bun.doors.mkdir(parents=True)
    bun.doors.chmod(0o777)
    (seen,) = bun.play(bun.about())
    assert seen["mode"] == 0o700
    assert seen["modes"]["PID.sock"] == 0o600


def test_the_door_closes_with_the_last_project_and_opens_again_if_opencode_goes_on(newest: Bun) -> None:
    gone = {"act": "hook", "name": "dispose"}
    away = {"act": "hook", "name": "event", "input": {"event": {"type": "server.instance.disposed"}}}
    sight = newest.about()
    *_, one_left, _, none_left, _, back, _, _, anew = newest.play(
        {"act": "start"},
        {"act": "start", "directory": "/second"},
        *(gone, gone, sight),  # the same project twice: the other one is still open
        *({"act": "start"}, sight),
        *({"act": "sleep", "ms": 10}, sight),
        *(away, {"act": "start"}, sight),
    )
    assert [bool(seen["about"]) for seen in (one_left, none_left, back, anew)]


def test_without_a_fetch_there_is_no_door_and_a_note(bun: Bun) -> None:
    bun.register(**{A: rests(B)})
    for client in ("bare", "other"):
        seen, output = bun.play({"act": "start", "client": client}, bun.about(), message(A))[1:]
        assert seen["about"]["door"] is False
        assert went_to(output) == "mock2/b build"
    assert "has no fetch" in bun.errors()
