"""One launch: what to change, whether to start at all, and whether to watch it. Light, because every start comes here.

The terminal is started as a child that can be started again; a `run` as one that is watched with little more than
`stat`, and the brain is imported when a limit shows. Any other launch is only prepared: the caller becomes OpenCode.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from ocwatchd.config.names import Names
from ocwatchd.core.chains import resolve
from ocwatchd.errors import ConfigError, ExitCode
from ocwatchd.launcher.arguments import Arguments
from ocwatchd.launcher.find import mark
from ocwatchd.launcher.speech import say
from ocwatchd.launcher.transform import CONTENT, Plan, Transform, merge_content, until_words
from ocwatchd.state.register import Register

if TYPE_CHECKING:
    from ocwatchd.launcher.attached import Attached
    from ocwatchd.launcher.child import Child, Signals
    from ocwatchd.launcher.sentinel import Sentinel
    from ocwatchd.launcher.stdout import Output
    from ocwatchd.opencode.guardian import Guardian

PLUGIN = "rate-limit-fallback.js"
Places = tuple[str, str, list[str]]
"""OpenCode's log directory, our state directory, and OpenCode's configuration directories, the weaker first."""
PLUGIN_DIRECTORIES = ("plugin", "plugins")

PATIENCE = 30.0
"""Seconds, unless `maxDelay` says otherwise: a cooldown that ends sooner is waited for before the start."""

LAUNCHER = "OCWATCHD_LAUNCHER"
"""Our process id, in the environment of what we start: sessions in there are ours to move, not the daemon's."""


