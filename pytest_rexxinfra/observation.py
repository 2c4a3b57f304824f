"""What a machine does, judged by what it should be doing."""

from __future__ import annotations

from dataclasses import replace

from .model import Phase, Power, Status

_ALIVE = {Phase.STOPPED: 0, Phase.PAUSED: 1, Phase.RUNNING: 2}
_WANTED = {Power.STOPPED: 0, Power.PAUSED: 1, Power.RUNNING: 2}


def observed(power: Power, found: Status) -> Status:
    """``found``, as it is to be told of a machine whose spec says ``power``.

    A machine that does less than it should is `Phase.ERRORED`, with a reason that ends in that of ``found``: it ended,
    or was paused, and nobody asked for that. One that does more keeps its phase, and the reason says what it should
    be doing: it is on its way there, or somebody else started it. `Phase.GONE` and `Phase.ERRORED` stay.

    So that a change of power that is asked for never looks like a failure, whoever asks meanwhile, a driver writes
    down a lower power before it acts, and a higher one after.
    """
    wanted, alive = _WANTED[power], _ALIVE.get(found.phase)
    if alive is None or alive == wanted:
        return found
    if alive > wanted:
        return replace(found, reason=_told(f"it should be {power}", found))
    if found.phase is Phase.PAUSED:
        what = "the machine was paused, and not by us"
    else:
        what = "the machine ended by itself" + " while it was paused" * (power is Power.PAUSED)
    return replace(found, phase=Phase.ERRORED, reason=_told(what, found))


def _told(what: str, found: Status) -> str:
    return f"{what}: {found.reason}" if found.reason else what
