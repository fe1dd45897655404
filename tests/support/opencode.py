"""Real OpenCode for tests: `serve` with a small HTTP client, and `run`.

The user's own OpenCode is not touched: HOME is private, XDG variables are unset, and every process is started in its
own process group and ended only through that group.
    with Serve("1.18.33", Home(tmp_path / "home", provider.url)) as serve:
        session = serve.create_session()
        serve.prompt_async(session, "Hello", model="mock/primary")
        serve.wait_status(session, "retry")
"""

from __future__ import annotations

import http.client
import json
import signal
import subprocess
from base64 import b64encode
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

from tests.support.binaries import BinaryMissing, binary
from tests.support.homes import DEFAULT_AGENTS, DEFAULT_PROVIDERS, Home, ProviderSpec
from tests.support.processes import free_port, signal_group, start, stop, unless_late, wait_until

__all__ = [
    "DEFAULT_AGENTS",
    "DEFAULT_PROVIDERS",
    "GENERATIONS",
    "LATER",
    "MIDDLE",
    "NEWEST",
    "OLDEST",
    "VERSIONS",
    "BinaryMissing",
    "Home",
    "ProviderSpec",
    "Serve",
    "ServeError",
    "binary",
    "free_port",
    "model_parts",
    "run_command",
    "run_prompt",
    "start",
    "stop",
    "wait_until",
]

NEWEST = "1.18.33"
MIDDLE = "1.3.2"
OLDEST = "1.0.185"
GENERATIONS = (NEWEST, MIDDLE, "1.2.27", "1.1.65", OLDEST)
"""The versions on which every statement about a TUI and the plugin's endpoint is tested."""
VERSIONS = (NEWEST, MIDDLE, OLDEST)
"""One of each generation: shared logfmt log; old log with SQLite; old log with JSON files."""

LATER = ("1.18.34", "0.0.0-dev-202609212252")
"""Releases after the newest version that all tests run on: the last published 1.18, and a build of 21 September 2026
that already contains parts of OpenCode 2. Each claim of compatibility is also tested on them."""

START_TIMEOUT = 150.0
"""Timeout, in seconds, for a cold start. `serve` takes about 3 s, a TUI 2 to 6 s, and ten times that at a load of 8. At
a load of 23 on two cores, a TUI took more than 60 s.
"""


class ServeError(Exception):
    """An OpenCode server did not start, has ended, or responded with an error."""


def model_parts(model: str) -> dict[str, str]:
    """Return `provider/model` in the form that OpenCode's HTTP API expects."""
    provider, _, name = model.partition("/")
    return {"providerID": provider, "modelID": name}


