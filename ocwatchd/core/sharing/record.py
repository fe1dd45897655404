"""The record that machines share about one model of one account. It is sent as one line of ten fields.

    1 TAB team-max-1 TAB claude-opus-4 TAB 3 TAB 1796000000000 TAB laptop-7f.12,ws-2c.11 TAB quota TAB model TAB text
    TAB 1795990000000

The line is plain text rather than JSON, because Python and the Lua script on the server must produce the same bytes.
Comparing the two strings then shows whether a record has changed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ocwatchd.core.domain.types import LimitKind, ResetSource, Scope

VERSION = 1
"""The value of the first field. A record of another version is counted and skipped."""
FIELDS = 10
MAX_BYTES = 300
"""Maximum length of a record in bytes. A longer record is counted and skipped."""
MAX_INCIDENTS = 16
LARGEST = 999_999_999
"""Maximum value of an epoch and of an incident counter. It has nine digits."""
FIXED_BYTES = len("1") + len(str(LARGEST)) + 13 + 10 + 9 + 11 + 13 + (FIELDS - 1)
"""Maximum number of bytes for everything except account, model and incidents: version, epoch, two times in
milliseconds, the longest values of kind, scope and reset source, and the tabs.
"""
LEAST_INCIDENT_BYTES = 24
"""Number of bytes that suffice for the newest incident. A model whose name leaves less space than this is not shared.
"""
MAX_AHEAD = 32 * 86_400_000
"""Maximum time, in milliseconds, from now until a cooldown ends. No provider's window is longer than a month, so a
later end is an error.
"""
MAX_SKEW = 300_000
"""Maximum error, in milliseconds, of a machine's clock. If the error is larger, the machine's records are ignored."""
TEST_ACCOUNT = "ocwatch-test"
"""The account of the artificial cooldown that `ocwatch share test` sends. Other machines ignore it."""
FREE = 0
"""The value of `until` for a model that has answered, or whose cooldown was cleared."""

KINDS = (LimitKind.OVERLOADED, LimitKind.RATE_LIMIT, LimitKind.QUOTA, LimitKind.BILLING)
SCOPES = (Scope.MODEL, Scope.FREE_TIER, Scope.PROVIDER)
SOURCES = (ResetSource.ESTIMATE, ResetSource.TEXT, ResetSource.STATUS, ResetSource.RETRY_AFTER, ResetSource.MANUAL)
"""Reset sources in ascending order of precedence. If two records have the same epoch and end, the source later in this
tuple is used.
"""

NODE = re.compile(r"[a-z0-9][a-z0-9-]{0,11}")
ACCOUNT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,39}")
_INCIDENT = re.compile(rf"({NODE.pattern})\.([1-9][0-9]{{0,8}})")
_NUMBER = re.compile(r"0|[1-9][0-9]{0,12}")
_KINDS = {word.value: word for word in KINDS}
_SCOPES = {word.value: word for word in SCOPES}
_SOURCES = {word.value: word for word in SOURCES}

Key = tuple[str, str]
"""Account and model (`*`: every model of the provider)."""


@dataclass(frozen=True, slots=True, order=True)
class Incident:
    """One limit that one machine has hit. `counter` is larger than the counter of every incident that the machine had
    received by then.
    """

    counter: int
    node: str

    def __str__(self) -> str:
        return f"{self.node}.{self.counter}"


@dataclass(frozen=True, slots=True)
class Record:
    """The shared state of one model of one account. Times are in milliseconds on the server's clock.

    `epoch` grows when a user clears the model's cooldown, when the model has answered, or when a reported, earlier end
    replaces an estimated end. `until` is None for a cooldown that lasts until a user clears it, and `FREE` if the model
    may be used. `incidents` contains the latest incidents, newest first. `since` is when the newest limit was hit, or
    when the model became available again.
    """

    account: str
    model: str
    epoch: int
    until: int | None
    incidents: tuple[Incident, ...]
    kind: LimitKind
    scope: Scope
    reset_source: ResetSource
    since: int

    @property
    def key(self) -> Key:
        """The account and the model, which identify the record."""
        return self.account, self.model

    def active(self, now: int) -> bool:
        """Return whether the model is cooling down at `now` (milliseconds on the server's clock)."""
        return self.until is None or now < self.until

    def line(self) -> str:
        """Return the record in the form in which it is sent and stored, without a line ending."""
        until = "-" if self.until is None else str(self.until)
        fields = (
            str(VERSION), self.account, self.model, str(self.epoch), until, ",".join(map(str, self.incidents)) or "-",
            self.kind.value, self.scope.value, self.reset_source.value, str(self.since),
        )  # fmt: skip
        return "\t".join(fields)


class Unusable(ValueError):
    """Raised for a line that is not a valid record. `why` is the reason under which the line is counted."""

    def __init__(self, why: str) -> None:
        """Store the reason. `why` is one of `malformed`, `oversized`, `version` and `future`."""
        self.why = why
        super().__init__(why)


def parse(line: str | bytes, now: int | None = None) -> Record:
    """Parse one line. If `now` (milliseconds on the server's clock) is given, a record with times too far in the future
    is rejected.

    Raises:
        Unusable: The line is malformed, longer than `MAX_BYTES`, of another version, or too far in the future.
    """
    data = line.encode(errors="surrogatepass") if isinstance(line, str) else line
    if len(data) > MAX_BYTES:
        raise Unusable("oversized")
    try:
        fields = data.decode().split("\t")
    except UnicodeDecodeError:
        raise Unusable("malformed") from None
    if _NUMBER.fullmatch(fields[0]) and fields[0] != str(VERSION):
        raise Unusable("version")
    if len(fields) != FIELDS or fields[0] != str(VERSION):
        raise Unusable("malformed")
    _, account, model, epoch, until, incidents, kind, scope, source, since = fields
    known = kind in _KINDS and scope in _SCOPES and source in _SOURCES
    numbers = _counter(epoch) and _NUMBER.fullmatch(since) and (until == "-" or _NUMBER.fullmatch(until))
    if not known or not numbers or not sharable(account, model):
        raise Unusable("malformed")
    record = Record(
        account, model, int(epoch), None if until == "-" else int(until), _incidents(incidents, account, model),
        _KINDS[kind], _SCOPES[scope], _SOURCES[source], int(since),
    )  # fmt: skip
    if now is not None and lies_ahead(record, now):
        raise Unusable("future")
    return record


def lies_ahead(record: Record, now: int) -> bool:
    """Return whether the record's times are too far in the future, because its machine's clock is wrong, or because its
    end is later than any end that a provider reports.
    """
    return record.since > now + MAX_SKEW or (record.until is not None and record.until > now + MAX_AHEAD)


def sharable(account: str, model: str) -> bool:
    """Return whether the account and the model are valid and short enough for a record."""
    named = ACCOUNT.fullmatch(account) and model and model == model.strip() and model.isprintable()
    return bool(named) and incident_bytes(account, model) >= LEAST_INCIDENT_BYTES


def incident_bytes(account: str, model: str) -> int:
    """Return the maximum number of bytes for the incidents in a record of this model.

    The number depends only on the key and not on the other fields. Two machines therefore produce the same list,
    whether they shorten it before or after a merge.
    """
    try:
        return MAX_BYTES - FIXED_BYTES - len(account.encode()) - len(model.encode())
    except UnicodeEncodeError:
        return -1


def newest(incidents: set[Incident], room: int) -> tuple[Incident, ...]:
    """Return the newest incidents, newest first: at most `MAX_INCIDENTS` incidents, with at most `room` bytes
    in total.
    """
    kept: list[Incident] = []
    for incident in sorted(incidents, reverse=True)[:MAX_INCIDENTS]:
        room -= len(str(incident)) + bool(kept)
        if room < 0:
            break
        kept.append(incident)
    return tuple(kept)


def _counter(text: str) -> bool:
    return bool(_NUMBER.fullmatch(text)) and int(text) <= LARGEST


def _incidents(text: str, account: str, model: str) -> tuple[Incident, ...]:
    """Parse the list of incidents. Its order and length must be exactly those that `newest` produces."""
    if text == "-":
        return ()
    found = [_INCIDENT.fullmatch(part) for part in text.split(",")]
    incidents = tuple(Incident(int(one[2]), one[1]) for one in found if one is not None)
    if len(incidents) != len(found) or incidents != newest(set(incidents), incident_bytes(account, model)):
        raise Unusable("malformed")
    return incidents
