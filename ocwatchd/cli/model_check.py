"""Check that OpenCode offers the model that the user named. If it does not, suggest similar models. It imports few
modules.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection

from ocwatchd.errors import UsageError

TYPE_CHECKING = False  # defined here because importing it from `typing` costs 5 ms of CPU time
if TYPE_CHECKING:
    from ocwatchd.config.offered_models import Offered


def refuse_unknown(model: str, known: Collection[str], read: Callable[[], Offered] | None = None) -> None:
    """Check that OpenCode offers `model` (`provider/model` or `provider/*`).

    `known` contains names that need no check: models in the user's chains, and models that are cooling down. `read`
    returns the offered models. Without `read`, they are read from OpenCode's files, including its list of all models
    (30 ms of CPU time). A model that might exist is accepted.

    Raises:
        UsageError: OpenCode does not offer the model; the message names the most similar ones.
    """
    if model in known:
        return
    from ocwatchd.config.offered_models import (  # lazy import: not needed if the model is in a chain
        Answer,
        judge,
        judge_provider,
        named_by_opencode,
        nearest,
        read_offered,
    )
    from ocwatchd.paths import Paths  # lazy import: not needed for known names

    paths = Paths.from_env()
    own = named_by_opencode(paths)
    if model in own:
        return
    offered = read() if read else read_offered(paths, environ=os.environ)
    provider, _, name = model.partition("/")
    found = judge_provider(provider, offered) if name == "*" else judge(model, offered)
    if found.answer is not Answer.NO:
        return
    near = nearest(model, offered, {*own, *known})
    meant = f" Did you mean {' or '.join(near)}?" if near else " To list all models, use: opencode models."
    raise UsageError(f"{model} is unknown: {found.why}.{meant} To use this name anyway, add: --force")
