"""One `opencode run`, as the brain gets it from the light half that has started it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ocwatchd.launcher.arguments import Arguments
from ocwatchd.launcher.child import Child, Signals
from ocwatchd.launcher.stdout import Output

if TYPE_CHECKING:
    from ocwatchd.launcher.elsewhere import Elsewhere


@dataclass(frozen=True, slots=True)
class Run:
    """The `opencode run` that was started.

    `environ` is what was set for it beyond our own environment, `asked` the model that the user means, `began` when it
    was started, epoch seconds. `server` is the one that it is a client of.
    """

    child: Child
    signals: Signals
    output: Output
    program: str
    environ: Mapping[str, str]
    arguments: Arguments
    asked: str | None
    began: float
    server: Elsewhere | None = None
