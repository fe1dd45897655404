"""Tests of cooldowns shared over a real server: what is shared, how, and what happens when something fails.

After each fault all machines know the same records, and no known record is lost.
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from ocwatchd.core.domain.types import ModelRef
from ocwatchd.core.sharing.record import parse
from tests.conftest import Count
from tests.support.certificates import authority, certificate
from tests.support.lossy_link import NEAR, LossyLink, available
from tests.support.proxy import Proxy
from tests.support.share import OPUS, Machine, agree, wait_for
from tests.support.valkey_server import Server

SONNET, HAIKU = ModelRef("anthropic", "claude-sonnet-4"), ModelRef("anthropic", "claude-haiku-4")
ACCOUNTS = {"anthropic": "team-max-1"}
ACL = (
    "user {name} on >{secret} resetkeys ~ocwatchd:team:cooldowns resetchannels &ocwatchd:team:news -@all "
    "+auth +hello +ping +time +subscribe +unsubscribe +publish +hvals +hget +hset +hdel +eval +evalsha +pubsub|numsub"
)
"""The ACL line in docs/share.md."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with Server(tmp_path / "server") as running:
        yield running


@pytest.fixture
def proxy(server: Server) -> Iterator[Proxy]:
    with Proxy(server.port) as running:
        yield running


def machine(root: Path, name: str, url: str, **more: object) -> Machine:
    return Machine(root / name, {"url": url, "accounts": ACCOUNTS, "node": name, **more})


@pytest.fixture
def three(tmp_path: Path, server: Server, proxy: Proxy) -> Iterator[tuple[Machine, Machine, Machine]]:
    """Yield two machines behind the proxy, and one at the server."""
    through = f"valkey://127.0.0.1:{proxy.port}"
    a, b = machine(tmp_path, "a", through), machine(tmp_path, "b", through)
    with a, b, machine(tmp_path, "c", f"unix://{server.socket}") as c:
        yield a, b, c


Three = tuple[Machine, Machine, Machine]


def shared(a: Machine, *others: Machine, model: ModelRef = OPUS) -> None:
    a.limit(model)
    wait_for(
        lambda: all(other.prevented(model) for other in others), why=lambda: "\n".join(m.log() for m in (a, *others))
    )


def settled(*machines: Machine, records: int) -> None:
    wait_for(
        lambda: agree(*machines, records=records),
        why=lambda: "\n".join(f"{sorted(m.known())}\n{m.log()}" for m in machines),
    )


def test_a_limit_prevents_at_once_and_a_clear_wins_everywhere(three: Three) -> None:
    a, b, c = three
    shared(a, b, c)
    assert b.ocwatch("pick", str(OPUS)).stdout == "other/fallback\n"
    b.ocwatch("clear", str(OPUS))
    wait_for(lambda: a.entry() is None and c.entry() is None, why=lambda: a.log() + c.log())
    settled(*three, records=1)


def test_what_goes_over_the_wire_is_the_ten_fields_and_nothing_else(three: Three, proxy: Proxy) -> None:
    a, b, c = three
    shared(a, b, c)
    a.answered()
    shared(b, a, c, model=SONNET)
    settled(*three, records=2)
    lines = set(re.findall(rb"\r\n(1\t[^\r]*)\r\n", bytes(proxy.sent) + b"\r\n" + bytes(proxy.received)))
    assert len(lines) >= 3
    for line in lines:
        assert len(line) <= 300
        assert parse(line).account == "team-max-1"
    rest = bytes(proxy.sent)
    for line in lines:
        rest = rest.replace(line, b"")
    rest = re.sub(rb"\$\d{3,}\r\nlocal KINDS.*?return answers\n?\r\n", b"", rest, flags=re.DOTALL)
    words = set(re.findall(rb"\$\d+\r\n([^\r]*)\r\n", rest))
    known = {b"SUBSCRIBE", b"TIME", b"HVALS", b"EVALSHA", b"EVAL", b"PUBSUB", b"NUMSUB", b"PING", b"1", b"offer", b""}
    known |= {b"ocwatchd:team:cooldowns", b"ocwatchd:team:news", b"UNSUBSCRIBE", b"PUBSUB NUMSUB"}
    assert {word for word in words if not re.fullmatch(rb"[0-9a-f]{40}", word)} <= known
    everything = bytes(proxy.sent + proxy.received)
    for private in (b"SECRET-REASON", b"ses_secret", str(a.root).encode(), b"valkey-py", b"anthropic/"):
        assert private not in everything


