"""The pre-launch transform: cooling models replaced by their targets, through arguments and environment alone.

OPENCODE_CONFIG_CONTENT beats every file of the user's and is merged with what the user has put there (1.0 - 1.18). No
file is touched. What cannot be read leaves the launch as it is: OpenCode itself then says what is wrong.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from ocwatchd.config.names import Names
from ocwatchd.config.opencode import DEFAULT_AGENT, object_in, text_of
from ocwatchd.config.reader import parse
from ocwatchd.core.chains import candidates, normalise, resolve
from ocwatchd.errors import ConfigError
from ocwatchd.launcher.arguments import Arguments
from ocwatchd.state.register import Register

CONTENT = "OPENCODE_CONFIG_CONTENT"
KEPT_AGENTS = frozenset(("plan", "general", "explore"))
"""OpenCode's own agents that may do less than others: their model is changed, they are not."""


class Plan:
    """What is changed for one launch.

    `words` are OpenCode's arguments, `environ` the variables to set, `story` lines for standard error. `exhausted`: the
    model that this launch would use rests, and so does all that stands in for it: these, nearest first.
    """

    __slots__ = ("environ", "exhausted", "story", "words")

    def __init__(self, words: Sequence[str]) -> None:
        """Nothing is changed yet."""
        self.words = list(words)
        self.environ: dict[str, str] = {}
        self.story: list[str] = []
        self.exhausted: list[str] = []


class Agents:
    """The user's agents: the model each names, and those that only work below another."""

    __slots__ = ("models", "subordinate")

    def __init__(self, models: Mapping[str, str | None], subordinate: frozenset[str] = frozenset()) -> None:
        """By name."""
        self.models = models
        self.subordinate = subordinate | KEPT_AGENTS


class Transform:
    """One launch's transform."""

    def __init__(
        self, names: Names, register: Register, config: Mapping[str, object], agents: Agents, environ: Mapping[str, str]
    ) -> None:
        """`config` is the user's whole OpenCode configuration, merged."""
        self._names, self._register, self._config, self._agents = names, register, config, agents
        self._environ = environ
        self._chains = normalise(names.chains, names.aliases)

    def plan(self, arguments: Arguments, fallback: bool = True, earlier: str | None = None) -> Plan:
        """What to change. `earlier`: the model of the session that goes on, if one does and it is known.

        Without `fallback` nothing is moved; a model that rests then is exhausted.
        """
        plan = Plan(arguments.words)
        main = self.main_model(arguments, earlier)
        if main is not None and self._register.limited(main) and not (fallback and self._target(main)):
            plan.exhausted = [main, *(self._stand_ins(main) if fallback else [])]
            return plan
        if not fallback:
            return plan
        content = self._content()
        self._explicit(arguments, plan, content)
        if content:
            merged = self._merged(content)
            if merged is not None:
                plan.environ[CONTENT] = merged
        return plan

    def main_model(self, arguments: Arguments, earlier: str | None = None) -> str | None:
        """The model that the launch asks for; None if nobody can say."""
        if arguments.model:
            return arguments.model
        if arguments.agent and self._agents.models.get(arguments.agent):
            return self._agents.models[arguments.agent]
        if arguments.continues:
            return earlier
        agent = text_of(self._config, "default_agent", self._environ) or DEFAULT_AGENT
        if arguments.agent is None and self._agents.models.get(agent):
            return self._agents.models[agent]
        return text_of(self._config, "model", self._environ)

    # ---- parts

    def _content(self) -> dict[str, object]:
        """What the configuration names and rests, with its target in its place."""
        content: dict[str, object] = {}
        for key in ("model", "small_model"):
            target = self._target(text_of(self._config, key, self._environ))
            if target:
                content[key] = target[0]
        moved = {name: target[0] for name, model in self._agents.models.items() if (target := self._target(model))}
        if moved:
            content["agent"] = {name: {"model": model} for name, model in sorted(moved.items())}
        return content

    def _explicit(self, arguments: Arguments, plan: Plan, content: dict[str, object]) -> None:
        """What the command line names."""
        model, agent = arguments.model, arguments.agent
        if model:
            target = self._target(model)
            if target:
                plan.words = arguments.with_model(target[0])
                plan.story.append(self._line(model, target[0]))
            return
        target = self._target(self._agents.models.get(agent)) if agent else None
        if not agent or not target:
            return
        carrier = target[1] if agent not in self._agents.subordinate else None
        if carrier and carrier in self._agents.models and carrier != agent:
            plan.words = arguments.with_agent(carrier)
            if self._agents.models[carrier] != target[0]:
                agents = content.setdefault("agent", {})
                if isinstance(agents, dict):
                    agents[carrier] = {"model": target[0]}
        plan.story.append(self._line(self._agents.models[agent] or "", target[0], agent))

    def _target(self, model: str | None) -> tuple[str, str | None] | None:
        """Where prompts for `model` go now; None if it is free, or nothing else is."""
        if model is None or not self._register.blocked(model):
            return None
        picked = self._register.pick(model, self._stand_ins(model))
        if picked in (None, model):
            return None
        listed = self._register.target_with_agent(model)
        agent = listed[1] if listed and listed[0] == picked else None
        return picked, agent or self._carrier(picked)

    def _carrier(self, model: str) -> str | None:
        aliases = self._names.aliases
        # An alias that is also the name of one of the user's agents names both, as for the daemon.
        both = {resolve(alias, aliases): alias for alias in aliases if alias in self._agents.models}
        named = {resolve(name, aliases): agent for name, agent in self._names.agents.items()}
        return {**both, **named}.get(model)

    def _stand_ins(self, model: str) -> list[str]:
        return list(candidates(model, self._chains, self._register.pools))

    def _line(self, asked: str, target: str, agent: str | None = None) -> str:
        passed = self._register.passed_over(target, self._stand_ins(asked))
        over = "".join(f"; {name}: {why}" for name, why in passed)
        entry = self._register.blocking(asked)
        until = until_words(entry.end) if entry else ""
        named = f" (agent {agent})" if agent else ""
        return f"{asked}{named} is limited {until}: using {target}{over}"

    def _merged(self, content: Mapping[str, object]) -> str | None:
        inline = self._environ.get(CONTENT, "")
        return merge_content(inline, content)


