"""One limit that two processes entered in one moment, neither knowing of the other: what holds of it."""

from __future__ import annotations

from dataclasses import replace

from ocwatchd.core.ledger import Cooldown, later
from ocwatchd.core.limits import ToldBy

GRAIN = 0.001
"""Seconds by which a time may differ from itself, once it was written down."""


def joined(before: Cooldown | None, ours: Cooldown, theirs: Cooldown) -> Cooldown:
    """What two writers tell of one model that stood as `before` when we last looked; theirs, where it is another limit.

    Theirs may be a person's block, or an entry that was made after a clear: of that ours knows nothing.
    """
    known, since = (before.strikes, before.since) if before else (0, theirs.since)
    anew = theirs.strikes < known or (theirs.strikes == known and theirs.since > since + GRAIN)
    if anew or ours.foreseen or ToldBy.MANUAL in (ours.told_by, theirs.told_by):
        return theirs
    same_refusal = before is None and theirs.strikes > 0 and theirs.session == ours.session
    until, told_by = later(theirs, ours.until, ours.told_by)
    return replace(
        ours,
        since=min(ours.since, theirs.since),
        until=until,
        told_by=told_by,
        strikes=max(ours.strikes, theirs.strikes) if same_refusal else theirs.strikes + max(ours.strikes - known, 0),
        target=ours.target or theirs.target,
        doublings=max(ours.doublings, theirs.doublings),
        extra={**ours.extra, **theirs.extra},
    )