def test_over_tls_with_a_user_of_its_own_and_the_secret_in_a_file(tmp_path: Path) -> None:
    files = certificate(tmp_path / "tls", authority(tmp_path / "tls"))
    acl = tmp_path / "users.acl"
    users = [ACL.format(name=name, secret=f"secret-{name}") for name in ("a", "b")]
    acl.write_text("\n".join(["user default on >admin ~* &* +@all", *users]) + "\n")
    with Server(tmp_path / "server", tls=files, more=("--aclfile", str(acl))) as server:
        machines = []
        for name in ("a", "b"):
            secret = tmp_path / f"secret-{name}"
            secret.write_text(f"secret-{name}\n")
            secret.chmod(0o600)
            url = f"valkeys://{name}@localhost:{server.tls_port}"
            machines.append(machine(tmp_path, name, url, secretFile=str(secret), ca=str(files[2])))
        with machines[0] as a, machines[1] as b:
            shared(a, b)
            settled(a, b, records=1)
            said = json.loads(b.ocwatch("share", "status", "--json").stdout)
            assert (said["others_connected"], said["last_news_from"]) == (1, "a")
            assert "secret" not in json.dumps(said)
            assert b.ocwatch("share", "doctor").returncode == 0
            trip = json.loads(b.ocwatch("share", "test", "--json").stdout)
            assert 0 < trip["stored_seconds"] < 5
            assert agree(a, b, records=1), "the test cooldown was kept"


def test_a_certificate_of_another_authority_or_host_is_refused(tmp_path: Path) -> None:
    files = certificate(tmp_path / "tls", authority(tmp_path / "tls"))
    other, _ = authority(tmp_path / "other")
    with Server(tmp_path / "server", tls=files) as server:
        wrong_ca = machine(tmp_path, "a", f"valkeys://localhost:{server.tls_port}", ca=str(other))
        wrong_host = machine(tmp_path, "b", f"valkeys://127.0.0.1:{server.tls_port}", ca=str(files[2]))
        for one in (wrong_ca, wrong_host):
            one.limit()
            one.start(ready=False)
            one.wait_state("gone")
            assert "CERTIFICATE" in one.status()["why"].upper()
            assert "share.ca" in one.ocwatch("share", "doctor", code=1).stdout
            assert "cooldowns have not been shared since" in one.ocwatch("status", code=3).stdout
        assert server.call("EXISTS", "ocwatchd:team:cooldowns") == 0
        good = {"url": f"valkeys://localhost:{server.tls_port}", "accounts": ACCOUNTS, "ca": str(files[2])}
        for one, name in ((wrong_ca, "a"), (wrong_host, "b")):
            one.configure({**good, "node": name})
            one.wait_state("connected")
        settled(wrong_ca, wrong_host, records=1)
        for one in (wrong_ca, wrong_host):
            one.stop()


@pytest.mark.parametrize("denied", ["+subscribe", "+evalsha", "+hset", "&ocwatchd:team:news"])
def test_a_user_who_may_not_is_told_and_goes_on_when_he_may(tmp_path: Path, server: Server, denied: str) -> None:
    secret = tmp_path / "secret"
    secret.write_text("s")
    secret.chmod(0o600)
    right = ACL.format(name="a", secret="s").split()[1:]
    server.call("ACL", "SETUSER", "a", "reset", *[word for word in right[1:] if word != denied])
    a = machine(tmp_path, "a", f"valkey://a@127.0.0.1:{server.port}", secretFile=str(secret))
    a.limit()
    a.start(ready=False)
    with machine(tmp_path, "b", f"unix://{server.socket}") as b:
        a.wait_state("gone")
        assert "ACL line" in a.ocwatch("share", "doctor", code=1).stdout
        assert not b.prevented()
        server.call("ACL", "SETUSER", *right)
        wait_for(lambda: b.prevented(), why=lambda: a.log())
        settled(a, b, records=1)
        a.stop()


@pytest.mark.parametrize(("mode", "text", "why"), [(0o644, "s", "chmod 600"), (0o600, "", "empty")])
def test_a_secret_that_others_may_read_is_not_used(
    tmp_path: Path, server: Server, mode: int, text: str, why: str
) -> None:
    secret = tmp_path / "secret"
    secret.write_text(text)
    secret.chmod(mode)
    a = machine(tmp_path, "a", f"valkey://127.0.0.1:{server.port}", secretFile=str(secret)).start(ready=False)
    a.wait_state("gone")
    assert why in a.status()["why"]
    a.stop()


def test_the_secret_may_be_a_credential_of_systemd(tmp_path: Path, server: Server) -> None:
    server.call("ACL", "SETUSER", "default", "resetpass", ">s3")
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    (credentials / "ocwatchd-share").write_text("s3")
    (credentials / "ocwatchd-share").chmod(0o400)
    share = {"url": f"valkey://127.0.0.1:{server.port}", "accounts": ACCOUNTS, "node": "a"}
    with Machine(tmp_path / "a", share, environ={"CREDENTIALS_DIRECTORY": str(credentials)}) as a:
        a.wait_state("connected")