class Launch:
    """Prepares one launch, and carries it out where it is a terminal or a `run`."""

    def __init__(
        self,
        found: str,
        arguments: Arguments,
        names: Names,
        reread: Callable[[], Register],
        places: Places,
        patience: float = PATIENCE,
    ) -> None:
        """`found` is the real OpenCode; `reread` reads the register."""
        self._patience = patience
        self._found, self._arguments, self._names = found, arguments, names
        self._register, self._reread = reread(), reread
        self._logs, self._state, self._directories = places
        if arguments.model and arguments.model in names.known:  # OpenCode knows nothing of them
            arguments.words = arguments.with_model(self._model_of(arguments.model))
        self.words = list(arguments.words)
        self.environ: dict[str, str] = {}

    def run(self) -> int | None:
        """The exit code to end with; None if the caller is to become OpenCode, with `words` and `environ`."""
        plan = self._plan()
        if "--print-env" in self._arguments.own:
            return self._print(plan)
        running = self._arguments.subcommand == "run"
        while plan.exhausted and running:
            if not self._wait(plan.exhausted):
                return ExitCode.ALL_COOLING
            self._register = self._reread()
            plan = self._plan()
        for line in plan.story:
            say(line)
        self.words, self.environ = plan.words, plan.environ
        if self._movable(running):
            self._add_plugin()
        if self._arguments.subcommand == "":
            return self._terminal()
        return self._supervised() if self._movable(running) and running else None

    @property
    def _replaceable(self) -> bool:
        """Whether anything is written down that could stand in for a model."""
        return bool(self._names.chains or self._names.pools)

    def _model_of(self, name: str) -> str:
        """The model behind a name of the user's own; of a pool the member whose turn it is."""
        model = resolve(name, self._names.aliases)
        members = self._register.pools.get(model)
        return (self._register.pick(model, list(members)) or members[0]) if members else model

    def _movable(self, running: bool) -> bool:
        """Whether a session of this launch can be moved at all: there is a chain, and the session lives in there."""
        arguments = self._arguments
        if not self._replaceable or "--no-fallback" in arguments.own:
            return False
        return (running and not self._unwatched()) or arguments.subcommand == ""

    def _unwatched(self) -> str | None:
        """Why a `run` is handed over as it is; None if it is watched."""
        if self._arguments.has("-i", "--interactive"):
            return "--interactive: nobody can go on in its place"
        return None

    def _add_plugin(self) -> None:
        """The door into what is started: the companion plugin, for this process alone, unless it is installed."""
        # A client has no use for it; with --pure there is none, so no door: only what it has ended in is carried over.
        if self._arguments.has("--attach", "--pure"):
            return
        installed = [f"{place}/{name}/{PLUGIN}" for place in self._directories for name in PLUGIN_DIRECTORIES]
        if any(map(os.path.exists, installed)):
            return
        shipped = f"{os.path.dirname(os.path.dirname(os.path.abspath(__file__)))}/opencode/plugin/{PLUGIN}"
        inline = self.environ.get(CONTENT, os.environ.get(CONTENT, ""))
        merged = merge_content(inline, {"plugin": [f"file://{url_quoted(shipped)}"]})
        if merged is not None and os.path.exists(shipped):
            self.environ[CONTENT] = merged

    def _terminal(self) -> int:
        """Start the terminal as a child; the exit code of the last one that was started in its place."""
        from ocwatchd.launcher.terminal import TERMINAL, Terminal  # late: a `run` needs none of it
        from ocwatchd.state.relaunch import path_for

        self.environ[TERMINAL] = str(os.getpid())
        terminal = Terminal(self._found, path_for(self._state, os.getpid()), self._again, say)
        try:
            return terminal.run(self.words, {**os.environ, **self.environ, **mark(child=True)})
        except OSError as error:
            return self._not_started(error)

    def _again(self, request: Mapping[str, object]) -> tuple[Sequence[str], Mapping[str, str]]:
        """What a restart asks for: the same environment, other words, and the plugin if it has none yet."""
        words, directory, plugin = (request.get(name) for name in ("words", "directory", "plugin"))
        if isinstance(directory, str) and os.path.isdir(directory):
            os.chdir(directory)
            self.environ["PWD"] = directory
        if plugin is True:
            self._add_plugin()
        words = [word for word in words if isinstance(word, str)] if isinstance(words, list) else self.words
        return words, {**os.environ, **self.environ, **mark(child=True)}

    def _not_started(self, error: OSError) -> int:
        say(f"{self._found} cannot be started: {error.strerror}")
        return ExitCode.OPENCODE_UNREACHABLE

    def _supervised(self) -> int:
        """Start `run` as a child; its exit code, or what came of its prompt elsewhere."""
        from ocwatchd.launcher.attached import Attached  # late: a terminal needs none of it
        from ocwatchd.launcher.child import Child, Signals
        from ocwatchd.launcher.sentinel import Sentinel
        from ocwatchd.launcher.stdout import Output
        from ocwatchd.opencode.guardian import Guardian

        self.environ[LAUNCHER] = str(os.getpid())
        output = Output(held=self._arguments.format != "json")
        code: int = ExitCode.FAILED
        with Guardian() as guardian:
            signals = Signals()
            sentinel: Sentinel | Attached = Sentinel(self._logs, f"{self._state}/facts")
            if self._arguments.has("--attach"):
                sentinel = Attached(self._arguments, self._state)
            try:
                environ = {**os.environ, **self.environ, **mark(child=True)}
                child = Child(self._found, self.words, environ, output.child)
            except OSError as error:
                return self._not_started(error)
            output.started()
            guardian.watch(child.pid)
            sentinel.child = child.pid
            try:
                code = self._watched(child, signals, sentinel, guardian, output)
            finally:
                output.end(empty=code == ExitCode.ALL_COOLING)
        return code

    def _watched(
        self, child: Child, signals: Signals, sentinel: Sentinel | Attached, guardian: Guardian, output: Output
    ) -> int:
        """The exit code: the child's own, or what came of its prompt elsewhere."""
        from ocwatchd.launcher.child import stopped, watch

        while watch(child, signals, sentinel, output):
            code = self._carried_over(child, signals, sentinel, guardian, output)
            if code is not None:
                return code
        since = sentinel.moved() if child.poll() == 0 and signals.got is None else None
        if since is None or sentinel.server is None:
            return stopped(child, signals)
        from ocwatchd.launcher.elsewhere import follow  # late: hardly ever needed

        return follow(sentinel.server, since, output, signals, say)

    def _carried_over(
        self, child: Child, signals: Signals, sentinel: Sentinel | Attached, guardian: Guardian, output: Output
    ) -> int | None:
        if grown := sentinel.new_facts():
            from ocwatchd.launcher.early import enter_early

            self._register = self._reread()
            register = f"{self._state}/blacklist.json"
            enter_early(f"{self._state}/facts", grown, register, self._stand_in, time.time())
        from ocwatchd.launcher.run import Run
        from ocwatchd.launcher.supervise import supervise  # late: the brain costs 150 CPU ms

        asked = self._asked()
        run = Run(
            child, signals, output, self._found, self.environ, self._arguments, asked, sentinel.began, sentinel.server
        )
        return supervise(run, guardian, say)

    def _stand_in(self, model: str) -> tuple[str, str | None] | None:
        """The first free model of the chain, and the agent that carries it."""
        from ocwatchd.core.chains import candidates, first_free, normalise

        aliases, register = self._names.aliases, self._register
        chain = list(candidates(model, normalise(self._names.chains, aliases), register.pools))
        chain = [other for other in chain if other not in register.dear]
        free = first_free(chain, register.blocked) or first_free(chain, register.limited)
        agents = {resolve(name, aliases): agent for name, agent in self._names.agents.items()}
        return (free, agents.get(free)) if free else None

    def _asked(self) -> str | None:
        """The model that this launch was meant for, whatever stands in for it."""
        made = self._transform()
        return made[0].main_model(self._arguments, made[1]) if made else None

    def _plan(self) -> Plan:
        if not self._register:
            return Plan(self._arguments.words)
        made = self._transform()
        if made is None:
            return Plan(self._arguments.words)
        transform, earlier = made
        return transform.plan(self._arguments, "--no-fallback" not in self._arguments.own, earlier)

    def _transform(self) -> tuple[Transform, str | None] | None:
        """With the last model of the session that goes on. None if OpenCode's configuration cannot be read."""
        from ocwatchd.launcher.setup import last_model, read  # late: only a limit needs to know what the user has

        try:
            config, agents, messages = read(self._arguments, self._directories, os.environ)
        except ConfigError:
            return None  # OpenCode itself will say what is wrong
        from ocwatchd.launcher.fitting import misfits_of

        register = self._register.without(misfits_of(self._arguments, messages, f"{self._state}/blacklist.json"))
        return Transform(self._names, register, config, agents, os.environ), last_model(messages)

    def _wait(self, models: list[str]) -> bool:
        """Wait for the soonest of these models if that is near, or wished. Says so; False if it is not."""
        ends = [(entry.end, model) for model in models if (entry := self._register.blocking(model))]
        known = [(end, model) for end, model in ends if end != float("inf")]
        if not known:
            say(f"{models[0]} and everything that stands in for it rest until a person clears them")
            return False
        end, model = min(known)
        remaining = end - time.time()
        if remaining > self._patience and "--wait" not in self._arguments.own:
            say(f"every model is cooling; {model} is the first to return, limited {until_words(end)}")
            return False
        say(f"every model is cooling; waiting for {model}, limited {until_words(end)}")
        while (remaining := end - time.time()) > 0:
            time.sleep(min(remaining, 5.0))  # wall time: suspend and clock steps heal
        return True

    def _print(self, plan: Plan) -> int:
        for line in plan.story:
            say(line)
        if plan.exhausted:
            say(f"cooling: {', '.join(plan.exhausted)}")
        why = self._unwatched() if self._arguments.subcommand == "run" else None
        if self._arguments.has("--attach"):
            from ocwatchd.launcher.elsewhere import no_door  # late: 70 CPU ms, which no start needs

            why = no_door(self._arguments)
        if why:
            say(f"not watched for limits: {why}")
        for name, value in plan.environ.items():
            print(f"{name}={quoted(value)}")
        print(" ".join(["opencode", *map(quoted, plan.words)]))
        return ExitCode.DONE


def url_quoted(path: str) -> str:
    """A path as it stands in a file:// address."""
    if path.isascii() and not set(path) & set(" %#?"):
        return path
    from urllib.parse import quote  # late: hardly ever needed

    return quote(path)


def quoted(word: str) -> str:
    """A word as a shell reads it."""
    from shlex import quote  # late: only --print-env needs it

    return quote(word)


__all__ = ["CONTENT", "LAUNCHER", "Launch", "quoted"]
