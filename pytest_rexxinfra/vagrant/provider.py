"""What differs between the providers of Vagrant: what a machine starts from, how it is written, what may be left."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from ..deadline import Deadline
from ..errors import UsageError
from ..model import Capability, Resource, Spec
from ..systems.base import Surroundings
from .ruby import Value

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


class Provider(ABC):
    """One provider. ``name`` is Vagrant's own for it."""

    name: ClassVar[str]
    capabilities: ClassVar[frozenset[Capability]]

    def __init__(self, around: Surroundings) -> None:
        self.around = around

    @abstractmethod
    def check(self, deadline: Deadline) -> str:
        """What there is, for `rexxinfra doctor`; raises `SystemUnavailable` when machines cannot be made."""

    @abstractmethod
    def prepare(self, image: str | None, deadline: Deadline) -> str:
        """Make available what a machine starts from, and return how the Vagrantfile names it. Raises `ImageError`."""

    @abstractmethod
    def options(self, lease: Resource, spec: Spec, image: str, place: str, key: str) -> Mapping[str, Value]:
        """The provider's options in a generated Vagrantfile: ``place`` is our directory in the machine, ``key`` a
        public key that is to let us in."""

    @abstractmethod
    def settings(self, image: str, key: Path) -> Mapping[str, Value]:
        """Other settings in a generated Vagrantfile; ``key`` is a file with the private key."""

    @abstractmethod
    def naming(self, lease: Resource) -> Mapping[str, Value]:
        """The options that give what vagrant makes the name of the lease."""

    @abstractmethod
    def remove_left(self, name: str, id: str | None, deadline: Deadline) -> None:
        """Remove what has the name of a lease, or this id, and vagrant does not know: what an ``up`` that was killed
        has made."""

    def passing(self, output: str) -> bool:
        """Whether what made an ``up`` fail has nothing to do with it, so that it can be tried again."""
        return False

    def logs(self, name: str) -> str:
        """What the main process printed."""
        raise NotImplementedError

    def create_volume(self, name: str, deadline: Deadline) -> None:
        raise NotImplementedError

    def remove_volume(self, name: str, deadline: Deadline) -> None:
        raise NotImplementedError


def refuse(wish: str, provider: str, hint: str) -> UsageError:
    """A wish that a provider cannot fulfil."""
    return UsageError(f"the provider {provider} has no {wish}", where="vagrant", hint=hint)
