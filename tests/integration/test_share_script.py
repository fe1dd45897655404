"""Tests that the merge in Lua on a real server equals the merge in Python, byte by byte."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ocwatchd.core.sharing.merge import Records, merged
from ocwatchd.core.sharing.record import MAX_AHEAD, MAX_SKEW, Record, Unusable, parse
from ocwatchd.share.valkey_link import DROP, OFFER, script
from tests.support.valkey_server import Server
from tests.unit.test_sharing import of_one_model, records

LUA = script()
NOW_MS = round(time.time() * 1000)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("server")) as running:
        yield running


def run(server: Server, how: str, *lines: str) -> list[bytes]:
    answer = server.call("EVAL", LUA, "1", "h", how, "channel", *lines)
    assert isinstance(answer, list)
    return answer


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=300)
@given(of_one_model(3))
def test_lua_merges_as_python_does(server: Server, three: list[Record]) -> None:
    server.call("DEL", "h")
    expected = Records()
    for record in three:
        expected.merge(record)
        (answer,) = run(server, OFFER, record.line())
        assert [answer.decode()] == [known.line() for known in expected]
    one, two, _ = three
    server.call("DEL", "h")
    assert run(server, OFFER, two.line(), one.line())[1].decode() == merged(one, two).line()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=200)
@given(records(), st.data())
def test_lua_refuses_what_python_refuses(server: Server, record: Record, data: st.DataObject) -> None:
    line = record.line()
    at = data.draw(st.integers(0, len(line) - 1))
    broken = line[:at] + data.draw(st.sampled_from(["", "x", "\t", ",", "0", "9" * 14, "-"])) + line[at + 1 :]
    server.call("DEL", "h")
    stored = run(server, OFFER, broken)
    try:
        expected = [parse(broken, NOW_MS).line().encode()]
    except Unusable:
        # The server does not check names, because every machine checks them itself.
        assert all(len(kept) <= 300 and kept.count(b"\t") == 9 for kept in stored)
    else:
        assert stored == expected


def test_a_damaged_record_on_the_server_is_replaced(server: Server) -> None:
    record = f"1\ta\tm\t0\t{NOW_MS + 5000}\tn.1\tquota\tmodel\ttext\t{NOW_MS}"
    server.call("DEL", "h")
    for damage in ("", "nonsense", record.replace("\t0\t", "\t9\t").replace("quota", "party"), "1\t" * 9 + "1"):
        server.call("HSET", "h", "a\tm", damage)
        assert run(server, OFFER, record) == [record.encode()]


@pytest.mark.parametrize("field", [4, 9])
def test_a_record_from_the_future_is_not_stored_and_spoils_nothing(server: Server, field: int) -> None:
    record = f"1\ta\tm\t0\t{NOW_MS + 5000}\tn.1\tquota\tmodel\ttext\t{NOW_MS}"
    fields = record.split("\t")
    fields[field] = str(NOW_MS + (MAX_AHEAD if field == 4 else MAX_SKEW) + 3_600_000)
    server.call("DEL", "h")
    assert run(server, OFFER, record, "\t".join(fields)) == [record.encode()]
    assert server.call("HVALS", "h") == [record.encode()]


def test_only_a_record_that_is_still_the_same_is_dropped(server: Server) -> None:
    record = f"1\ta\tm\t0\t{NOW_MS + 5000}\tn.1\tquota\tmodel\ttext\t{NOW_MS}"
    server.call("DEL", "h")
    run(server, OFFER, record)
    run(server, DROP, record.replace("n.1", "n.2"))
    assert server.call("HLEN", "h") == 1
    run(server, DROP, record)
    assert server.call("HLEN", "h") == 0
