"""The floor below which a model cannot take a session over: its window, what it can look at and do. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from ocwatchd.core.money import Price

ROOM = 8
"""An eighth of the window is kept for the answer, where the model's longest answer would take more."""
CHARS_PER_TOKEN = 4
"""Of text that nobody has counted yet; English prose and code lie between three and five."""


@dataclass(frozen=True, slots=True)
class Capacity:
    """What a model can take, as OpenCode's provider list tells it. `context` and `output` in tokens, 0 if not told.

    `inputs` are the kinds of input besides text: `image`, `pdf`, `audio`, `video`. `tools`: it can call tools. `price`
    is None where none is told.
    """

    context: int = 0
    output: int = 0
    inputs: frozenset[str] = frozenset()
    tools: bool = True
    price: Price | None = None


@dataclass(frozen=True, slots=True)
class Needs:
    """What a session is as it stands: tokens in its context, and of its last messages the kinds of attachments and
    whether tools were called."""

    tokens: int = 0
    inputs: frozenset[str] = frozenset()
    tools: bool = False


NOTHING = Needs()
"""Nothing is known of the session."""


def unfit(needs: Needs, capacity: Capacity | None) -> str | None:
    """Why the model cannot take the session; None if it can, or nobody knows."""
    if capacity is None:
        return None
    room = min(capacity.output, capacity.context // ROOM)
    if capacity.context and needs.tokens > capacity.context - room:
        window = f"its window has {capacity.context:,}"
        return f"too small: the session holds {needs.tokens:,} tokens, {window}" + (
            f", {room:,} for the answer" * (room > 0)
        )
    if needs.tools and not capacity.tools:
        return "cannot call tools, and the session has called some"
    missing = sorted(needs.inputs - capacity.inputs)
    return f"does not understand attachments of the kind {', '.join(missing)}" if missing else None
