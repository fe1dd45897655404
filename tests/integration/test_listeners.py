"""Tests that nothing is sent to another user's process: no password, no request, not even a connection."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from ocwatchd.core.domain.snapshot import Endpoint, TcpAddress, UnixAddress
from ocwatchd.launcher.arguments import Arguments
from ocwatchd.launcher.attached_server import AttachedServer, no_endpoint
from ocwatchd.opencode.client.request import EndpointError, Trouble
from ocwatchd.opencode.client.v1.routes import Api
from ocwatchd.opencode.discovery.endpoints import EndpointFinder
from ocwatchd.opencode.listeners import (
    Listener,
    NotOurs,
    from_kernel,
    from_tables,
    of_own_processes,
    places,
    unchanged,
)
from tests.cli.conftest import Cli
from tests.integration.fakedoor import listening, routes
from tests.support.stranger import NOBODY, THERE_ARE_STRANGERS, Eavesdropper, listening_as

PLACE = {"/path": {"home": "/home/dev", "worktree": "/", "directory": "/project"}}
SECRET = "Basic b3BlbmNvZGU6c2VjcmV0"
HOSTS = ("127.0.0.1", "::1")


@contextmanager
def anothers(host: str, port: int = 0) -> Iterator[Eavesdropper]:
    """Yield another user's listener; without root, one of our own that is checked as if we were another user."""
    with listening_as(NOBODY if THERE_ARE_STRANGERS else os.geteuid(), host, port) as listener:
        yield listener


def all_ours(host: str, port: int) -> bool:
    """Return whether a process listens there, and every listener belongs to this user."""
    try:
        return any(place.listeners for place in places(host, port))
    except NotOurs:
        return False


def own(host: str) -> socket.socket:
    made = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    made.bind((host, 0))
    made.listen()
    return made


@pytest.mark.parametrize("host", HOSTS)
def test_another_users_listener_gets_no_connection(host: str) -> None:
    with anothers(host) as listener:
        api = Api(Endpoint(TcpAddress(host, listener.port), auth=SECRET))
        assert all_ours(host, listener.port) is not THERE_ARE_STRANGERS
        if THERE_ARE_STRANGERS:
            for ask in (lambda: api.path(), lambda: next(api.events(None)), lambda: api.abort("ses_1", "/project")):
                with pytest.raises(EndpointError) as refused:
                    ask()
                assert refused.value.trouble is Trouble.FOREIGN
                assert f"(uid {NOBODY}) is listening at" in str(refused.value)
            assert listener.heard() == ""
        else:
            with pytest.raises(EndpointError, match="not OpenCode's"):
                api.path()


def test_whoever_takes_over_a_port_between_two_questions_is_sent_nothing(tmp_path: Path) -> None:
    """OpenCode was found and verified, and ends; then another user takes its port: the next request is not sent."""
    with listening(routes(PLACE)) as ours:
        assert isinstance(ours.address, TcpAddress)
        url = f"http://opencode:secret@127.0.0.1:{ours.address.port}"
        finder = EndpointFinder(tmp_path, urls=[url], environ={}, processes=tuple)
        (endpoint,) = finder.find().open
        assert endpoint.auth == SECRET
    with anothers("127.0.0.1", ours.address.port) as listener:
        with pytest.raises(EndpointError) as refused:
            Api(endpoint).status("/project")
        if THERE_ARE_STRANGERS:
            assert refused.value.trouble is Trouble.FOREIGN
            finder.doubt(endpoint, refused.value)
            found = finder.find()
            assert (found.open, found.failing) == ((), 1)
            assert "is listening at 127.0.0.1" in found.troubles[0]
            assert listener.heard() == ""


def test_one_foreign_address_of_a_name_forbids_them_all() -> None:
    """`localhost` is ::1 and 127.0.0.1: a process at either of them could get requests meant for the other."""
    with ExitStack() as stack:
        mine = stack.enter_context(own("127.0.0.1"))
        port = mine.getsockname()[1]
        both = [(socket.AF_INET6, ("::1", port, 0, 0)), (socket.AF_INET, ("127.0.0.1", port))]

        def resolve(*_: object, **__: object) -> list[tuple[int, int, int, str, tuple[object, ...]]]:
            return [(family, socket.SOCK_STREAM, 6, "", address) for family, address in both]

        assert [bool(place.listeners) for place in places("localhost", port, resolve)] == [False, True]
        stack.enter_context(anothers("::1", port))
        if THERE_ARE_STRANGERS:
            with pytest.raises(NotOurs, match="is listening at \\[::1\\]"):
                places("localhost", port, resolve)
        else:
            assert [bool(place.listeners) for place in places("localhost", port, resolve)] == [True, True]


