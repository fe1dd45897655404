"""Tests of a real OpenCode 2's passwords: ocwatchd takes each from where OpenCode does, whatever else is set.

The preview knows three sources: `service.json` for the background service, whose password is generated or in its
settings; the variables OPENCODE_PASSWORD and, after it, OPENCODE_SERVER_PASSWORD for `serve` and for clients with
`--server`; and a generated password in the environment of a `--standalone` server. There is no option `--password`. A
`serve` without a variable is in `test_v2_honesty.py`. The user name is fixed; OPENCODE_SERVER_USERNAME is OpenCode 1's.
"""

from __future__ import annotations

import json

import pytest

from tests.support.clients2 import watched
from tests.support.daemon import WHOLE_CHAIN, Daemon, ocwatch
from tests.support.opencode import NEWEST
from tests.support.opencode2 import Home2, Serve2, run2
from tests.support.processes import wait_until
from tests.support.provider import Provider, limited
from tests.support.smart import Smart

pytestmark = pytest.mark.e2e
PRIMARY, FALLBACK = "mock/primary", "mock2/fallback"
ANSWER = "answer of mock2/fallback"
FIRST, SECOND, NAME = "OPENCODE_PASSWORD", "OPENCODE_SERVER_PASSWORD", "OPENCODE_SERVER_USERNAME"
SECRET = "secret-of-a-test"
OTHERS = {SECOND: "of OpenCode 1", NAME: "somebody"}
"""What a user's shell exports for OpenCode 1."""


@pytest.mark.parametrize(
    "shell",
    [{FIRST: SECRET}, {SECOND: SECRET}, {FIRST: SECRET, **OTHERS}, {SECOND: SECRET, NAME: "somebody"}],
    ids=["OpenCode 2's", "OpenCode 1's", "both", "with a user name"],
)
def test_a_serve_is_served_with_the_password_of_its_environment(
    shell: dict[str, str], home2: Home2, provider: Provider
) -> None:
    home2.environment = shell
    provider.script(PRIMARY, limited(3600))
    variable = FIRST if FIRST in shell else SECOND
    with Serve2(home2, password=SECRET, variable=variable) as serve, Daemon(home2, WHOLE_CHAIN) as daemon:
        (endpoint,) = wait_until(lambda: daemon.heartbeat().get("endpoints"), 30, why="the daemon to find it")
        assert (endpoint["pid"], endpoint["generation"], endpoint["trouble"]) == (serve.pid, 2, None)
        session = serve.create_session()
        serve.prompt(session, "Hello")
        serve.wait_answer(session, ANSWER)
        daemon.wait_journal("moved")


@pytest.mark.parametrize("chosen", [None, "chosen by its user"])
def test_the_service_has_its_own_password_whatever_its_environment_contains(
    chosen: str | None, home2: Home2, provider: Provider
) -> None:
    home2.environment = {FIRST: "of a serve", **OTHERS}
    settings = home2.config_dir / "service.json"
    settings.write_text(json.dumps({"port": home2.port, **({"password": chosen} if chosen else {})}))
    provider.script(PRIMARY, limited(3600))
    with watched(home2) as (service, daemon):
        assert service.password not in home2.environment.values()
        assert chosen in (None, service.password)
        for number in (1, 2):
            session = service.create_session()
            service.prompt(session, f"Hello {number}")
            service.wait_answer(session, ANSWER)
            daemon.wait_journal("moved", number)
            if number == 1:
                service.stop()
                service.start()
                wait_until(
                    lambda: service.pid in [it["pid"] for it in daemon.heartbeat()["endpoints"]], 60, why="the new one"
                )
        assert ocwatch(home2, "status").returncode in (0, 4)
        assert str(service.password) not in daemon.said() + ocwatch(home2, "doctor").stdout


def test_a_private_server_is_served_beside_a_password_for_others(home2: Home2, provider: Provider) -> None:
    home2.environment = OTHERS
    provider.script(PRIMARY, limited())
    with Daemon(home2, retry={"enabled": False}) as daemon:
        run = run2(home2, "Hello from a run", "--standalone")
        out, err = run.communicate(timeout=120)
        assert (run.returncode, ANSWER in out) == (0, True), err
        daemon.wait_journal("claim")  # its end may not be visible any more, because the server ends with its client
    done = Smart(home2, NEWEST).run("run", "--standalone", "Hello from oc-smart", environ=OTHERS)
    assert (done.returncode, done.stdout.strip()) == (0, ANSWER)


def test_a_client_of_another_server_needs_the_right_password(home2: Home2, provider: Provider) -> None:
    provider.script(PRIMARY, limited(3600))
    smart = Smart(home2, NEWEST)
    with Serve2(home2, smart.cwd, password=SECRET) as serve:
        server = f"http://127.0.0.1:{serve.port}"
        for wrong in ({FIRST: "wrong", SECOND: SECRET}, {}):
            done = smart.run("run", "--server", server, "Hello", environ=wrong)
            # The client reports the server's 401 in its own words, on standard output.
            assert (done.returncode, f"Error: Server at {server}" in done.stdout) == (1, True)
            assert SECRET not in done.stdout + done.stderr
        assert provider.requests() == []
        # Prompts of the same words within two seconds are not told apart.
        for text, right in (("Hello", {SECOND: SECRET}), ("And again", {FIRST: SECRET, **OTHERS})):
            smart.forget()
            done = smart.run("run", "--server", server, text, environ=right)
            assert (done.returncode, done.stdout.strip()) == (0, ANSWER)
        assert len(provider.requests(PRIMARY)) == 2