# ---- faults


def clock_ahead(offset: str) -> dict[str, str]:
    """Return the variables with which faketime sets the clock of a process, without a wrapper process."""
    shown = subprocess.run(["faketime", "-f", offset, "env"], check=True, capture_output=True, text=True).stdout
    (library,) = re.findall(r"^LD_PRELOAD=(.*)$", shown, re.MULTILINE)
    return {"LD_PRELOAD": library, "FAKETIME": offset}


def test_the_link_is_cut_and_mended(three: Three, proxy: Proxy) -> None:
    a, b, c = three
    shared(a, b, c)
    proxy.cut = True
    b.limit(SONNET)
    c.limit(HAIKU)
    b.wait_state("gone")
    assert b.ocwatch("pick", str(OPUS)).stdout == "other/fallback\n"  # everything works as before
    assert not c.prevented(SONNET)
    proxy.cut = False
    wait_for(lambda: c.prevented(SONNET) and a.prevented(HAIKU) and a.prevented(SONNET), why=lambda: a.log() + b.log())
    settled(*three, records=3)


def test_the_link_is_reset_again_and_again(three: Three, proxy: Proxy) -> None:
    a, b, c = three
    for number in range(6):
        proxy.reset()
        a.limit(ModelRef("anthropic", f"m{number}"))
    wait_for(lambda: all(c.prevented(ModelRef("anthropic", f"m{number}")) for number in range(6)), why=lambda: a.log())
    settled(*three, records=6)
    assert b.entry(ModelRef("anthropic", "m5")) is not None


def test_with_300_ms_and_30_percent_of_loss(three: Three, proxy: Proxy) -> None:
    a, b, c = three
    proxy.delay, proxy.loss = 0.3, 0.3
    for number in range(5):
        a.limit(ModelRef("anthropic", f"a{number}"))
        b.limit(ModelRef("anthropic", f"b{number}"))
    everything = [ModelRef("anthropic", f"{name}{number}") for name in "ab" for number in range(5)]
    wait_for(lambda: all(c.prevented(model) for model in everything), why=lambda: a.log() + b.log())
    settled(*three, records=10)
    proxy.delay = proxy.loss = 0.0
    a.ocwatch("clear", str(everything[0]))
    wait_for(lambda: c.entry(everything[0]) is None, why=lambda: c.log())


LINKS = ("proxy", "namespaces") if available() else ("proxy",)
"""Where namespaces are available, real packets are lost, as the summary at the end says; the proxy works everywhere."""


@pytest.mark.parametrize("link", LINKS)
def test_packets_are_lost_delayed_and_none_pass_for_a_while(tmp_path: Path, link: str, counted: Count) -> None:
    counted(f"lossy links by {link}", 1)
    with ExitStack() as stack:
        if link == "proxy":
            server = stack.enter_context(Server(tmp_path / "server"))
            lossy: LossyLink | Proxy = stack.enter_context(Proxy(server.port))
            assert isinstance(lossy, Proxy)
            share: dict[str, object] = {"url": f"valkey://127.0.0.1:{lossy.port}"}
            far: tuple[str, ...] = ()
        else:
            lossy = stack.enter_context(LossyLink())
            files = certificate(tmp_path / "tls", authority(tmp_path / "tls"), NEAR)
            server = stack.enter_context(Server(tmp_path / "server", tls=files, prefix=lossy.near, address=NEAR))
            share = {"url": f"valkeys://{NEAR}:{server.tls_port}", "ca": str(files[2])}
            far = lossy.far
        share["accounts"] = ACCOUNTS
        a, b = (Machine(tmp_path / name, {**share, "node": name}, prefix=far) for name in ("a", "b"))
        c = machine(tmp_path, "c", f"unix://{server.socket}")
        for one in (a, b, c):
            stack.enter_context(one)
        lossy.set(delay=0.3, loss=0.3)
        a.limit()
        c.limit(SONNET)
        wait_for(lambda: b.prevented() and c.prevented() and a.prevented(SONNET), 120, why=lambda: a.log() + b.log())
        lossy.set(loss=1.0)
        b.limit(HAIKU)
        c.ocwatch("clear", str(OPUS))
        b.wait_state("gone")
        lossy.set()
        wait_for(lambda: a.prevented(HAIKU) and c.prevented(HAIKU), 120, why=lambda: a.log() + b.log())
        wait_for(lambda: a.entry() is None and b.entry() is None, 120, why=lambda: a.log() + b.log())
        settled(a, b, c, records=3)


