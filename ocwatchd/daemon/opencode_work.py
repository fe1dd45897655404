"""Probe running OpenCode processes, move their sessions and return them to their primaries, on worker threads."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

from ocwatchd.clock import Clock
from ocwatchd.core.domain.moves import MoveOutcome, MoveResult, ReturnResult
from ocwatchd.core.domain.snapshot import SessionSnapshot
from ocwatchd.core.engine.messages import Free, Move, MoveEnded, Probe, Probed, ReturnSession, SessionReturned
from ocwatchd.daemon.faults import FileHealth
from ocwatchd.daemon.lanes import ENDPOINTS, PROBES, Post, WorkerLanes
from ocwatchd.movers.preflight import Mover
from ocwatchd.movers.switch import SwitchModel
from ocwatchd.opencode.client.activity import StreamActivity
from ocwatchd.opencode.client.connect import client_of
from ocwatchd.opencode.client.event_stream import EventListener
from ocwatchd.opencode.client.request import EndpointError
from ocwatchd.opencode.discovery.earlier import earlier_processes
from ocwatchd.opencode.discovery.endpoints import EndpointFinder, Endpoints
from ocwatchd.opencode.discovery.plugin_sockets import clear_stale
from ocwatchd.opencode.discovery.probes import SessionProbe
from ocwatchd.opencode.sessions.capabilities import offers_at
from ocwatchd.paths import Paths
from ocwatchd.state import prices

log = logging.getLogger(__name__)


class OpenCodeWork:
    """Submits to the worker lanes all work that uses OpenCode's endpoints, and posts each result as a message."""

    def __init__(
        self,
        paths: Paths,
        clock: Clock,
        lanes: WorkerLanes,
        post: Post,
        health: FileHealth,
        finder: EndpointFinder,
        prober: SessionProbe,
        listener: EventListener,
        mover: Mover,
        switcher: SwitchModel,
        activity: StreamActivity | None = None,
    ) -> None:
        """Store the arguments. `mover` moves sessions of OpenCode 1, and `switcher` those of OpenCode 2. `activity`
        contains what `listener` has learned from the event streams.
        """
        self._paths, self._prices, self._sockets, self._clock = paths, paths.prices, paths.endpoints, clock
        self._lanes, self._post, self._health = lanes, post, health
        self._finder, self._prober, self._listener = finder, prober, listener
        self._mover, self._switcher, self._activity = mover, switcher, activity or StreamActivity()
        self._starting = False
        self._endpoints: tuple[Mapping[str, object], ...] = ()
        self._earlier: tuple[Mapping[str, object], ...] = ()

    @property
    def starting(self) -> bool:
        """Return whether a recently started OpenCode process is not responding yet."""
        return self._starting

    @property
    def endpoints(self) -> tuple[Mapping[str, object], ...]:
        """Return the status of each running OpenCode process that the last search for endpoints found."""
        return self._endpoints

    @property
    def earlier(self) -> tuple[Mapping[str, object], ...]:
        """Return the OpenCode processes without the companion plugin that the last search for endpoints found."""
        return self._earlier

    def probe(self, effect: Probe) -> None:
        """Probe one session, or all stuck sessions if the effect does not name one."""
        self._lanes.submit(
            PROBES,
            "Probe",
            partial(self._probe, effect),
            lambda _: Probed(effect.session, effect.model, (), 0),
        )

    def move(self, effect: Move) -> None:
        """Carry out a claimed move."""
        self._lanes.submit(
            effect.order.snapshot.endpoint.address,
            "Move",
            partial(self._move, effect),
            lambda fault: MoveEnded(effect.claim, effect.order, MoveOutcome(MoveResult.FAILED, repr(fault))),
        )

    def return_session(self, effect: ReturnSession) -> None:
        """Return a session to its primary."""
        self._lanes.submit(
            PROBES,
            "ReturnSession",
            partial(self._give_back, effect),
            lambda _: SessionReturned(effect.session, effect.target, ReturnResult.LATER),
        )

    def free(self, effect: Free) -> None:
        """Stop a limited subagent, so that its parent continues."""
        self._lanes.submit(effect.snapshot.endpoint.address, "Free", partial(self._free, effect))

    def listen(self) -> None:
        """Search for new endpoints, and follow their events."""
        self._lanes.submit(ENDPOINTS, "searching for endpoints", self._find_endpoints)

    def ask_offers(self) -> None:
        """Request the capacities and prices of models from the open endpoints."""
        self._lanes.submit(PROBES, "requesting model capacities", self._ask_offers)

    # ---- on worker threads

    def _find_endpoints(self) -> None:
        self._listener.listen(self._finder.known().open)
        clear_stale(self._sockets)
        self._note_endpoints(self._finder.find())
        reached = {endpoint.get("pid") for endpoint in self._endpoints}
        found = earlier_processes(self._paths, self._finder.processes)
        self._earlier = tuple(process.for_heartbeat() for process in found if process.pid not in reached)
        if prices.outdated(self._prices, self._clock.now()):
            self.ask_offers()

    def _note_endpoints(self, found: Endpoints) -> None:
        self._endpoints = tuple(status.as_json() for status in found.statuses)
        self._starting = found.starting
        log.debug("endpoints: %d open, %d seen", len(found.open), len(found.statuses))
        self._listener.listen(found.open)

    def _ask_offers(self) -> None:
        places = ((endpoint, endpoint.directory) for endpoint in self._finder.known().open if endpoint.directory)
        offers = offers_at(places, self._clock.now())
        prices.keep(self._prices, offers, self._clock.now())
        self._post(Probed(None, None, (), 0, offers=offers))

    def _probe(self, effect: Probe) -> None:
        if effect.session is None:
            found = self._prober.stuck(partial(self._report, effect))
            answer = Probed(None, effect.model, (), found.endpoints, failing=found.failing)
        else:
            found = self._prober.session(effect.session)
            answer = self._probed(effect, found.snapshots, found.endpoints, found.failing)
        self._post(answer)  # post this before updating the endpoints, because a move waits for this message
        self._note_endpoints(self._finder.last())

    def _report(self, effect: Probe, snapshots: Sequence[SessionSnapshot]) -> None:
        """Post one process's snapshots without waiting for the other processes."""

        def answer() -> None:
            self._post(replace(self._probed(effect, snapshots, 1, 0), more=True))

        self._lanes.submit(snapshots[0].endpoint.address, "Probe", answer)

    def _probed(self, effect: Probe, snapshots: Sequence[SessionSnapshot], endpoints: int, failing: int) -> Probed:
        """Return the result of a probe: the snapshots of the sessions and of the parents that are waiting for them, and
        the capacities of the models.
        """
        snapshots = [replace(found, silence=self._activity.silence(found.session)) for found in snapshots]
        waiting = {found.parent for found in snapshots if found.parent and (found.stuck or found.silence is not None)}
        parents = tuple(snapshot for parent in waiting for snapshot in self._prober.session(parent).snapshots)
        offers = offers_at(
            ((snapshot.endpoint, snapshot.directory) for snapshot in snapshots if snapshot.stuck), self._clock.now()
        )
        prices.keep(self._prices, offers, self._clock.now())
        return Probed(effect.session, effect.model, tuple(snapshots), endpoints, parents, offers, failing)

    def _free(self, effect: Free) -> None:
        try:
            client_of(effect.snapshot.endpoint).stop(effect.snapshot.session, effect.snapshot.directory)
        except EndpointError as fault:
            self._health.say(f"{effect.snapshot.session} could not be stopped: {fault}")

    def _move(self, effect: Move) -> None:
        mover = self._switcher if effect.order.snapshot.endpoint.generation == 2 else self._mover
        self._post(MoveEnded(effect.claim, effect.order, mover.move(effect.order)))

    def _give_back(self, effect: ReturnSession) -> None:
        """Return an OpenCode 2 session to its primary. Try one running server after another, because it is unknown in
        which of them the session is idle.
        """
        result = ReturnResult.UNKNOWN
        for endpoint in self._finder.find().open:
            if endpoint.generation == 2 and result is ReturnResult.UNKNOWN:
                result = self._switcher.return_session(endpoint, effect.session, effect.origin, effect.target)
        self._post(SessionReturned(effect.session, effect.target, result))
