"""The blacklist file as plain, checked values: what a quick command needs, without a single value type.

The file is public, so anything may stand in it. A wrong entry is skipped and named, never fatal; an unknown word for
kind, scope or told_by is kept: an entry is a fact with an end, also when a newer version has new words for it.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping

from ocwatchd.state.plain import NotAFile, read_plain

VERSION = 1
"""The version of blacklist.json that we write. A newer one is read as far as it goes, and never overwritten."""

NAME_CAP = 300
"""Characters of a model name, session id or agent name; the longest seen in real configurations have about 80."""

LATEST = 250_000_000_000.0
"""Epoch seconds, in the year 9892: a later time could not be written down in every zone."""

REASON_CAP = 300
STRIKES_CAP = 10**9


class Entry:
    """One checked entry; times in epoch seconds, `until` None: until a person clears it; `target` as (model, agent),
    `pool` the pool that the target was taken from: each session gets its own member of it.

    A plain class: a frozen dataclass would cost more at import than all the rest of this module.
    """

    __slots__ = (
        "doublings", "kind", "pool", "reason", "rule", "scope", "session", "since", "strikes", "target", "told_by",
        "until",
    )  # fmt: skip

    def __init__(self, key: str, value: dict[str, object]) -> None:
        """Check `value` and fill in defaults.

        Raises:
            ValueError: no usable `until`, or a field of the wrong type.
        """
        if "until" not in value:
            raise ValueError("no `until`")
        self.until = None if value["until"] is None else moment(value["until"], "until")
        self.since = moment(value["since"], "since") if value.get("since") is not None else (self.until or 0.0)
        self.kind = _word(value, "kind", "rate_limit")
        self.scope = _word(value, "scope", "provider" if key.endswith("/*") else "model")
        self.strikes = _count(value, "strikes", 1)
        self.told_by = _word(value, "told_by", "manual")
        self.rule = _text(value, "rule", NAME_CAP)
        self.reason = _text(value, "reason", REASON_CAP) or ""
        self.session = _text(value, "session", NAME_CAP)
        self.target = _target(value.get("target"))
        self.pool = _pool(value.get("target"))
        self.doublings = _count(value, "doublings", 0)

    def active(self, now: float) -> bool:
        """Whether the end lies ahead. The end itself is free: a known time is obeyed to the second."""
        return now < self.end

    @property
    def end(self) -> float:
        """The end in epoch seconds, infinite if only a person ends it."""
        return float("inf") if self.until is None else self.until


class Contents:
    """What was found in the file.

    `entries`: model key -> entry. `raw`: the document's own object, for a faithful rewrite. `problem`: why the file as
    a whole could not be understood. `closed`: it may be sound, but we are not let in. `skipped`: one phrase for each
    entry that was passed over.
    """

    __slots__ = ("closed", "entries", "exists", "problem", "raw", "skipped", "version")

    def __init__(self) -> None:
        """Start as a file that is not there."""
        self.entries: dict[str, Entry] = {}
        self.raw: dict[str, object] = {}
        self.version = VERSION
        self.exists = False
        self.closed = False
        self.problem: str | None = None
        self.skipped: list[str] = []

    def problems(self) -> list[str]:
        """What is wrong with the file, as phrases for a person."""
        found = []
        if self.problem:
            found.append(f"blacklist.json is damaged ({self.problem}); taken as empty")
        if self.skipped:
            found.append(f"blacklist.json: {len(self.skipped)} wrong entries passed over ({self.skipped[0]})")
        return found

    def active(self, now: float) -> dict[str, Entry]:
        """The entries whose end lies ahead, the soonest end first."""
        live = [(key, entry) for key, entry in self.entries.items() if entry.active(now)]
        return dict(sorted(live, key=lambda item: (item[1].end, item[0])))


def read_entries(path: str | os.PathLike[str]) -> Contents:
    """Read the file; missing counts as empty. Never raises: what is wrong with it stands in `problem`."""
    found = Contents()
    try:
        data = read_plain(os.fspath(path))
    except (FileNotFoundError, NotADirectoryError):
        return found
    except NotAFile as error:
        found.exists, found.problem = True, str(error)
        return found
    except OSError as error:
        found.exists, found.closed, found.problem = True, True, f"cannot be read ({error.strerror})"
        return found
    found.exists = True
    _parse(data, found)
    return found


def _parse(data: bytes, found: Contents) -> None:
    try:
        raw = json.loads(data, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError; deep nesting recurses
        found.problem = f"not JSON ({str(error)[:120]})" if data.strip() else "empty"
        return
    if not isinstance(raw, dict):
        found.problem = "not an object"
        return
    version = raw.get("version", VERSION)
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        found.problem = "`version` is not a positive number"
        return
    found.version = version
    if not isinstance(raw.get("models", {}), dict):
        found.problem = "`models` is not an object"
        return
    found.raw = raw
    for key, value in raw.get("models", {}).items():
        try:
            found.entries[key] = check_entry(key, value)
        except (ValueError, OverflowError) as error:
            found.skipped.append(f"{key[:NAME_CAP]!r}: {error}")


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON")  # Python reads NaN and Infinity; JavaScript would refuse our rewrite


def check_entry(key: str, value: object) -> Entry:
    """One entry of the file.

    Raises:
        ValueError: the key names no model, or the entry cannot be used.
    """
    check_key(key)
    if not isinstance(value, dict):
        raise ValueError("not an object")
    return Entry(key, value)


def check_key(key: str) -> None:
    """Accept `provider/model` and `provider/*`.

    Raises:
        ValueError: anything else, control characters and overlong names included.
    """
    provider, slash, model = key.partition("/")
    named = bool(provider and slash and model) and key == key.strip() and key.isprintable()
    if not named or len(key) > NAME_CAP:
        raise ValueError("not a model name of the form provider/model")


def moment(value: object, name: str) -> float:
    """Epoch seconds of the RFC 3339 time in field `name`; without a zone it is taken as UTC.

    Raises:
        ValueError: it is none.
    """
    if not isinstance(value, str) or len(value) > 64:
        raise ValueError(f"`{name}` is not a time")
    epoch = _our_own(value)
    if epoch is None:
        from datetime import UTC, datetime  # late: 2 CPU ms of the 25 that `pick` has

        try:
            moment = datetime.fromisoformat(value)
            epoch = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
        except (ValueError, OverflowError):
            epoch = -1.0
    if not 0 <= epoch < LATEST:
        raise ValueError(f"`{name}` is not a time")
    return epoch


def _our_own(text: str) -> float | None:
    """Epoch seconds of a time in the one form in which we write it (`clock.rfc3339`); None for any other."""
    fields = text[:4], text[5:7], text[8:10], text[11:13], text[14:16], text[17:19], text[20:23]
    if len(text) != 24 or "{}-{}-{}T{}:{}:{}.{}Z".format(*fields) != text or not text.isascii():
        return None
    if not "".join(fields).isdecimal():
        return None
    year, month, day, hour, minute, second, thousandths = map(int, fields)
    years = year - (month < 3)  # counted from March: a leap day ends them
    days = 365 * years + years // 4 - years // 100 + years // 400 + (153 * ((month + 9) % 12) + 2) // 5 + day - 719469
    whole = ((days * 24 + hour) * 60 + minute) * 60 + second
    there_is = time.gmtime(whole)[:6] == (year, month, day, hour, minute, second)
    return whole + thousandths / 1000 if there_is else None


def _word(value: Mapping[str, object], name: str, default: str) -> str:
    word = value.get(name, default)
    if not isinstance(word, str) or not word or len(word) > 40:
        raise ValueError(f"`{name}` is not a word")
    return word


def _text(value: Mapping[str, object], name: str, cap: int) -> str | None:
    text = value.get(name)
    if text is not None and not isinstance(text, str):
        raise ValueError(f"`{name}` is not a text")
    return text if text is None else text[:cap]


def _count(value: Mapping[str, object], name: str, default: int) -> int:
    count = value.get(name, default)
    if not isinstance(count, int) or isinstance(count, bool) or not 0 <= count <= STRIKES_CAP:
        raise ValueError(f"`{name}` is not a count")
    return count


def _target(value: object) -> tuple[str, str | None] | None:
    if value is None:
        return None
    model = value.get("model") if isinstance(value, dict) else None
    agent = value.get("agent") if isinstance(value, dict) else None
    if not isinstance(model, str) or not (agent is None or isinstance(agent, str)):
        raise ValueError("`target` names no model")
    check_key(model)
    if model.endswith("/*"):
        raise ValueError("`target` names a whole provider")
    return model, agent or None


def _pool(target: object) -> str | None:
    """The pool's name; without a readable one the target stands for itself."""
    name = target.get("pool") if isinstance(target, dict) else None
    return name if isinstance(name, str) and 0 < len(name) <= NAME_CAP else None


def loads_in(found: Contents) -> dict[str, float]:
    """How full the members of pools are, sessions' worth by model, as the daemon wrote it down last."""
    loads: dict[str, float] = {}
    pools = found.raw.get("pools")
    for pool in pools.values() if isinstance(pools, dict) else ():
        members = pool.get("members") if isinstance(pool, dict) else None
        for member in members if isinstance(members, list) else ():
            load = member.get("load") if isinstance(member, dict) else None
            if isinstance(load, int | float) and not isinstance(load, bool) and 0 <= load < STRIKES_CAP:
                loads[str(member.get("model"))] = float(load)
    return loads
