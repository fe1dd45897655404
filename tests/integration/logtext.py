"""Log lines for tests, as OpenCode 1.18 writes them, each refused attempt with its own session."""

from __future__ import annotations

from datetime import UTC, datetime

from ocwatchd.core.domain.types import LimitEvent
from ocwatchd.logs.tail import Sighting

NOW = datetime(2026, 11, 22, 12, 0, 0, tzinfo=UTC).timestamp()


def stamp(when: float) -> str:
    return datetime.fromtimestamp(when, UTC).strftime("%Y-%m-%dT%H:%M:%S.") + f"{int(when * 1000) % 1000:03d}Z"


def refusal(number: int, when: float = NOW) -> bytes:
    """Return a 429 in the session `ses_<number>`."""
    return (
        f'timestamp={stamp(when)} level=ERROR run=0a1b2c3d message="stream error" providerID=mock modelID=primary'
        f" session.id=ses_{number} small=false agent=build mode=primary"
        ' error.error="AI_APICallError: Too Many Requests"\n'
    ).encode()


def other(number: int, when: float = NOW) -> bytes:
    """Return a line without an event that mentions a limit."""
    return (
        f"timestamp={stamp(when)} level=INFO run=0a1b2c3d message=loading path=/home/dev/429-rate_limit/{number}.json\n"
    ).encode()


def refused(sightings: list[Sighting]) -> list[int]:
    """Return the numbers of the sessions that were refused, in the order of the events."""
    events = [s.seen for s in sightings if isinstance(s.seen, LimitEvent)]
    return [int((event.session or "ses_-1").removeprefix("ses_")) for event in events]
