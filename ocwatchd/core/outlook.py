"""What a choice among stand-ins rests on besides chains and cooldowns, as one value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Outlook:
    """For one session, or for nobody in particular (`session` empty).

    `loads`: how full a pool's members are, as sessions' worth by model.
    """

    session: str = ""
    loads: Mapping[str, float] = field(default_factory=dict)


UNKNOWN = Outlook()
"""Nothing is known."""
