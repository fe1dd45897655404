"""Real OpenCode 2 (the preview) for tests: its background service, `serve`, and a small client for their HTTP API.

    with Service2(Home2(tmp_path / "home", provider.url)) as service:
        session = service.create_session()
        service.prompt(session, "Hello")
        service.wait_retry(session)

HOME is private, and every process is ended: the service by its pid in `service.json`, `serve` by its process group.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
from base64 import b64encode
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

from tests.support.binaries import preview
from tests.support.homes import Home
from tests.support.opencode import START_TIMEOUT, ServeError, model_parts
from tests.support.processes import free_port, is_running, signal_group, start, stop, unless_late, wait_until

USER = "opencode"


class Home2(Home):
    """A private HOME with a configuration in OpenCode 2's format, and with the preview as `opencode` on its PATH.

    The service uses a free port, because two homes on one machine would otherwise use the same port.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        self.port = free_port()
        settings = self.config_dir / "service.json"
        settings.write_text(json.dumps({"port": self.port}))
        settings.chmod(0o600)
        self.bin.mkdir(exist_ok=True)
        (self.bin / "opencode").symlink_to(preview())

    @property
    def bin(self) -> Path:
        return self.root / "bin"

    @property
    def registration(self) -> Path:
        """Return the path of `service.json`, which exists while the service runs."""
        return self.root / ".local" / "state" / "opencode" / "service.json"

    def config(self) -> dict[str, Any]:
        allow = [{"action": "provider.use", "resource": name, "effect": "allow"} for name in self.providers]
        agents = {"title": {"model": self.small_model}, **{name: dict(it) for name, it in self.agents.items()}}
        whole = {
            "model": self.model,
            "autoupdate": False,
            "share": "disabled",
            "permissions": [{"action": "*", "resource": "*", "effect": "allow"}],
            "agents": agents,
            "experimental": {
                "policies": [{"action": "provider.use", "resource": "*", "effect": "deny"}, *allow],
            },
            "providers": {
                name: {
                    "name": name,
                    "package": f"aisdk:{spec.npm}",
                    "settings": {
                        "baseURL": spec.url or f"{self.provider_url}/p/{name}/v1",
                        "apiKey": "not-a-key",
                    },
                    "models": {
                        model: {
                            "name": model,
                            "limit": {"context": 200000, "output": 8000},
                            **spec.about.get(model, {}),
                        }
                        for model in spec.models
                    },
                }
                for name, spec in self.providers.items()
            },
            **self.settings,
        }
        return {key: value for key, value in whole.items() if value is not None}

    def env(self, cwd: Path | None = None) -> dict[str, str]:
        env = super().env(cwd)
        return {**env, "PATH": f"{self.bin}:{env['PATH']}"}


class SharedHome(Home2):
    """The same home with a configuration in OpenCode 1's format, which both generations read."""

    def config(self) -> dict[str, Any]:
        return Home.config(self)


class Client2:
    """A client for OpenCode 2's API. Every method raises ServeError if the API answers with an error."""

    port: int
    password: str | None
    project: Path

    def request(self, method: str, path: str, body: Any = None, *, timeout: float = 20.0) -> Any:
        """Send a request and return the answer as JSON, or None if it is empty."""
        headers = {"Content-Type": "application/json"}
        if self.password:
            headers["Authorization"] = "Basic " + b64encode(f"{USER}:{self.password}".encode()).decode()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            connection.request(method, path, None if body is None else json.dumps(body).encode(), headers)
            response = connection.getresponse()
            data = response.read()
        finally:
            connection.close()
        if response.status >= 400:
            raise ServeError(f"{method} {path}: {response.status} {data[:500]!r}")
        return json.loads(data) if data.strip() else None

    def create_session(self, directory: Path | None = None, **more: Any) -> str:
        """Create a session and return its id."""
        place = {"location": {"directory": str(directory or self.project)}}
        return str(self.request("POST", "/api/session", {**place, **more})["data"]["id"])

    def prompt(self, session: str, text: str, **more: Any) -> str:
        """Send a prompt without waiting for the answer, and return the id of its message."""
        return str(self.request("POST", f"/api/session/{session}/prompt", {"text": text, **more})["data"]["id"])

    def switch_model(self, session: str, model: str) -> None:
        parts = model_parts(model)
        named = {"providerID": parts["providerID"], "id": parts["modelID"]}
        self.request("POST", f"/api/session/{session}/model", {"model": named})

    def interrupt(self, session: str) -> None:
        self.request("POST", f"/api/session/{session}/interrupt", {})

    def session(self, session: str) -> dict[str, Any]:
        return dict(self.request("GET", f"/api/session/{session}")["data"])

    def messages(self, session: str) -> list[dict[str, Any]]:
        """Return all messages of a session, oldest first."""
        found = self.request("GET", f"/api/session/{session}/message?limit=200&order=asc")["data"]
        return list(found)

    def user_messages(self, session: str) -> list[dict[str, Any]]:
        return [message for message in self.messages(session) if message["type"] == "user"]

    def active(self) -> frozenset[str]:
        """Return the sessions that are working."""
        return frozenset(self.request("GET", "/api/session/active")["data"])

    def answer(self, session: str) -> str:
        """Return the text of the last assistant message; empty if there is none."""
        spoken = [message for message in self.messages(session) if message["type"] == "assistant"]
        parts = spoken[-1].get("content", []) if spoken else []
        return "".join(str(part.get("text", "")) for part in parts if part.get("type") == "text")

    def answered(self, session: str) -> bool:
        """Return whether a model has begun to answer."""
        return any(message["type"] == "assistant" and message.get("content") for message in self.messages(session))

    def wait_answer(self, session: str, text: str, timeout: float = 60.0) -> None:
        wait_until(unless_late(lambda: text in self.answer(session)), timeout, why=f"the answer {text!r}")

    def wait_idle(self, session: str, timeout: float = 60.0) -> None:
        wait_until(unless_late(lambda: session not in self.active()), timeout, why=f"{session} to become idle")

    def retry(self, session: str) -> dict[str, Any] | None:
        """Return the last assistant message's data about the attempt that it is waiting for."""
        spoken = [message for message in self.messages(session) if message["type"] == "assistant"]
        found = spoken[-1].get("retry") if spoken else None
        return found if isinstance(found, dict) else None

    def wait_retry(self, session: str, timeout: float = 60.0) -> dict[str, Any]:
        waits = unless_late(lambda: self.retry(session))
        found: dict[str, Any] = wait_until(waits, timeout, why=f"{session} to wait for a retry")
        return found

    def _answers(self) -> bool:
        try:
            self.request("GET", "/api/health", timeout=2.0)
        except (OSError, http.client.HTTPException, ServeError):
            return False
        return True


