"""What differs between the providers of Vagrant: what a machine starts from, how it is written, what may be left."""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, TypeVar

from ..deadline import Deadline
from ..errors import CommandFailed, DeadlineExceeded, UsageError
from ..model import Capability, Resource, Spec
from ..systems.base import Surroundings
from .ruby import Value

T = TypeVar("T")

EVERYWHERE = frozenset(
    {
        Capability.HOSTNAME,
        Capability.IMAGES,
        Capability.LIMITS,
        Capability.PORTS,
        Capability.REBOOT,
        Capability.RESTART,
        Capability.USERS,
    }
)
"""What machines of every provider can do."""

Engine = Mapping[str, str | None]
"""Variables of the environment that say which engine a provider uses; ``None`` is for one that is not set."""

# Vagrant looks whether a network is there and makes it if not, and the last machine takes it along; two of them at
# once may see something else than there is. Likewise it looks at all containers of an engine, one after the other.
_PASSING = re.compile(
    r"network (\S+ )?(not found|is not active)|(creating new|activating) network|no such (object|container)",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Traces:
    """How what belongs to a machine is found without vagrant: by its name, the provider's id of it, and the ids of
    networks that may have been made for it."""

    name: str
    id: str | None = None
    networks: Sequence[str] = ()


class Provider(ABC):
    """One provider, with one engine. ``name`` is Vagrant's own for it, ``chosen_by`` are the variables of `Engine`."""

    name: ClassVar[str]
    capabilities: ClassVar[frozenset[Capability]]
    chosen_by: ClassVar[Sequence[str]]
    default_image: ClassVar[str] = ""
    """What a machine starts from unless its spec says otherwise."""

    def __init__(self, around: Surroundings, engine: Engine | None = None) -> None:
        self.around = around
        self.engine = {each: os.environ.get(each) for each in self.chosen_by} if engine is None else engine

    @abstractmethod
    def check(self, deadline: Deadline) -> str:
        """What there is, for `rexxinfra doctor`; raises `SystemUnavailable` when machines cannot be made."""

    @abstractmethod
    def prepare(self, image: str, deadline: Deadline) -> str:
        """Make available what a machine starts from, and return how the Vagrantfile names it. Raises `ImageError`."""

    @abstractmethod
    def options(self, lease: Resource, spec: Spec, image: str, place: str, key: str) -> Mapping[str, Value]:
        """The provider's options in a generated Vagrantfile: ``place`` is our directory in the machine, ``key`` a
        public key that is to let us in."""

    @abstractmethod
    def settings(self, image: str, key: Path) -> Mapping[str, Value]:
        """Other settings in a generated Vagrantfile; ``key`` is a file with the private key."""

    @abstractmethod
    def naming(self, name: str) -> Mapping[str, Value]:
        """The options by which what vagrant makes has a name of ours."""

    @abstractmethod
    def remove_left(self, traces: Traces, deadline: Deadline) -> None:
        """Remove what vagrant has left of a machine: what it did not know yet when it was killed, or could not remove
        because its Vagrantfile is another one by now."""

    @contextmanager
    def bringing_up(self, image: str, deadline: Deadline) -> Iterator[None]:
        """Hold off others while a machine is made from ``image``, if they would be in its way."""
        yield

    @staticmethod
    def passing(output: str) -> bool:
        """Whether what made an ``up`` fail has nothing to do with it, so that it can be tried again."""
        return _PASSING.search(output) is not None

    def logs(self, name: str, deadline: Deadline) -> str:
        """What the main process printed."""
        raise NotImplementedError

    def create_volume(self, name: str, deadline: Deadline) -> None:
        raise NotImplementedError

    def remove_volume(self, name: str, deadline: Deadline) -> None:
        raise NotImplementedError


def refuse(wish: str, provider: str, hint: str) -> UsageError:
    """A wish that a provider cannot fulfil."""
    return UsageError(f"the provider {provider} has no {wish}", where="vagrant", hint=hint)


def clear(find: Callable[[], Sequence[T]], remove: Callable[[T], object], deadline: Deadline, what: str) -> None:
    """Remove what is found until nothing is.

    A removal that fails is tried again, for somebody else may be at it; the error at the end has its output.
    """
    failures: list[CommandFailed] = []

    def gone() -> bool:
        found = find()
        for each in found:
            try:
                remove(each)
            except CommandFailed as failure:
                failures.append(failure)
        return not found

    try:
        deadline.wait_for(gone, what)
    except DeadlineExceeded as late:
        if failures:
            late.command, late.output = failures[-1].command, failures[-1].output
        raise