class Serve:
    """`opencode serve` on a free port, with a small client for its HTTP API. A context manager.

    Every method raises ServeError if OpenCode answers with an error, and OSError if it does not answer at all.
    """

    def __init__(
        self,
        version: str,
        home: Home,
        project: Path | None = None,
        *,
        port: int | None = None,
        password: str | None = None,
        arguments: Sequence[str] = (),
    ) -> None:
        """Prepare the server; nothing is started before `__enter__`."""
        self.version = version
        self.home = home
        self.project = project or home.project()
        self.port = port or free_port()
        self.password = password
        self.arguments = arguments
        self.output = home.root / f"serve-{self.port}.out"
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Return the address of the HTTP API."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """Return the process id of `opencode serve`."""
        assert self.process is not None, "not started"
        return self.process.pid

    def __enter__(self) -> Self:
        """Start OpenCode and wait until it answers."""
        command = [str(binary(self.version)), "serve", "--port", str(self.port), *self.arguments]
        self.process = start(command, self.home, self.project, self.output)
        try:
            wait_until(self._answers, START_TIMEOUT, 0.1, f"opencode {self.version} serve to answer")
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End OpenCode and everything that it started."""
        self.stop()

    def _answers(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            raise ServeError(f"opencode {self.version} ended with {self.process.returncode}: {self.printed()[-2000:]}")
        try:
            # 1.18 sometimes does not respond to a request in its first second, so use a short timeout and try again.
            self.request("GET", "/session", timeout=1.0)
        except (OSError, http.client.HTTPException, ServeError):
            return False
        return True

    def stop(self, patience: float = 3.0) -> None:
        """End OpenCode; may be called more than once."""
        if self.process is not None:
            stop(self.process, patience)

    def kill(self) -> None:
        """Send SIGKILL immediately, as when a machine runs out of memory."""
        self.stop(patience=0)

    def printed(self) -> str:
        """Return its standard output and error so far."""
        return self.output.read_text(errors="replace") if self.output.exists() else ""

    # ---- HTTP

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        directory: Path | str | None = None,
        timeout: float = 20.0,
    ) -> Any:
        """Send a request and return the answer as JSON, or None if it is empty. `directory` selects the project."""
        headers = {"Content-Type": "application/json"}
        if directory is not None:
            path += f"{'&' if '?' in path else '?'}directory={quote(str(directory), safe='')}"
        if self.password:
            headers["Authorization"] = "Basic " + b64encode(f"opencode:{self.password}".encode()).decode()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            payload = None if body is None else json.dumps(body).encode()
            connection.request(method, path, payload, headers)
            response = connection.getresponse()
            data = response.read()
        finally:
            connection.close()
        if response.status >= 400:
            raise ServeError(f"{method} {path}: {response.status} {data[:500]!r}")
        return json.loads(data) if data.strip() else None

    def create_session(self, title: str | None = None, directory: Path | str | None = None) -> str:
        """Create a session and return its id."""
        session = self.request("POST", "/session", {"title": title} if title else {}, directory=directory)
        return str(session["id"])

    def prompt_async(
        self,
        session: str,
        text: str | None,
        *,
        model: str | None = None,
        agent: str | None = None,
        directory: Path | str | None = None,
        **more: Any,
    ) -> None:
        """Send a prompt without waiting for the answer; `more` are further fields (`messageID`, `system`, …)."""
        body: dict[str, Any] = {"parts": [] if text is None else [{"type": "text", "text": text}], **more}
        if model:
            body["model"] = model_parts(model)
        if agent:
            body["agent"] = agent
        self.request("POST", f"/session/{session}/prompt_async", body, directory=directory)

    def messages(self, session: str, directory: Path | str | None = None) -> list[dict[str, Any]]:
        """Return all messages of a session, oldest first, each `{"info": …, "parts": […]}`."""
        return list(self.request("GET", f"/session/{session}/message", directory=directory))

    def status(self, directory: Path | str | None = None) -> dict[str, dict[str, Any]]:
        """Return `/session/status` of one project: session id to `{"type": …}`; idle sessions may be missing."""
        return dict(self.request("GET", "/session/status", directory=directory))

    def abort(self, session: str, directory: Path | str | None = None) -> None:
        """Abort the session's turn."""
        self.request("POST", f"/session/{session}/abort", {}, directory=directory)

    # ---- queries of tests

    def user_messages(self, session: str, directory: Path | str | None = None) -> list[dict[str, Any]]:
        """Return the session's messages with the role `user`."""
        return [m for m in self.messages(session, directory) if m["info"]["role"] == "user"]

    def answer(self, session: str, directory: Path | str | None = None) -> str:
        """Return the text of the session's last assistant message; empty if there is none."""
        spoken = [m for m in self.messages(session, directory) if m["info"]["role"] == "assistant"]
        if not spoken:
            return ""
        return "".join(str(p.get("text", "")) for p in spoken[-1]["parts"] if p["type"] == "text")

    def wait_answer(self, session: str, text: str, timeout: float = 60.0, directory: Path | str | None = None) -> None:
        """Wait until the last assistant message contains `text`."""
        found = unless_late(lambda: text in self.answer(session, directory))
        wait_until(found, timeout, pause=0.15, why=f"the answer {text!r}")

    def wait_status(
        self, session: str, kind: str, timeout: float = 60.0, directory: Path | str | None = None
    ) -> dict[str, Any]:
        """Wait until the session's status is `kind` (`retry`, `busy`, `idle`); a missing entry counts as idle."""

        def seen() -> dict[str, Any] | None:
            status = self.status(directory).get(session, {"type": "idle"})
            return status if status["type"] == kind else None

        found: dict[str, Any] = wait_until(unless_late(seen), timeout, why=f"status {kind} of {session}")
        return found


def run_prompt(
    version: str,
    home: Home,
    text: str,
    *,
    model: str | None = None,
    agent: str | None = None,
    session: str | None = None,
    project: Path | None = None,
    arguments: Sequence[str] = (),
    timeout: float = 60.0,
) -> subprocess.CompletedProcess[str]:
    """Run `opencode run TEXT` to its end. After `timeout` seconds, end it, which gives a negative return code."""
    cwd = project or home.project()
    command = run_command(version, text, model=model, agent=agent, session=session, arguments=arguments)
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        command, cwd=cwd, env=home.env(cwd), stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, start_new_session=True
    )
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        signal_group(process.pid, signal.SIGTERM)
        try:
            out, err = process.communicate(timeout=3)
        except subprocess.TimeoutExpired:
            signal_group(process.pid, signal.SIGKILL)
            out, err = process.communicate()
    finally:
        signal_group(process.pid, signal.SIGKILL)
    said = (out.decode(errors="replace"), err.decode(errors="replace"))
    return subprocess.CompletedProcess(command, process.returncode, *said)


def run_command(
    version: str,
    text: str,
    *,
    model: str | None = None,
    agent: str | None = None,
    session: str | None = None,
    arguments: Sequence[str] = (),
) -> list[str]:
    """Return the command line of `opencode run`."""
    options = (("--model", model), ("--agent", agent), ("--session", session))
    chosen = [word for name, value in options if value for word in (name, value)]
    return [str(binary(version)), "run", *chosen, *arguments, text]