class Serve2(Client2):
    """`opencode serve` of the preview on a free port. A context manager."""

    def __init__(
        self, home: Home2, project: Path | None = None, *, password: str | None = "secret-of-a-test",
        variable: str = "OPENCODE_PASSWORD", arguments: Sequence[str] = (),
    ) -> None:  # fmt: skip
        """Prepare the server. If `password` is None, the server generates one, which it only prints to
        standard output.
        """
        self.home, self.project = home, project or home.project()
        self.port, self.password = free_port(), password
        self.arguments, self.variable = arguments, variable
        self.output = home.root / f"serve-{self.port}.out"
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self.process is not None, "not started"
        return self.process.pid

    def __enter__(self) -> Self:
        command = ["opencode", "serve", "--port", str(self.port), *self.arguments]
        environ = {**self.home.env(self.project), **({self.variable: self.password} if self.password else {})}
        with self.output.open("ab") as sink:
            self.process = subprocess.Popen(
                command, executable=str(self.home.bin / "opencode"), cwd=self.project, env=environ,
                stdin=subprocess.DEVNULL, stdout=sink, stderr=sink, start_new_session=True,
            )  # fmt: skip
        try:
            wait_until(self._up, START_TIMEOUT, 0.1, "the preview's serve to answer")
        except BaseException:
            self.stop()
            raise
        return self

    def _up(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            raise ServeError(f"serve ended with {self.process.returncode}: {self.printed()[-2000:]}")
        return self._answers() if self.password else "listening" in self.printed().lower()

    def __exit__(self, kind: type[BaseException] | None, fault: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def stop(self, patience: float = 3.0) -> None:
        if self.process is not None:
            stop(self.process, patience)

    def printed(self) -> str:
        return self.output.read_text(errors="replace") if self.output.exists() else ""


class Service2(Client2):
    """The background service of a home. A context manager; `stop` and `start` restart it within the block."""

    def __init__(self, home: Home2, project: Path | None = None) -> None:
        self.home, self.project = home, project or home.project()
        self.port, self.password = home.port, None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, fault: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def start(self) -> None:
        """Start the service as any client does, and wait until it answers."""
        output = self.home.root / "service.out"
        process = start([str(self.home.bin / "opencode"), "service", "start"], self.home, self.project, output)
        try:
            wait_until(self._registered, START_TIMEOUT, 0.1, "the preview's service to register and answer")
        except BaseException:
            print(output.read_text(errors="replace"))
            stop(process)
            raise
        with suppress(subprocess.TimeoutExpired):
            process.wait(20)

    def _registered(self) -> bool:
        self.adopt()
        return self.password is not None and self._answers()

    def adopt(self) -> None:
        """Use the port and the password of the running service, whoever started it."""
        about = self.about()
        self.password = about.get("password")
        if url := about.get("url"):
            self.port = int(str(url).rpartition(":")[2])

    def about(self) -> Mapping[str, Any]:
        """Return the content of `service.json`; empty while no service runs."""
        try:
            found = json.loads(self.home.registration.read_text())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    @property
    def pid(self) -> int:
        return int(self.about().get("pid", 0))

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """End the service by its pid, and wait until it has ended."""
        pid = self.pid
        if not pid:
            return
        with suppress(ProcessLookupError):
            os.kill(pid, number)
        try:
            wait_until(lambda: not is_running(pid), 10, why="the service to end")
        except TimeoutError:
            with suppress(ProcessLookupError):  # it may end between the timeout and here
                signal_group(os.getpgid(pid), signal.SIGKILL)
        self.home.registration.unlink(missing_ok=True)  # a killed service leaves it behind


def run2(home: Home2, text: str, *arguments: str, project: Path | None = None) -> subprocess.Popen[str]:
    """Start `opencode run TEXT` and return its process."""
    cwd = project or home.project()
    command = [str(home.bin / "opencode"), "run", *arguments, text]
    pipe = subprocess.PIPE
    return subprocess.Popen(
        command, cwd=cwd, env=home.env(cwd), stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, text=True,
        start_new_session=True,
    )  # fmt: skip


def quoted(path: Path | str) -> str:
    """Return a path escaped for a query."""
    return quote(str(path), safe="")
