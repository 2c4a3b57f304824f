"""Hitting the victim of a plan."""

from __future__ import annotations

import time
from collections.abc import Callable

from pytest_rexxinfra.model import process_start

from .ground import Site
from .plan import Plan, Victim
from .run import Event, Missed, Run, Unprotected

_REAPER_COMES = 1.0
_TICK = 0.01


def strike(plan: Plan, run: Run, event: Event, site: Site, token: str) -> None:
    """Do what the plan says, now; raises `Missed` when the victim has gone, `Unprotected` when there is none."""
    match plan.victim:
        case Victim.CONTROLLER:
            _controller(plan, run)
        case Victim.GROUP:
            _repeat(plan, run, lambda: run.hit_group(plan.blow.signal))
        case Victim.WORKER:
            if process_start(event.pid) is None:
                raise Missed(f"worker {event.worker} is gone already")
            run.hit(event.pid, plan.blow.signal)
        case Victim.REAPER:
            _reapers(plan, run, token)
        case Victim.BOTH:
            _reapers(plan, run, token)
            time.sleep(plan.gap)
            _controller(plan, run)
        case Victim.DAEMON:
            site.daemon.hit(plan.blow.signal)
            if plan.blow.again:
                site.daemon.start()


def _controller(plan: Plan, run: Run) -> None:
    _repeat(plan, run, lambda: run.hit(run.pid, plan.blow.signal))


def _repeat(plan: Plan, run: Run, hit: Callable[[], None]) -> None:
    if run.status is not None:
        raise Missed("the run has ended already")
    hit()
    for _ in range(1, plan.blow.times):
        # The second blow may come too late, as it may from a hand.
        if run.wait(plan.gap):
            return
        hit()


def _reapers(plan: Plan, run: Run, token: str) -> None:
    end = time.monotonic() + _REAPER_COMES
    while not (found := run.reapers(token)):
        if time.monotonic() > end:
            raise Unprotected("the run has no reaper to hit")
        time.sleep(_TICK)
    for pid in found:
        run.hit(pid, plan.blow.signal)