def test_a_name_that_leads_off_this_machine_is_not_asked() -> None:
    def resolve(*_: object, **__: object) -> list[tuple[int, int, int, str, tuple[object, ...]]]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.1", 1))]

    with pytest.raises(NotOurs, match="not on this machine"):
        places("localhost", 1, resolve)


@pytest.mark.parametrize(
    ("bound", "asked", "reached"),
    [
        ("127.0.0.1", "127.0.0.1", True),
        ("0.0.0.0", "127.0.0.1", True),
        ("127.0.0.2", "127.0.0.1", False),
        ("::1", "::1", True),
        ("::", "::1", True),
        ("::", "127.0.0.1", True),
        ("::1", "127.0.0.1", False),
        ("0.0.0.0", "::1", False),
    ],
)
def test_our_own_listener_is_found_as_the_kernel_would_find_it(bound: str, asked: str, reached: bool) -> None:
    with own(bound) as made:
        port = made.getsockname()[1]
        (place,) = places(asked, port)
        assert bool(place.listeners) is reached
        assert all_ours(asked, port) is reached
        assert unchanged(place)
    assert not reached or not unchanged(place), "it has been closed"
    assert not all_ours(asked, port)


def test_the_kernel_its_tables_and_the_process_table_say_the_same() -> None:
    with ExitStack() as stack:
        made = [stack.enter_context(own(host)) for host in ("127.0.0.1", "::1", "::", "0.0.0.0", "127.3.2.1")]
        for port in (listener.getsockname()[1] for listener in made):
            (listed,) = from_kernel(port)
            assert from_tables(port) == [listed]
            (held,) = of_own_processes(port)
            assert held == Listener(listed.address, listed.user, os.getpid())
            assert of_own_processes(port) == [held], "from the process that had it last"


def test_a_socket_file_of_another_users_process_is_sent_nothing() -> None:
    """The file may be ours while its listener is not: the owner is known only from the connection itself."""
    with TemporaryDirectory() as shared:
        Path(shared).chmod(0o777)
        place = Path(shared) / "7.sock"
        with listening_as(NOBODY if THERE_ARE_STRANGERS else os.geteuid(), path=place) as listener:
            with pytest.raises(EndpointError) as refused:
                Api(Endpoint(UnixAddress(str(place)))).path()
            assert (refused.value.trouble is Trouble.FOREIGN) is THERE_ARE_STRANGERS
            assert ("GET /path" in listener.heard()) is not THERE_ARE_STRANGERS


@pytest.mark.parametrize("host", HOSTS)
def test_doctor_says_who_has_the_configured_port(tmp_path: Path, host: str) -> None:
    cli = Cli(tmp_path / "home")
    with anothers(host) as listener:
        url = f"http://{f'[{host}]' if ':' in host else host}:{listener.port}"
        cli.configure(endpoints=[url])
        done = cli("doctor", OPENCODE_SERVER_PASSWORD="secret")
        if THERE_ARE_STRANGERS:
            assert f"(uid {NOBODY}) is listening at" in " ".join(done.stdout.split())
            assert listener.heard() == ""
        else:
            assert "c2VjcmV0" in listener.heard()


def test_a_client_of_another_users_server_is_not_watched_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with anothers("127.0.0.1") as listener:
        arguments = Arguments(["run", "--attach", f"http://127.0.0.1:{listener.port}", "-p", "secret", "hello"])
        assert bool(no_endpoint(arguments)) is THERE_ARE_STRANGERS
        client = AttachedServer(arguments, str(tmp_path), 0.0)
        for _ in range(2):
            assert not client.retrying()
        said = capsys.readouterr().err
        assert said.count("not watched for limits") == int(THERE_ARE_STRANGERS), said
        assert not (THERE_ARE_STRANGERS and listener.heard())
