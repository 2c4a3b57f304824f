"""One run of the campaign: start it, hit it, and look for what is left."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field

from .engine import Broken
from .ground import Ground, Site
from .plan import Phase, Plan, Victim
from .run import Event, Missed, Run, Unprotected
from .strike import strike

_REACHES = 60.0
_ENDS = 30.0
_LATE = 3
"""Times the limit: what is left then stays."""

_TRIES = 3


@dataclass
class Outcome:
    """How a run of the campaign went.

    ``ended`` is in seconds from the blow to the end of the controller, ``clean_up`` from there until
    nothing was left; ``remedied`` says that it took the remedy of the plan, ``late`` that nothing was left
    in the end, but after the limit.
    """

    plan: Plan
    ended: float = 0.0
    clean_up: float = 0.0
    remedied: bool = False
    late: bool = False
    left: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    story: str = ""

    @property
    def ok(self) -> bool:
        return not self.left and not self.complaints

    def __str__(self) -> str:
        lines = [f"plan: {self.plan}", *self.complaints]
        if self.left:
            lines.append(f"left {self.clean_up:.1f} s after the end:")
        return "\n".join([*lines, *(f"  {each}" for each in self.left), self.story])


def conduct(plan: Plan, ground: Ground, suite: str = "suite_work.py") -> Outcome:
    """Carry out a plan, and again when its moment or its victim did not come, or the engine broke for good."""
    for _ in range(_TRIES):
        outcome = Outcome(plan)
        site = ground.mortal if plan.victim is Victim.DAEMON else ground.steady
        try:
            missed = _try(plan, ground, site, ground.name(plan.number), suite, outcome)
        except Broken as reason:
            ground.bury_mortal()
            missed = Missed(str(reason))
            continue
        if missed is None or not outcome.ok:
            break
    if missed is not None:
        outcome.complaints.append(f"missed: {missed}")
    return outcome


def _try(plan: Plan, ground: Ground, site: Site, name: str, suite: str, outcome: Outcome) -> Missed | None:
    if plan.bake:
        site.place.unbake()
    token = ground.token_of(name)
    run = ground.run(
        site.place,
        name,
        suite,
        f"-n{plan.workers}",
        REXX_CHAOS_SUITE=f"{plan.seed}:{plan.number}",
        REXX_CHAOS_FIRST="deploy" if plan.phase is Phase.DEPLOY else "",
    )
    missed = None
    began = time.monotonic()
    try:
        event = run.await_event(plan.event, lambda event: _wanted(event, plan), _REACHES * ground.terrain.slowness)
        time.sleep(plan.delay)
        began = time.monotonic()
        strike(plan, run, event, site, token)
    except Missed as reason:
        missed = reason
    except Unprotected as reason:
        outcome.complaints.append(str(reason))
    except BaseException:
        run.close()
        raise
    ends = _ENDS * ground.terrain.slowness
    if not run.wait(ends):
        outcome.complaints.append(f"the run still goes on {ends:g} s after the blow")
        outcome.story += f"--- where it is ---\n{run.stacks(token)}\n"
    run.close()
    ended = time.monotonic()
    outcome.ended = ended - began
    _judge(plan, ground, site, name, outcome, ended)
    if not outcome.ok or outcome.late or missed:
        outcome.story += _story(run, ground, site, token)
    left = ground.census(site).clear()
    outcome.complaints += [f"cannot even be removed by the campaign: {each}" for each in left]
    return missed


def _wanted(event: Event, plan: Plan) -> bool:
    return event.phase == plan.phase and (plan.victim is not Victim.WORKER or event.worker != "-")


def _judge(plan: Plan, ground: Ground, site: Site, name: str, outcome: Outcome, ended: float) -> None:
    crashed = plan.victim is Victim.DAEMON
    if crashed and not plan.blow.again:
        site.daemon.start()
        ended = time.monotonic()
    census = ground.census(site)
    left, outcome.clean_up = census.settle(ended)
    if left and plan.remedy:
        outcome.remedied = True
        outcome.story += f"left before the remedy: {', '.join(map(str, left))}\n{_remedy(plan, ground, site, name)}"
        left, outcome.clean_up = census.settle()
    elif left:
        outcome.story += f"left at the limit: {', '.join(map(str, left))}\n"
        left, outcome.clean_up = census.settle(ended, _LATE)
        outcome.late = not left
    outcome.left = [str(each) for each in left]
    outcome.complaints += ground.complaints(site, crashed=crashed)


def _remedy(plan: Plan, ground: Ground, site: Site, name: str) -> str:
    """What a user does next."""
    if plan.remedy == "reap":
        done = ground.command(site.place, name, "reap")
        return f"rexxinfra reap: status {done.returncode}\n{done.stdout}{done.stderr}"
    run = ground.run(site.place, f"{name}.next", "suite_next.py")
    try:
        ended = run.wait(_ENDS * ground.terrain.slowness)
        return f"the next run {'ended' if ended else 'does not end'}, status {run.status}:\n{run.output(15)}\n"
    finally:
        run.close()


def _story(run: Run, ground: Ground, site: Site, token: str) -> str:
    parts = [
        f"load of the computer: {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors",
        "events: " + " ".join(f"{event.worker}:{event.phase}:{event.what}" for event in run.events[-12:]),
        f"--- output of the run, status {run.status} ---\n{run.output()}",
        ground.logs(token),
    ]
    if site.place.log():
        parts.append(f"--- daemon ---\n{site.place.log()}")
    return "\n".join(filter(None, parts))
