"""Prepare one launch of OpenCode, and run it if it needs to be watched or restarted. Imports few modules.

OpenCode's terminal interface runs as a child that can be started again. A `run` is a child that is watched with little
more than `stat`; the engine is imported only at the first sign of a limit. Any other launch is only prepared, and the
caller executes OpenCode.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from ocwatchd.config.names import Names
from ocwatchd.core.domain.chains import Fallbacks, agent_rows, resolve
from ocwatchd.errors import ConfigError, ExitCode
from ocwatchd.launcher.arguments import Arguments
from ocwatchd.launcher.find import mark
from ocwatchd.launcher.messages_to_user import debug, say
from ocwatchd.launcher.transform import CONTENT, Plan, Transform, merge_content, until_words
from ocwatchd.state.blacklist.query import CooldownTable

if TYPE_CHECKING:
    from ocwatchd.launcher.attached_watch import Attached
    from ocwatchd.launcher.child import Child
    from ocwatchd.launcher.signals import Signals
    from ocwatchd.launcher.stdout import Output
    from ocwatchd.launcher.trouble_signs import TroubleSigns
    from ocwatchd.opencode.process.reaper import Guardian

PLUGIN = "rate-limit-fallback.js"
Places = tuple[str, str, list[str], str]
"""OpenCode's log directory, our state directory, OpenCode's configuration directories (lowest precedence first), and
the cache file of the programs' generations.
"""
PLUGIN_DIRECTORIES = ("plugin", "plugins")

PATIENCE = 30.0
"""Maximum time, in seconds, that a start waits for a cooldown to end. It is also the default of `maxDelay`."""
JITTER, MAX_JITTER = 0.01, 5.0
"""Maximum additional delay of a start after a wait, as a fraction of the wait and in seconds. The delay
depends on the process id, so that several starts do not coincide.
"""

LAUNCHER = "OCWATCHD_LAUNCHER"
"""Environment variable that contains our process id in our children. The daemon leaves the children's sessions to the
launcher.
"""


class Launch:
    """One launch of OpenCode."""

    def __init__(
        self,
        found: str,
        arguments: Arguments,
        names: Names,
        read_cooldowns: Callable[[], CooldownTable],
        places: Places,
        patience: float = PATIENCE,
    ) -> None:
        """Store the arguments.

        `found` is the OpenCode executable. `patience` is the maximum number of seconds to wait for a cooldown to end.
        """
        self._patience = patience
        self._found, self._arguments, self._names = found, arguments, names
        self._cooldowns, self._read_cooldowns = read_cooldowns(), read_cooldowns
        self._logs, self._state, self._directories, self._programs = places
        if arguments.model and arguments.model in names.known:  # replace an alias or pool, which OpenCode does not know
            arguments.words = arguments.with_model(self._model_of(arguments.model))
        self.words = list(arguments.words)
        self.environ: dict[str, str] = {}

    def run(self) -> int | None:
        """Run the launch. Return the exit code, or None if the caller must execute OpenCode with `words` and
        `environ`.
        """
        plan = self._plan()
        if "--print-env" in self._arguments.own:
            return self._print(plan)
        running = self._arguments.subcommand == "run"
        while plan.exhausted and running:
            if not self._wait(plan.exhausted):
                return ExitCode.ALL_COOLING
            self._cooldowns = self._read_cooldowns()
            plan = self._plan()
        for line in plan.story:
            say(line)
        self.words, self.environ = plan.words, plan.environ
        debug(f"OpenCode {self._generation}; models replaced before the start: {len(plan.story)}")
        if self._generation != 1:
            # The environment of a client is not changed, because the service that all clients share could inherit it
            # and would use it until the service exits (0.0.0-next-16350).
            return self._supervised() if running and self._movable(running) else None
        if self._movable(running):
            self._add_plugin()
        if self._arguments.subcommand == "":
            return self._terminal()
        watched = self._movable(running) and running
        debug(
            "the run is watched" if watched else f"OpenCode is not watched: {self._unwatched() or 'it cannot be moved'}"
        )
        return self._supervised() if watched else None

    @cached_property
    def _generation(self) -> int:
        """Return OpenCode's generation, or 2 if the program does not report it in time.

        2 is the safer guess, because fewer things are changed in a launch of OpenCode 2.
        """
        from ocwatchd.launcher.transform import generation_of  # lazy import: --help does not need it

        return generation_of(self._found, self._programs) or 2

    @property
    def _replaceable(self) -> bool:
        """Return whether any fallback is configured."""
        return bool(self._names.chains or self._names.pools)

    def _model_of(self, name: str) -> str:
        """Return the model that an alias stands for, or the next member of a pool."""
        model = resolve(name, self._names.aliases)
        members = self._cooldowns.pools.get(model)
        return (self._cooldowns.select(model, Fallbacks({}, {}, {}, {})).model or members[0]) if members else model

    def _movable(self, running: bool) -> bool:
        """Return whether a session of this launch can be moved: a fallback is configured, and the session runs in our
        child.
        """
        arguments = self._arguments
        if not self._replaceable or "--no-fallback" in arguments.own:
            return False
        return (running and not self._unwatched()) or arguments.subcommand == ""

    def _unwatched(self) -> str | None:
        """Return the reason why a `run` is not watched, or None if it is watched."""
        if self._arguments.has("-i", "--interactive"):
            return "an interactive run cannot be continued in another process"
        return None

    def _add_plugin(self) -> None:
        """Load the companion plugin into this OpenCode only, unless the plugin is installed."""
        # A client does not need the plugin. --pure disables plugins, so such a run is continued only after its process
        # has ended.
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
        """Run OpenCode's terminal interface as a child, and run it again for each requested restart. Return the last
        exit code.
        """
        from ocwatchd.launcher.terminal import TERMINAL, Terminal  # lazy import: a `run` does not need it
        from ocwatchd.state.relaunch_requests import path_for

        self.environ[TERMINAL] = str(os.getpid())
        terminal = Terminal(self._found, path_for(self._state, os.getpid()), self._again, say)
        try:
            return terminal.run(self.words, {**os.environ, **self.environ, **mark(child=True)})
        except OSError as error:
            return self._not_started(error)

    def _again(self, request: Mapping[str, object]) -> tuple[Sequence[str], Mapping[str, str]]:
        """Return the arguments and the environment for a restart, and change to the directory that the request
        names.
        """
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
        """Start `run` as a child and watch it. Return its exit code or, if its prompt was run on another model, that
        run's exit code.
        """
        from ocwatchd.launcher.attached_watch import Attached  # lazy import: a terminal does not need it
        from ocwatchd.launcher.signals import Signals
        from ocwatchd.launcher.stdout import Output
        from ocwatchd.launcher.trouble_signs import TroubleSigns
        from ocwatchd.opencode.process.reaper import Guardian

        client = self._generation != 1
        if not client:
            self.environ[LAUNCHER] = str(os.getpid())
        output = Output(held=self._arguments.format != "json")
        code: int = ExitCode.FAILED
        with Guardian() as guardian:
            signals = Signals()
            trouble_signs: TroubleSigns | Attached = TroubleSigns(self._logs, f"{self._state}/facts")
            if client or self._arguments.has("--attach"):
                trouble_signs = Attached(self._arguments, self._state, self._generation)
            try:
                environ = {**os.environ, **self.environ, **mark(child=True)}
                child = _child_class(client)(self._found, self.words, environ, output.child)
            except OSError as error:
                return self._not_started(error)
            output.started()
            guardian.watch(child.pid, alone=client)
            trouble_signs.started(child.pid)
            try:
                code = self._watched(child, signals, trouble_signs, guardian, output)
            finally:
                output.end(empty=code == ExitCode.ALL_COOLING)
        return code

    def _watched(
        self, child: Child, signals: Signals, trouble_signs: TroubleSigns | Attached, guardian: Guardian, output: Output
    ) -> int:
        """Watch the child until it exits. Return its exit code or, if its prompt was run on another model, that run's
        exit code.
        """
        from ocwatchd.launcher.child import stopped, watch

        while watch(child, signals, trouble_signs, output):
            code = self._carried_over(child, signals, trouble_signs, guardian, output)
            if code is not None:
                return code
        since = trouble_signs.moved() if child.poll() == 0 and signals.got is None else None
        if since is None or trouble_signs.server is None:
            return stopped(child, signals)
        from ocwatchd.launcher.attached_server import follow  # lazy import: rarely needed

        return follow(trouble_signs.server, since, output, signals, say)

    def _carried_over(
        self, child: Child, signals: Signals, trouble_signs: TroubleSigns | Attached, guardian: Guardian, output: Output
    ) -> int | None:
        if grown := trouble_signs.new_facts():
            from ocwatchd.launcher.early_cooldowns import enter_early

            self._cooldowns = self._read_cooldowns()
            blacklist_file = f"{self._state}/blacklist.json"
            enter_early(f"{self._state}/facts", grown, blacklist_file, self.fallback, time.time(), self.agent_chains)
        from ocwatchd.launcher.session_host import Run
        from ocwatchd.launcher.supervise import supervise  # lazy import: the engine costs 150 ms of CPU time

        asked = self._asked()
        run = Run(
            child,
            signals,
            output,
            self._found,
            self.environ,
            self._arguments,
            asked,
            trouble_signs.began,
            trouble_signs.server,
            trouble_signs.service,
        )
        return supervise(run, guardian, say)

    def fallback(self, model: str) -> tuple[str, str | None] | None:
        """Return the fallback of a model that has just been limited, and the fallback's agent. Return None if there is
        no fallback.

        The fallback becomes the target in the model's blacklist entry, which applies to sessions of all agents. The
        chains of individual agents take precedence. They are written to the blacklist separately (`agent_chains`).
        """
        made = self._transform()
        fallbacks = made[0].fallbacks if made else _fallbacks(self._names)
        found = self._cooldowns.select(model, fallbacks, tried=(model,))
        return (found.model, found.agent) if found.model else None

    def agent_chains(self) -> dict[str, object]:
        """Return the chains of individual agents for the companion plugin, because there may be no daemon that
        publishes them.
        """
        made = self._transform()
        fallbacks = made[0].fallbacks if made else _fallbacks(self._names)
        return dict(agent_rows(fallbacks.chains, self._cooldowns.pools, fallbacks.agents))

    def _asked(self) -> str | None:
        """Return the model that the user requested, even if a fallback is used."""
        made = self._transform()
        return made[0].main_model(self._arguments, made[1]) if made else None

    def _plan(self) -> Plan:
        if not self._cooldowns:
            return Plan(self._arguments.words)
        made = self._transform()
        if made is None:
            return Plan(self._arguments.words)
        transform, earlier = made
        fallback = "--no-fallback" not in self._arguments.own
        if self._generation != 1:
            return transform.plan_for_client(self._arguments, fallback, earlier)
        return transform.plan(self._arguments, fallback, earlier)

    def _transform(self) -> tuple[Transform, str | None] | None:
        """Return this launch's `Transform` and the last model of a continued session, or None if OpenCode's
        configuration is unreadable.
        """
        from ocwatchd.launcher.transform import last_model, read  # lazy import: needed only after a limit

        try:
            config, agents, messages = read(self._arguments, self._directories, os.environ)
        except ConfigError:
            return None  # OpenCode itself reports the error in the file
        from ocwatchd.launcher.capability_check import misfits_of

        cooldowns = self._cooldowns.without(misfits_of(self._arguments, messages, f"{self._state}/blacklist.json"))
        return Transform(self._names, cooldowns, config, agents, os.environ), last_model(messages)

    def _wait(self, models: list[str]) -> bool:
        """Wait until the first of these models is available, if the wait is short or --wait was given. Return whether a
        model is available.
        """
        ends = [(entry.end, model) for model in models if (entry := self._cooldowns.blocking(model))]
        known = [(end, model) for end, model in ends if end != float("inf")]
        if not known:
            say(f"{models[0]} and all its fallbacks are cooling down until you clear them: ocwatch cooldowns")
            return False
        end, model = min(known)
        remaining = end - time.time()
        if remaining > self._patience and "--wait" not in self._arguments.own:
            say(f"every model is cooling down; {model} will be available first: it is limited {until_words(end)}")
            return False
        say(f"every model is cooling down; waiting for {model}, limited {until_words(end)}")
        # Launches that are waiting for the same model must not all start to use it at the same time.
        end += os.getpid() % 100 / 100 * min(max(remaining, 0.0) * JITTER, MAX_JITTER)
        while (remaining := end - time.time()) > 0:
            time.sleep(min(remaining, 5.0))  # short steps, in case the system is suspended or its clock is set
        return True

    def _print(self, plan: Plan) -> int:
        for line in plan.story:
            say(line)
        if plan.exhausted:
            say(f"cooling down: {', '.join(plan.exhausted)}")
        why = self._unwatched() if self._arguments.subcommand == "run" else None
        if self._generation == 1 and self._arguments.has("--attach"):
            # lazy import: 70 ms of CPU time, not needed by a normal start
            from ocwatchd.launcher.attached_server import no_endpoint

            why = no_endpoint(self._arguments)
        if why:
            say(f"this run is not watched for limits: {why}")
        for name, value in plan.environ.items():
            print(f"{name}={quoted(value)}")
        print(" ".join(["opencode", *map(quoted, plan.words)]))
        return ExitCode.DONE


def _child_class(client: bool) -> type[Child]:
    from ocwatchd.launcher.child import Child, Client  # lazy import: a terminal does not need it

    return Client if client else Child


def _fallbacks(names: Names) -> Fallbacks:
    return Fallbacks(names.chains, names.aliases, names.agents, names.pools)


def url_quoted(path: str) -> str:
    """Return the path, quoted for a file:// URL."""
    if path.isascii() and not set(path) & set(" %#?"):
        return path
    from urllib.parse import quote  # lazy import: rarely needed

    return quote(path)


def quoted(word: str) -> str:
    """Return the word, quoted for a shell."""
    from shlex import quote  # lazy import: only --print-env needs it

    return quote(word)


__all__ = ["CONTENT", "LAUNCHER", "Launch", "quoted"]
