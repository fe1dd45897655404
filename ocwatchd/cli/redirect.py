"""`ocwatch redirect`: the daemon's move, by hand. Same guards, same proof, same claim in the journal."""

from __future__ import annotations

import os
import time
from dataclasses import replace

from ocwatchd.cli.moving import Job, Wish, choose_target, failed_by_limit, move_down_the_chain, tell, the_only
from ocwatchd.config import Config, load
from ocwatchd.core.ledger import Ledger
from ocwatchd.core.views import SessionState, SessionView
from ocwatchd.errors import OpenCodeUnreachable, UsageError
from ocwatchd.opencode.doors import DoorFinder
from ocwatchd.opencode.offers import offers_at
from ocwatchd.opencode.sessions import SessionStore
from ocwatchd.opencode.survey import Findings, Surveyor
from ocwatchd.paths import Paths
from ocwatchd.redirect import RerunOverApi
from ocwatchd.state import blacklist, prices


def redirect(wish: Wish) -> int:
    """Move one limited session to another model now.

    Raises:
        UsageError: no such session or model, or several sessions are limited.
        OpenCodeUnreachable: no running OpenCode answers.
        AllCooling: everything that could stand in rests.
        OcwatchError: no session is limited.
    """
    paths = Paths.from_env()
    config = load(paths)
    finder = DoorFinder(paths.opencode_data, urls=config.doors, sockets=paths.doors, environ=os.environ)
    surveyor = Surveyor(finder, SessionStore(paths.opencode_data))
    register = blacklist.read(paths.blacklist)
    ledger = Ledger(register.entries())
    job = _job(surveyor, wish.session, ledger, config)
    now = time.time()
    purse = prices.purse(paths.prices, paths.budget, config.policy.budget, now)
    offers = offers_at([(job.moved.door, job.moved.directory)], now) or {}
    job = replace(job, loads=register.loads, offers=offers, purse=purse)
    if wish.dry_run:
        return tell(wish, job, choose_target(wish, job, config, ledger, ()), None)
    return tell(wish, job, *move_down_the_chain(paths, RerunOverApi(), job, wish, config, ledger))


def _job(surveyor: Surveyor, session: str | None, ledger: Ledger, config: Config) -> Job:
    if session is None:
        stuck = _the_one(surveyor.stuck(), ledger, config)
    else:
        found = surveyor.session(session)
        _answered(found)
        if not found.views:
            raise UsageError(f"no running OpenCode knows the session {session}")
        stuck = found.views[0]
    parent = surveyor.session(stuck.parent).views if stuck.parent else ()
    waiting = parent and parent[0].state is SessionState.BUSY
    return Job(stuck, parent[0] if waiting else stuck)


def _the_one(found: Findings, ledger: Ledger, config: Config) -> SessionView:
    _answered(found)
    return the_only([view for view in found.views if _limited(view, ledger, config)], "no session is limited")


def _limited(view: SessionView, ledger: Ledger, config: Config) -> bool:
    """A retry counts in whatever words; a failure only if it was a limit."""
    return view.state is SessionState.RETRY or failed_by_limit(view, ledger, config)


def _answered(found: Findings) -> None:
    if not found.doors:
        why = f" ({found.troubles[0]})" if found.troubles else ""
        raise OpenCodeUnreachable(
            f"no running OpenCode can be reached{why}; `ocwatch doctor` says which run, and how each gets a door"
        )