def test_the_server_is_stopped_and_goes_on(three: Three, server: Server) -> None:
    a, b, c = three
    shared(a, b, c)
    server.freeze()
    try:
        b.limit(SONNET)
        a.ocwatch("clear", str(OPUS))
        assert a.entry() is None
        b.wait_state("gone")
        assert b.entry(SONNET) is not None
    finally:
        server.thaw()
    wait_for(
        lambda: c.prevented(SONNET) and c.entry(OPUS) is None and b.entry(OPUS) is None, why=lambda: b.log() + c.log()
    )
    settled(*three, records=2)


def test_the_server_is_killed_and_starts_empty(three: Three, server: Server) -> None:
    a, b, c = three
    shared(a, b, c)
    server.kill()
    c.wait_state("gone")
    since = c.status()["since"]
    assert since in c.ocwatch("status", code=3).stdout
    c.limit(SONNET)
    server.start()
    wait_for(lambda: a.prevented(SONNET) and b.prevented(SONNET), why=lambda: a.log())
    settled(*three, records=2)
    assert server.call("HLEN", "ocwatchd:team:cooldowns") == 2
    assert a.entry() is not None
    assert b.prevented()


def test_a_helper_is_killed_and_knows_all_again(three: Three) -> None:
    a, b, c = three
    shared(a, b, c)
    settled(*three, records=1)
    b.stop(signal.SIGKILL)
    assert b.prevented()
    assert "is not running" in b.ocwatch("status", code=3).stdout
    a.limit(SONNET)
    b.answered()  # while it is disconnected
    b.start()
    wait_for(lambda: b.prevented(SONNET) and c.entry(OPUS) is None, why=lambda: b.log() + c.log())
    settled(*three, records=2)


def test_a_server_without_memory_loses_nothing(tmp_path: Path) -> None:
    with Server(tmp_path / "server") as server:
        a, b = (
            machine(tmp_path, "a", f"valkey://127.0.0.1:{server.port}"),
            machine(tmp_path, "b", f"unix://{server.socket}"),
        )
        with a, b:
            shared(a, b)
            server.call("CONFIG", "SET", "maxmemory", "1")
            a.limit(SONNET)
            wait_for(lambda: "cannot store more records" in a.status().get("why", ""), why=lambda: a.log())
            assert a.status()["state"] == "connected"
            assert "cannot store more records" in a.ocwatch("status", code=3).stdout
            server.call("CONFIG", "SET", "maxmemory", "0")
            wait_for(lambda: b.prevented(SONNET), why=lambda: a.log())
            settled(a, b, records=2)
            server.call("FLUSHALL")  # as a server does that evicts keys
            wait_for(lambda: server.call("HLEN", "ocwatchd:team:cooldowns") == 2, why=lambda: a.log())


def test_a_clock_ten_minutes_off_is_shown_and_not_obeyed(tmp_path: Path, server: Server) -> None:
    url = f"valkey://127.0.0.1:{server.port}"
    wrong = Machine(tmp_path / "w", {"url": url, "accounts": ACCOUNTS, "node": "w"}, environ=clock_ahead("+10m"))
    with machine(tmp_path, "a", url) as a, machine(tmp_path, "b", url) as b:
        wrong.limit(HAIKU)
        wrong.start(ready=False)
        wait_for(lambda: wrong.status().get("state") == "skewed", why=lambda: wrong.log())
        assert 550 < abs(wrong.status()["offset_seconds"]) < 650
        assert "have been ignored" in wrong.ocwatch("status", code=3).stdout
        shared(a, b)
        wait_for(lambda: wrong.known() == a.known() != set(), why=lambda: wrong.log())
        assert wrong.entry(OPUS) is None
        assert b.entry(HAIKU) is None
        wrong.stop()
        right = machine(tmp_path, "w", url).start()
        wait_for(lambda: right.prevented(OPUS) and b.prevented(HAIKU), why=lambda: right.log())
        settled(a, b, right, records=2)
        right.stop()


def test_bad_records_on_the_server_are_counted_and_skipped(three: Three, server: Server) -> None:
    a, b, c = three
    shared(a, b, c)
    ahead = round((time.time() + 3600) * 1000)
    bad = {
        "x\ty": "garbage",
        "x\tz": f"1\tx\tz\t0\t0\t-\tquota\tmodel\ttext\t{ahead}",
        "x\tw": "1\tx\t" + "w" * 400,
    }
    for field, line in bad.items():
        server.call("HSET", "ocwatchd:team:cooldowns", field, line)
        server.call("PUBLISH", "ocwatchd:team:news", line)
    server.call("PUBLISH", "ocwatchd:team:news", b"\xff\xfe\x00")
    expected = {"malformed": 2, "future": 1, "oversized": 1}
    wait_for(lambda: all(m.status().get("skipped") == expected for m in three), why=lambda: str(a.status()))
    assert all(m.status()["state"] == "connected" for m in three)
    settled(*three, records=1)
