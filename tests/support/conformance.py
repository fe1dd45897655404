"""The cases in `tests/conformance/fallback.json`, each written into files by the product's own writers.

A case contains `config` (the keys under `rateLimit`), `limits` by model, the requested model, and the expected result:
a model (null: none may be used) and the agent to use with it (null: the session's own). The fields of a limit are `for`
(seconds or null), `scope`, `source`, `target` (if another writer has named one) and `of` (the model whose limit showed
that a whole provider is limited).
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ocwatchd.config import Config, load
from ocwatchd.config.names import Names, read_names
from ocwatchd.config.reader import read_document
from ocwatchd.core.domain.budget import DayBudget, Price
from ocwatchd.core.domain.capability import Capacity, Needs
from ocwatchd.core.domain.chains import resolve
from ocwatchd.core.domain.cooldowns import Cooldown, Cooldowns
from ocwatchd.core.domain.types import LimitKind, ModelRef, ResetSource, Scope, Target
from ocwatchd.core.fallback.outlook import Outlook
from ocwatchd.core.fallback.targets import Targets
from ocwatchd.paths import Paths
from ocwatchd.state import prices
from ocwatchd.state.blacklist import fallback_data
from ocwatchd.state.blacklist import store as blacklist

TABLE = Path(__file__).parents[1] / "conformance" / "fallback.json"
SESSION = "ses_1"


@dataclass(frozen=True)
class Case:
    """One row of the table."""

    row: dict[str, Any]

    @property
    def name(self) -> str:
        return str(self.row["name"])

    def concerns(self, who: str) -> bool:
        """Return whether the case applies to the chooser `who`. OpenCode, for example, does not know the names of
        pools.
        """
        return who in self.row.get("only", [who])

    @property
    def asked(self) -> str:
        return resolve(self.row["asked"], self.row["config"].get("models", {}))

    @property
    def agent(self) -> str | None:
        """Return the session's agent, if the case names one."""
        return self.row.get("agent")

    @property
    def needs(self) -> Needs:
        needs = self.row.get("needs", {})
        return Needs(needs.get("tokens", 0), frozenset(needs.get("inputs", ())), needs.get("tools", False))

    @property
    def expected(self) -> tuple[str | None, str | None]:
        return self.row["expect"]["model"], self.row["expect"]["agent"]


def cases() -> list[Case]:
    """Return all cases of the table."""
    return [Case(row) for row in json.loads(TABLE.read_text())]


class Files:
    """A case as files below HOME, written as the daemon and the commands write them."""

    def __init__(self, case: Case) -> None:
        self.case, self.now = case, time.time()
        self.paths = paths = Paths.from_env()
        row = case.row
        for directory in (paths.opencode_config, paths.state_dir):
            directory.mkdir(parents=True, exist_ok=True)
        config = {**row["config"], **({"budget": 1} if row.get("over_budget") else {})}
        paths.config_file.write_text(json.dumps({"rateLimit": config}))
        self.agents = {name: {"mode": "primary"} for name in row.get("opencode_agents", ())}
        asker = {case.agent or "asker": {"model": case.asked, "mode": "primary"}}
        (paths.opencode_config / "opencode.json").write_text(json.dumps({"agent": {**self.agents, **asker}}))
        self.config: Config = load(paths)
        self.offers = {name: _capacity(about) for name, about in row.get("capabilities", {}).items()}
        paid = {name: Price(1.0) for name in row.get("over_budget", ())}
        self.day_budget = DayBudget(1.0, 2.0, paid) if paid else DayBudget()
        self.loads = {name: float(load) for name, load in row.get("loads", {}).items()}
        self.cooldowns = Cooldowns(_entry(key, about, self.now) for key, about in row["limits"].items())
        self._aim()
        self._write()

    def outlook(self, *, of_the_session: bool = True) -> Outlook:
        """Return the facts besides chains and cooldowns, with or without those about the session."""
        session, needs = (SESSION, self.case.needs) if of_the_session else ("", Needs())
        return Outlook(session, self.loads, needs, self.offers, day_budget=self.day_budget)

    @property
    def names(self) -> Names:
        return read_names(read_document(str(self.paths.config_file)))

    def _aim(self) -> None:
        targets = Targets(self.config.policy, self.cooldowns, self.outlook(of_the_session=False), self.now)
        limits = self.case.row["limits"]
        for key, about in limits.items():
            if "of" in about:
                self.cooldowns.aim(ModelRef.parse(key), targets.of(ModelRef.parse(about["of"])))
        ours = [ModelRef.parse(key) for key, about in limits.items() if not {"target", "of"} & about.keys()]
        targets.keep(ours)

    def _write(self) -> None:
        outlook = self.outlook(of_the_session=False)
        listed = [entry.model for entry in self.cooldowns.entries() if entry.active(self.now)]
        published = {
            **fallback_data.document(self.config.policy, listed, outlook),
            "pools": fallback_data.pools_document(self.config.policy, self.loads, self.now, self.now),
        }
        blacklist.update(
            self.paths.blacklist,
            lambda _: {entry.model: entry for entry in self.cooldowns.entries()},
            self.now,
            published,
        )
        prices.write_budget(self.paths.budget, self.day_budget, self.now + 3600, self.now)


def _entry(key: str, about: dict[str, Any], now: float) -> Cooldown:
    target = about.get("target")
    scope = about.get("scope", "provider" if key.endswith("/*") else "model")
    return Cooldown(
        ModelRef.parse(key),
        LimitKind.RATE_LIMIT,
        Scope(scope),
        now - 60,
        None if about["for"] is None else now + about["for"],
        1,
        ResetSource(about.get("source", "retry-after")),
        target=Target(ModelRef.parse(target["model"]), target["agent"]) if target else None,
    )


def _capacity(about: dict[str, Any]) -> Capacity:
    inputs = frozenset(about.get("inputs", ()))
    return Capacity(about.get("context", 0), about.get("output", 0), inputs, about.get("tools", True))
