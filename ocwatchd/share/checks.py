"""Check the server or folder for `ocwatch share test` and `ocwatch share doctor`, over a separate connection."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from ocwatchd import DOCUMENTATION
from ocwatchd.clock import from_rfc3339
from ocwatchd.config.model import ShareSettings
from ocwatchd.core.domain.types import LimitKind, ResetSource, Scope
from ocwatchd.core.sharing.record import FREE, MAX_SKEW, TEST_ACCOUNT, Incident, Record
from ocwatchd.errors import OcwatchError
from ocwatchd.share.folder import SUFFIX
from ocwatchd.state.share_status import Link, health
from ocwatchd.time_words import exactly, when

PATIENCE = 5.0
"""Timeout, in seconds, for the server's notification about a record that was just stored."""


class ShareFault(OcwatchError):
    """Raised if the server or the folder cannot be used. The message describes the fault."""


@dataclass(frozen=True, slots=True)
class RoundTrip:
    """The result of sharing a test cooldown: the times, in seconds, until it was stored and until this machine received
    it.

    `offset` is the server's clock minus ours, in seconds, or None for a folder.
    """

    stored: float
    received: float
    offset: float | None


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check. `severity` is ok, info, warning or error."""

    code: str
    severity: str
    seen: str
    remedy: str | None = None


def round_trip(settings: ShareSettings) -> RoundTrip:
    """Share a cooldown of a test account, wait until it is received, and remove it.

    Raises:
        ShareFault: A step failed.
    """
    if settings.folder is not None:
        return _through_folder(settings)
    link = _client()
    try:
        return _through_server(link, settings)
    except (link.ValkeyError, OSError, OcwatchError) as fault:
        raise ShareFault(f"{link.place_of(settings.url or '')} cannot be used: {link.reason(fault)}") from None


def _client() -> Any:
    try:
        from ocwatchd.share import valkey_link  # lazy import: the client is not needed for a folder
    except ImportError:
        raise ShareFault("the client for the server is missing: pip install 'ocwatchd[share]'") from None
    return valkey_link


def _through_server(link: Any, settings: ShareSettings) -> RoundTrip:
    client, names = link.connect(settings), link.names_of(settings.team)
    news = client.pubsub()
    try:
        news.subscribe(names[1])
        news.get_message(timeout=PATIENCE)
        seconds, microseconds = client.time()
        server = seconds + microseconds / 1e6
        offset = server - time.time()
        record = _made_up(round(server * 1000))
        line = record.line().encode()
        begun = time.monotonic()
        stored = link.evaluate(client, names, link.OFFER, [line])
        took = time.monotonic() - begun
        if stored != [line]:
            raise ShareFault("the server did not store the record that was sent to it")
        received = _wait_for(news, line) - begun
        freed = _made_up(round(server * 1000), epoch=1, until=FREE).line().encode()
        link.evaluate(client, names, link.OFFER, [freed])
        _wait_for(news, freed)
        link.evaluate(client, names, link.DROP, [freed])
        return RoundTrip(took, received, offset)
    finally:
        for closing in (news, client):
            with suppress(link.ValkeyError, OSError):
                closing.close()


def _wait_for(news: Any, line: bytes) -> float:
    """Wait for the message that contains `line`, and return the monotonic time at which it was received."""
    deadline = time.monotonic() + PATIENCE
    while (left := deadline - time.monotonic()) > 0:
        message = news.get_message(timeout=left)
        if message is not None and message.get("data") == line:
            return time.monotonic()
    raise ShareFault(
        "the record was stored, but the notification about it did not arrive. Check that the server's ACL lets this "
        "user subscribe to the channel"
    )


def _made_up(now: int, epoch: int = 0, until: int | None = None) -> Record:
    """Return a record of the test account. The name of its model contains our pid."""
    return Record(
        TEST_ACCOUNT, f"test-{os.getpid()}", epoch, now + 5000 if until is None else until,
        (Incident(1, "test"),), LimitKind.RATE_LIMIT, Scope.MODEL, ResetSource.RETRY_AFTER, now,
    )  # fmt: skip


def _through_folder(settings: ShareSettings) -> RoundTrip:
    assert settings.folder is not None
    path = settings.folder / f".ocwatch-test-{os.getpid()}"
    line = _made_up(round(time.time() * 1000)).line().encode()
    begun = time.monotonic()
    try:
        path.write_bytes(line)
        stored = time.monotonic() - begun
        same = path.read_bytes() == line
        path.unlink()
    except OSError as fault:
        raise ShareFault(f"{settings.folder} cannot be used: {fault.strerror or fault}") from None
    if not same:
        raise ShareFault(f"{settings.folder} does not contain what was written to it")
    return RoundTrip(stored, time.monotonic() - begun, None)


# ---- doctor


def examine(settings: ShareSettings, status: Mapping[str, object] | None, now: float) -> Iterator[Finding]:
    """Yield the findings of all checks, simplest checks first. The check of the other machines is omitted if the server
    or the folder cannot be used. `status` is the last status of the share process.
    """
    if not settings.wanted:
        yield Finding("share-off", "info", "cooldowns are not shared", f"to share them: {DOCUMENTATION}/share.md")
        return
    if not settings.accounts:
        yield Finding(
            "share-accounts", "error", "no account is configured, so nothing is shared",
            'in the configuration: "share": {"accounts": {"anthropic": "team-max-1"}}',
        )  # fmt: skip
    else:
        shared = ", ".join(f"{provider} as {account}" for provider, account in settings.accounts.items())
        yield Finding("share-accounts", "ok", f"shared: {shared}")
    yield _helper(status)
    steps: tuple[Callable[[], Finding], ...] = (
        lambda: _reach(settings),
        lambda: _other_machines(settings, status, now),
    )
    for step in steps:
        found = step()
        yield found
        if found.severity == "error":
            return


def _helper(status: Mapping[str, object] | None) -> Finding:
    if status is None or status.get("state") == Link.STOPPED:
        return Finding(
            "share-helper",
            "error",
            "`ocwatch share` is not running",
            "start it: ocwatch share install, or ocwatch share",
        )
    why = health(status)
    if why is not None:
        return Finding("share-helper", "error", why, "see the following findings")
    return Finding(
        "share-helper", "ok", f"`ocwatch share` is running (pid {status.get('pid')}) as {status.get('node')}"
    )


def _reach(settings: ShareSettings) -> Finding:
    try:
        trip = round_trip(settings)
    except ShareFault as fault:
        return Finding("share-reach", "error", str(fault), _remedy(str(fault)))
    times = f"stored in {trip.stored * 1000:.1f} ms, received after {trip.received * 1000:.1f} ms"
    if trip.offset is None:
        return Finding("share-reach", "ok", f"{settings.folder} can be written and read ({times})")
    if abs(trip.offset) * 1000 > MAX_SKEW:
        seen = (
            f"the clocks of this machine and of the server differ by {exactly(abs(trip.offset))}, so other machines' "
            "reports are ignored"
        )
        return Finding("share-clock", "error", seen, "correct the clocks, preferably with NTP")
    return Finding(
        "share-reach", "ok", f"the server responds ({times}); its clock differs by {trip.offset * 1000:.0f} ms"
    )


_REMEDIES = (
    (
        ("CERTIFICATE", "certificate"),
        "set `share.ca` to the server's certificate authority; check the host in `share.url`",
    ),
    (
        ("WRONGPASS", "NOAUTH", "invalid username", "Authentication"),
        "check the user name in `share.url`, and the secret",
    ),
    (
        ("permission", "NOPERM", "can't run this command", "can't access"),
        f"{DOCUMENTATION}/share.md contains the ACL line that the server needs",
    ),
    (("maxmemory",), "give the server more memory, or use a separate server"),
    (
        ("refused", "No such file", "not known", "timed out", "Timeout"),
        "check that the server is running and that the address is correct",
    ),
)


def _remedy(why: str) -> str | None:
    return next((remedy for words, remedy in _REMEDIES if any(word in why for word in words)), None)


def _other_machines(settings: ShareSettings, status: Mapping[str, object] | None, now: float) -> Finding:
    """Return a finding about the other machines that share cooldowns."""
    if settings.folder is not None:
        names = sorted(path.name.removesuffix(SUFFIX) for path in settings.folder.glob(f"*{SUFFIX}"))
        own = status.get("node") if status is not None else None
        others = [name for name in names if name != own]
        if not others:
            return Finding(
                "share-others",
                "warning",
                "no other machine has a file in the folder",
                "check that the folder is synchronized",
            )
        return Finding("share-others", "ok", f"other machines: {', '.join(others)}")
    count = status.get("others_connected") if status is not None else None
    news = status.get("last_news") if status is not None else None
    received = when(from_rfc3339(news), now) if isinstance(news, str) else None
    known = status.get("nodes") if status is not None else None
    names = [str(name) for name in known] if isinstance(known, list) else []
    seen = f"{count if count is not None else 'an unknown number of'} other connection{'' if count == 1 else 's'}"
    seen += f"; machines that have reported limits: {', '.join(names)}" if names else ""
    seen += f"; last report {received}" if received else "; no reports yet"
    return Finding("share-others", "ok" if count else "info", seen)