def merge_content(inline: str, content: Mapping[str, object]) -> str | None:
    """The user's inline configuration with ours on top; None if it cannot be read: then OpenCode shall say so."""
    try:
        own = parse(inline, CONTENT) if inline.strip() else {}
    except ConfigError:
        return None
    return json.dumps(_merge(own, content)) if isinstance(own, dict) else None


def _merge(one: Mapping[str, object], other: Mapping[str, object]) -> dict[str, object]:
    """Objects are merged, lists joined, everything else is replaced."""
    merged = dict(one)
    for key, value in other.items():
        old = merged.get(key)
        if isinstance(old, dict) and isinstance(value, dict):
            merged[key] = _merge(old, value)
        elif isinstance(old, list) and isinstance(value, list):
            merged[key] = [*old, *(item for item in value if item not in old)]
        else:
            merged[key] = value
    return merged


def agents_of(
    config: Mapping[str, object], files: Mapping[str, tuple[str | None, bool]], environ: Mapping[str, str]
) -> Agents:
    """The agents of the configuration and of Markdown files, given as name -> (model, whether it leads)."""
    models: dict[str, str | None] = {}
    below: set[str] = set()
    for section in ("mode", "agent"):
        for name, value in object_in(config, section).items():
            if isinstance(value, dict) and value.get("disable") is not True:
                models[name] = text_of(value, "model", environ)
                if value.get("mode") == "subagent":
                    below.add(name)
    for name, (model, leads) in files.items():
        models[name] = model
        if not leads:
            below.add(name)
    return Agents(models, frozenset(below))


def until_words(end: float) -> str:
    """`until 14:20:05` (local), with the date if it is not today; `until a person clears it`."""
    import time  # late: only a limit needs it

    if end == float("inf"):
        return "until a person clears it"
    moment, today = time.localtime(end), time.localtime()
    return time.strftime("until %H:%M:%S" if moment[:3] == today[:3] else "until %Y-%m-%d %H:%M:%S", moment)
