"""What a model must support to take over a session: context window, attachments and tools. Pure functions."""

from __future__ import annotations

from dataclasses import dataclass

from ocwatchd.core.domain.budget import Price

ROOM = 8
"""The room reserved for the answer is the model's maximum output, but at most 1/ROOM of its context window."""
CHARS_PER_TOKEN = 4
"""Estimated characters per token, for text without a token count. English prose and code have between three and five.
"""


@dataclass(frozen=True, slots=True)
class Capacity:
    """What a model supports, from OpenCode's provider list. `context` and `output` are in tokens, 0 if unknown.

    `inputs` are the kinds of input besides text: `image`, `pdf`, `audio`, `video`. `tools`: whether the model can call
    tools. `price` is None if the list contains no price.
    """

    context: int = 0
    output: int = 0
    inputs: frozenset[str] = frozenset()
    tools: bool = True
    price: Price | None = None


@dataclass(frozen=True, slots=True)
class Needs:
    """What a session requires of a model: the tokens in its context and, from its last messages, the kinds of
    attachments and whether tools were called.
    """

    tokens: int = 0
    inputs: frozenset[str] = frozenset()
    tools: bool = False


NOTHING = Needs()
"""The requirements of a session about which nothing is known."""


def unfit(needs: Needs, capacity: Capacity | None) -> str | None:
    """Return why the model cannot take over the session, or None if it can or if its capacity is unknown."""
    if capacity is None:
        return None
    room = min(capacity.output, capacity.context // ROOM)
    if capacity.context and needs.tokens > capacity.context - room:
        window = f"but the context window has {capacity.context:,}"
        return f"too small: the session has {needs.tokens:,} tokens, {window}" + (
            f", of which {room:,} are reserved for the answer" * (room > 0)
        )
    if needs.tools and not capacity.tools:
        return "cannot call tools, and the session has called some"
    missing = sorted(needs.inputs - capacity.inputs)
    return f"does not support attachments of the kind {', '.join(missing)}" if missing else None
