"""A Rexxfile as the recipe of an image: applied once to what it says FROM, saved, and found again by what it is."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..deadline import Deadline
from ..errors import ImageError, Unsupported, UsageError
from ..locks import locked_key
from ..model import Capability, Spec
from ..target import REXXFILES
from .apply import apply
from .parse import read_plan
from .plan import Plan

if TYPE_CHECKING:
    from ..machine import Machine
    from ..rexx.builds import Build
    from ..systems.base import Driver

REPOSITORY = "rexxinfra/rexxfile"
"""How the names of all these images begin."""

_FORMAT = "1"
_KEPT = 12
"""Images of Rexxfiles that stay, so that changes do not fill the disk."""

Temporary = Callable[[Spec], AbstractContextManager["Machine"]]
"""A machine that is there for the block."""


@dataclass(frozen=True)
class ImageRecipe:
    """Rexxfiles that are applied one after the other to ``base``; ``None`` is what the system starts from by itself."""

    base: str | None
    plans: tuple[Plan, ...]

    @classmethod
    def read(cls, path: str) -> ImageRecipe:
        """The recipe in a Rexxfile; its FROM may name another one, relative to the first.

        Raises `UsageError`, also for files that come from each other.
        """
        plans: list[Plan] = []
        base: str | None = path
        known: list[Path] = []
        while base is not None and base.endswith(REXXFILES):
            place = Path(base).resolve()
            if place in known:
                raise UsageError(f"{path} comes from itself: {' FROM '.join(map(str, [*known, place]))}")
            known.append(place)
            plans.insert(0, read_plan(base))
            following = plans[0].base
            beside = following is not None and following.endswith(REXXFILES)
            base = str(Path(base).parent / following) if following and beside else following
        return cls(base, tuple(plans))

    @property
    def needs_build(self) -> bool:
        """Whether the REXX build under test has a part in it."""
        return any(plan.needs_build for plan in self.plans)

    def ensure(
        self, driver: Driver, spec: Spec, build: Build | None, temporary: Temporary, deadline: Deadline, make: bool
    ) -> str:
        """Name of the image, which is made if it is not there; once for all processes of this user.

        ``spec`` says whether the image is to boot. Raises `Unsupported` where the system cannot save machines,
        `ImageError` when a task fails, or without ``make`` when the image is not there.
        """
        if Capability.COMMIT not in driver.capabilities:
            raise Unsupported(
                f"{driver.name} cannot make an image of a Rexxfile, for it has no {Capability.COMMIT}",
                where=driver.name,
                hint="apply it in the test: machine.apply('Rexxfile')",
            )
        image = self.base
        for plan in self.plans:
            image = self._layer(driver, spec.but(image=image), plan, build, temporary, deadline, make)
        assert image is not None
        return image

    def _layer(
        self,
        driver: Driver,
        spec: Spec,
        plan: Plan,
        build: Build | None,
        temporary: Temporary,
        deadline: Deadline,
        make: bool,
    ) -> str:
        """The image of one of the plans on top of ``spec.image``."""
        base = Spec(image=driver.image(spec) or None)
        made_with = build.digest if build and plan.needs_build else ""
        made_of = f"{_FORMAT} {driver.prepare(base, deadline)} {plan.digest} {made_with}"
        key = hashlib.sha256(made_of.encode()).hexdigest()[:24]
        name = f"{REPOSITORY}:{key}"
        if driver.has_committed(name):
            return name
        if not make:
            raise ImageError(f"{plan.name} is not made into an image yet", where=driver.name)
        with locked_key("rexxfile", key, deadline=deadline, what="the image being made"):
            if driver.has_committed(name):
                return name
            with driver.around.events.step(driver.name, f"make an image of {plan.name}"), temporary(base) as machine:
                applied = apply(machine, plan, timeout=deadline.remaining())
                if applied.failed:
                    said = applied.failure()
                    raise ImageError(said.message, command=said.command, output=said.output, where=driver.name)
                made = machine.commit(name, deadline.remaining() or 0.0)
            driver.trim_committed(REPOSITORY, _KEPT)
            return made
