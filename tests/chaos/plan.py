"""What is done to each run of the campaign: who is hit, how, and in which phase."""

from __future__ import annotations

import math
import signal
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from random import Random

from .terrain import Terrain


class Phase(StrEnum):
    """What the run is doing when it is hit."""

    CREATE = "create"
    DEPLOY = "deploy"
    TEST = "test"
    TEARDOWN = "teardown"


class Victim(StrEnum):
    """Who is hit."""

    CONTROLLER = "controller"
    GROUP = "group"
    WORKER = "worker"
    REAPER = "reaper"
    BOTH = "reaper+controller"
    DAEMON = "daemon"


@dataclass(frozen=True)
class Blow:
    """A signal, perhaps twice; ``again`` starts the victim again at once."""

    name: str
    signal: signal.Signals
    times: int = 1
    again: bool = False


INT = Blow("SIGINT", signal.SIGINT)
INT_TWICE = Blow("SIGINTx2", signal.SIGINT, times=2)
TERM = Blow("SIGTERM", signal.SIGTERM)
TERM_TWICE = Blow("SIGTERMx2", signal.SIGTERM, times=2)
HUP = Blow("SIGHUP", signal.SIGHUP)
KILL = Blow("SIGKILL", signal.SIGKILL)
RESTART = Blow("restart", signal.SIGTERM, again=True)

STROKES: tuple[tuple[Victim, Blow, int], ...] = (
    (Victim.CONTROLLER, KILL, 4),
    (Victim.CONTROLLER, INT, 0),
    (Victim.GROUP, INT, 4),
    (Victim.REAPER, KILL, 0),
    (Victim.CONTROLLER, TERM, 0),
    (Victim.GROUP, KILL, 4),
    (Victim.CONTROLLER, INT_TWICE, 4),
    (Victim.DAEMON, KILL, 0),
    (Victim.CONTROLLER, HUP, 0),
    (Victim.WORKER, KILL, 4),
    (Victim.CONTROLLER, TERM, 4),
    (Victim.GROUP, INT, 0),
    (Victim.BOTH, KILL, 4),
    (Victim.CONTROLLER, KILL, 0),
    (Victim.GROUP, TERM, 4),
    (Victim.CONTROLLER, INT, 4),
    (Victim.REAPER, TERM, 4),
    (Victim.CONTROLLER, INT_TWICE, 0),
    (Victim.GROUP, HUP, 4),
    (Victim.CONTROLLER, TERM_TWICE, 4),
    (Victim.DAEMON, RESTART, 4),
    (Victim.GROUP, KILL, 0),
    (Victim.WORKER, TERM, 4),
    (Victim.CONTROLLER, HUP, 4),
    (Victim.BOTH, KILL, 0),
    (Victim.GROUP, INT_TWICE, 4),
)
"""Victim, blow and most workers; each of them comes once with every phase in four rounds."""

_LONGEST_DELAY = 0.15
_LAST_EVENT = {Phase.CREATE: 5, Phase.DEPLOY: 2, Phase.TEST: 5, Phase.TEARDOWN: 4}


@dataclass(frozen=True)
class Plan:
    """One run: hit ``victim`` so many seconds after event ``event`` of ``phase``.

    ``gap`` is the time between two blows. ``bake`` lets the run bake its image itself. ``next_run`` says
    that the remedy, where one is allowed, is the next run and not ``rexxinfra reap``.
    """

    terrain: str
    number: int
    seed: str
    victim: Victim
    blow: Blow
    workers: int
    phase: Phase
    event: int
    delay: float
    gap: float
    bake: bool
    next_run: bool

    @property
    def id(self) -> str:
        return f"{self.terrain}-{self.victim}-{self.blow.name}-{self.phase}-n{self.workers}-{self.number}"

    @property
    def remedy(self) -> str | None:
        """What may be needed before everything is gone: nobody is left to clean up, or nothing to do it with."""
        if self.victim not in (Victim.BOTH, Victim.DAEMON):
            return None
        return "next run" if self.next_run else "reap"

    def __str__(self) -> str:
        again = f", then {self.gap * 1000:.0f} ms" if self.blow.times > 1 or self.victim is Victim.BOTH else ""
        return (
            f"{self.terrain}: {self.blow.name} to {self.victim}, -n{self.workers}, {self.delay * 1000:.0f} ms after "
            f"event {self.event} of {self.phase}{again}{', bakes' if self.bake else ''} "
            f"(seed {self.seed}, run {self.number})"
        )


def strokes(terrain: Terrain) -> Sequence[tuple[Victim, Blow, int]]:
    """The strokes that have a victim there."""
    return [stroke for stroke in STROKES if stroke[0] is not Victim.DAEMON or terrain.daemon]


def plan(number: int, seed: str, terrain: Terrain) -> Plan:
    """Run ``number``. Who, how and when come from the number alone, the rest from the seed."""
    choice = strokes(terrain)
    turn, place = divmod(number, len(choice))
    victim, blow, workers = choice[place]
    phase = list(Phase)[(turn + place) % len(Phase)]
    dice = Random(f"{seed}:{number}")
    return Plan(
        terrain=terrain.name,
        number=number,
        seed=seed,
        victim=victim,
        blow=blow,
        workers=min(workers, terrain.workers),
        phase=phase,
        event=dice.randint(1, math.ceil(_LAST_EVENT[phase] * terrain.share)),
        delay=dice.uniform(0, _LONGEST_DELAY),
        gap=dice.choice((0.0, dice.uniform(0.02, 0.4), 1.0)) if victim is Victim.BOTH else dice.uniform(0.02, 0.4),
        bake=phase is Phase.DEPLOY and dice.random() < 0.5,
        next_run=dice.random() < 0.5,
    )


def plans(seed: str, terrain: Terrain, count: int | None = None) -> list[Plan]:
    """The first ``count`` runs; as many as the terrain has rounds by default.

    Fewer than one round hit one victim after the other, in one phase after the other.
    """
    choice = strokes(terrain)
    each = len(choice)
    count = int(each * terrain.rounds) if count is None else count
    if count >= each:
        return [plan(number, seed, terrain) for number in range(count)]
    spread = enumerate(_by_turns(choice)[:count])
    return [plan((turn - place) % len(Phase) * each + place, seed, terrain) for turn, place in spread]


def _by_turns(choice: Sequence[tuple[Victim, Blow, int]]) -> list[int]:
    """The places of all strokes, so that each victim comes once before any comes again."""
    seen: Counter[Victim] = Counter()
    turns = []
    for place, (victim, *_) in enumerate(choice):
        turns.append((seen[victim], place))
        seen[victim] += 1
    return [place for _, place in sorted(turns)]
