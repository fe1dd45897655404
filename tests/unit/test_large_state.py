"""Tests that work grows in proportion to the number of models. They count calls and measure no time."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest

from ocwatchd.core.domain.chains import find_cycles, normalise
from ocwatchd.core.domain.cooldowns import Cooldown, Cooldowns
from ocwatchd.core.domain.types import LimitKind, ModelRef, ResetSource, Scope, Target
from ocwatchd.core.engine.engine import Engine
from ocwatchd.core.engine.messages import Tick
from ocwatchd.core.fallback.outlook import UNKNOWN
from ocwatchd.core.history.journal_entries import Entry as Line
from ocwatchd.core.history.metrics import figures
from ocwatchd.core.policy import Policy
from ocwatchd.state.blacklist import fallback_data
from ocwatchd.state.blacklist.format import Entry
from ocwatchd.state.blacklist.query import CooldownTable
from tests.support.rules import builtin

T = 1_800_000_000.5
FEW, MANY = 300, 900


def calls(work: Callable[[], object]) -> int:
    """Return how many functions `work` calls, including built-in ones."""
    count = 0

    def note(_frame: object, event: str, _about: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


def names(number: int) -> list[ModelRef]:
    return [ModelRef(f"p{n % 20}", f"m{n}") for n in range(number)]


def many_cooldowns(number: int) -> list[Cooldown]:
    models = names(number)
    return [
        Cooldown(
            model, LimitKind.RATE_LIMIT, Scope.MODEL, T - 60, T + 3600 + n, 1, ResetSource.TEXT,
            target=Target(models[(n + 1) % number]),
        )
        for n, model in enumerate(models)
    ]  # fmt: skip


def policy(number: int) -> Policy:
    models = [str(model) for model in names(number)]
    return Policy(chains={name: (models[(n + 1) % number], models[(n + 7) % number]) for n, name in enumerate(models)})


def asking_the_ledger(number: int) -> Callable[[], object]:
    cooldowns, models = Cooldowns(many_cooldowns(number)), names(number)
    return lambda: [cooldowns.avoided(model, T) for model in models]


def asking_the_blacklist(number: int) -> Callable[[], object]:
    until = "2099-01-01T00:00:00Z"
    register = CooldownTable({str(model): Entry(str(model), {"until": until}) for model in names(number)})
    return lambda: [register.blocking(str(model)) for model in names(number)]


def the_daemons_loop(number: int) -> Callable[[], object]:
    brain = Engine(policy(number), builtin(), Cooldowns(many_cooldowns(number)), lambda: "claim")
    return lambda: [brain.handle(Tick(), T + n / 2) for n in range(4)]


def publishing_fallbacks(number: int) -> Callable[[], object]:
    chosen, models = policy(number), names(number)
    return lambda: fallback_data.document(chosen, models, UNKNOWN)


def reading_chains(number: int) -> Callable[[], object]:
    models = [str(model) for model in names(number)]
    line = {name: (models[n + 1],) for n, name in enumerate(models[:-1])}
    return lambda: find_cycles(normalise(line, {"alias": models[0]}))


def the_report(number: int) -> Callable[[], object]:
    def line(what: str, n: int, **more: object) -> Line:
        model = str(names(number)[n])
        return Line(f"{n:021}", T + n, what, f"ses_{n}", model, {"what": what, "kind": "quota", **more})

    lines = [
        line("limit", n, evidence={"at": "2027-01-15T08:00:00Z", "entry": str(names(number)[n])}) for n in range(number)
    ]
    return lambda: figures(lines, T - 60, T + number)


@pytest.mark.parametrize(
    "work",
    [
        asking_the_ledger, asking_the_blacklist, the_daemons_loop, publishing_fallbacks, reading_chains, the_report,
    ],
)  # fmt: skip
def test_three_times_as_many_models_are_three_times_the_work(work: Callable[[int], Callable[[], object]]) -> None:
    few, many = calls(work(FEW)), calls(work(MANY))
    assert many < 4.5 * few, f"{few} calls for {FEW} models, {many} for {MANY}"


def test_what_was_published_is_not_made_again() -> None:
    """With thousands of limited models, the end of one cooldown must not cost as much as all of them."""
    known: fallback_data.Rows = {}
    chosen, models = policy(MANY), names(MANY)
    first = calls(lambda: fallback_data.document(chosen, models, UNKNOWN, known))
    again = calls(lambda: fallback_data.document(chosen, models[1:], UNKNOWN, known))
    assert again < first / 4
    assert fallback_data.document(chosen, models, UNKNOWN, known) == fallback_data.document(chosen, models, UNKNOWN)
