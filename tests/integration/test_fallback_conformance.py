"""Tests that all choosers of a fallback in Python agree with one table of cases, and so with each other.

The companion plugin runs the same table in `tests/e2e/hooks/test_conformance.py`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from ocwatchd.cli.commands.pick import pick
from ocwatchd.cli.commands.redirect import Job, MoveOptions, choose_target
from ocwatchd.config.opencode_config import merged
from ocwatchd.core.domain.pools import arranged
from ocwatchd.core.domain.types import ModelRef
from ocwatchd.core.engine.engine import Engine
from ocwatchd.core.engine.messages import Tick
from ocwatchd.core.fallback.choice import Chosen, fallback
from ocwatchd.core.fallback.targets import Targets
from ocwatchd.errors import AllCooling, OcwatchError
from ocwatchd.launcher.arguments import Arguments
from ocwatchd.launcher.capability_check import unfit_models
from ocwatchd.launcher.launch import Launch
from ocwatchd.launcher.transform import CONTENT, Transform, agents_of
from ocwatchd.state import budget
from ocwatchd.state.blacklist.format import loads_in, read_entries
from ocwatchd.state.blacklist.query import CooldownTable
from tests.support.conformance import SESSION, Case, Files, cases
from tests.support.rules import builtin
from tests.unit.brain import retrying

TABLE = cases()


def those(who: str, *, that: Callable[[Case], bool] = lambda case: True) -> pytest.MarkDecorator:
    chosen = [case for case in TABLE if case.concerns(who) and that(case)]
    return pytest.mark.parametrize("case", chosen, ids=lambda case: case.name)


def leads_away(case: Case) -> bool:
    """Return whether the model must not be used: only then is a session moved away from it."""
    return case.expected[0] != case.asked


def is_everybodys(case: Case) -> bool:
    """Return whether only the model's own limit decides, for any session, and no other program wrote a target."""
    limits = case.row["limits"]
    listed = any("target" in about for about in limits.values())
    return leads_away(case) and not (listed or case.agent or case.row.get("needs") or case.row.get("loads"))


def is_met_by_the_model(case: Case) -> bool:
    """Return whether the limit is one of the model alone, which the launcher has just seen."""
    about = case.row["limits"].get(case.asked, {"for": -1})
    return is_everybodys(case) and not about.keys() & {"source", "scope"} and about["for"] != -1


def test_the_table_is_large_enough_and_names_each_case_once() -> None:
    assert len(TABLE) >= 60
    assert len({case.name for case in TABLE}) == len(TABLE)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in [name for name in os.environ if name.startswith(("XDG_", "OPENCODE", "OCWATCHD"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PWD", str(tmp_path))
    return tmp_path


def register(files: Files, but: str | None = None) -> CooldownTable:
    """Return the blacklist as commands read it, for a continued session; without the entry of one model."""
    found = read_entries(str(files.paths.blacklist))
    active = {key: entry for key, entry in found.active(files.now).items() if key != but}
    pools = arranged(files.names.pools, SESSION, loads_in(found))
    unfit = unfit_models(found.raw, files.case.needs)
    return CooldownTable(active, pools, unfit, budget.over_budget(str(files.paths.budget), files.now))


def transform(files: Files, cooldowns: CooldownTable) -> Transform:
    config = merged([str(files.paths.opencode_config / "opencode.json")], {})
    return Transform(files.names, cooldowns, config, agents_of(config, {}, {}), {})


@those("pick")
def test_pick(case: Case, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = Files(case)
    found = register(files).select(case.asked, transform(files, register(files)).fallbacks, agent=case.agent)
    wanted, agent = case.expected
    assert (found.model, found.agent) == (wanted, agent if wanted != case.asked else None)
    if case.needs.tokens or case.needs.inputs or case.needs.tools:
        return  # tests/cli/test_pick.py tests needs that are read from the session's messages
    try:
        pick(case.row["asked"], agent=case.agent)
    except AllCooling:
        assert wanted is None
    else:
        assert capsys.readouterr().out == f"{wanted}\n" or "loads" in case.row


@those("transform")
def test_the_launch_transform(case: Case, home: Path) -> None:
    files = Files(case)
    asker = case.agent or "asker"
    plan = transform(files, register(files)).plan(Arguments(["run", "--agent", asker, "hi"]))
    wanted, agent = case.expected
    if wanted in (None, case.asked):
        assert (plan.words, plan.environ) == (["run", "--agent", asker, "hi"], {})
        assert (plan.exhausted[:1] == [case.asked]) is (wanted is None)
    else:
        content = json.loads(plan.environ[CONTENT])["agent"]
        assert content[asker]["model"] == wanted
        assert plan.words == ["run", "--agent", agent or asker, "hi"]
        assert agent is None or content[agent]["model"] == wanted


@those("engine", that=leads_away)
def test_the_engine(case: Case, home: Path) -> None:
    files, model = Files(case), ModelRef.parse(case.asked)
    found = fallback(files.config.policy, files.cooldowns, model, case.agent, (), files.now, files.outlook())
    moved = (str(found.target.model), found.target.agent) if isinstance(found, Chosen) else (None, None)
    wanted, agent = case.expected
    assert moved == (wanted, agent or (case.agent if wanted else None))


@those("engine", that=leads_away)
def test_a_move_by_hand(case: Case, home: Path) -> None:
    files = Files(case)
    model, (wanted, agent) = ModelRef.parse(case.asked), case.expected
    stuck = retrying(model=model, session=SESSION, needs=case.needs, **({"agent": case.agent} if case.agent else {}))
    job = Job(stuck, stuck, files.loads, files.offers, files.day_budget)
    try:
        target = choose_target(MoveOptions(), job, files.config, files.cooldowns, ())
    except OcwatchError:
        assert wanted is None
    else:
        assert (str(target.model), target.agent) == (wanted, agent or stuck.agent)


@those("engine", that=is_everybodys)
def test_the_target_in_the_blacklist(case: Case, home: Path) -> None:
    """The target in the entry is what would be chosen now for any session, and the daemon leaves it unchanged."""
    files, model = Files(case), ModelRef.parse(case.asked)
    (entry, *_) = sorted(
        (it for it in files.cooldowns.entries() if it.active(files.now) and it.covers(model)),
        key=lambda it: it.foreseen,
    )
    target = entry.target_for(model)
    assert ((str(target.model), target.agent) if target else (None, None)) == case.expected
    assert Targets(files.config.policy, files.cooldowns, files.outlook(of_the_session=False), files.now).keep() == []
    brain = Engine(files.config.policy, builtin(), files.cooldowns, lambda: "claim")
    brain.context.spent, brain.context.prices = files.day_budget.spent, files.day_budget.prices
    assert brain.handle(Tick(), files.now) == []


@those("early", that=is_met_by_the_model)
def test_an_early_cooldown_of_the_launcher(case: Case, home: Path) -> None:
    """The launcher enters the limit before the daemon knows it: the model is not listed yet."""
    files = Files(case)
    reread = register(files, but=case.asked)
    places = (str(home / "log"), str(files.paths.state_dir), [str(files.paths.opencode_config)], str(home / "programs"))
    launch = Launch("opencode", Arguments(["run", "-m", case.asked, "hi"]), files.names, lambda: reread, places)
    assert (launch.fallback(case.asked) or (None, None)) == case.expected


def test_no_user_of_the_table_is_left_without_most_of_its_cases() -> None:
    """A filter that excludes every case would make a test that cannot fail."""
    for test in (leads_away, is_everybodys, is_met_by_the_model):
        assert sum(map(test, TABLE)) >= 45, test.__name__
