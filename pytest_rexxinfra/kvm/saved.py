"""Images that were made of machines, by the names that they were given, on one node.

The bits are volumes that nothing changes any more; a name is an empty volume that points to one. So an image can get
other bits, or be removed, while machines are over the old ones: these go with the last of them.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from ..deadline import Deadline
from .home import Home
from .spares import remove_unused
from .template import Templates

_BITS = "image-{token}.qcow2"


@dataclass(frozen=True, order=True)
class Name:
    """A name that points to bits; ``token`` names these, and begins with the time. The others are hashes."""

    token: str
    image: str
    repository: str

    @property
    def volume(self) -> str:
        return f"image-{self.image}.is-{self.token}.of-{self.repository}"

    @property
    def bits(self) -> str:
        """The volume with the image itself."""
        return _BITS.format(token=self.token)

    @classmethod
    def parse(cls, volume: str) -> Name | None:
        """The name that a volume is, if it is one."""
        image, is_, rest = volume.removeprefix("image-").partition(".is-")
        token, of, repository = rest.partition(".of-")
        return cls(token, image, repository) if volume.startswith("image-") and is_ and of else None

    @classmethod
    def new(cls, image: str) -> Name:
        token = f"{time.time_ns():x}{secrets.token_hex(2)}"
        return cls(token, _hash(image), _hash(image.rpartition(":")[0]))


class SavedImages:
    """The saved images of one node. ``domains`` gives the XML of every domain there."""

    def __init__(self, home: Home, templates: Templates, domains: Callable[[], list[str]]) -> None:
        self._home = home
        self._templates = templates
        self._domains = domains

    def find(self, image: str) -> Name | None:
        """What an image's name points to; of several the newest, for one who replaces it removes the older ones."""
        return max((each for each in self._names() if each.image == _hash(image)), default=None)

    def _names(self) -> list[Name]:
        """The names that point to something whole."""
        there = self._home.names()
        return [name for name in map(Name.parse, there) if name is not None and name.bits in there]

    def save(self, image: str, disk: str, deadline: Deadline) -> None:
        """Save a disk of the node, that nobody writes to, as an image; an older one of that name is replaced."""
        self.add(image, lambda bits, name: self._home.copy(disk, bits, deadline, name))

    def add(self, image: str, make: Callable[[str, Callable[[], object]], object]) -> None:
        """Give an image the bits that ``make`` puts into a volume, of which it gets the name.

        Before anybody sees them it calls what gives them the image's name, for bits without one are removed by whoever
        comes by.
        """
        name = Name.new(image)
        make(name.bits, lambda: self._home.create(name.volume, 0))
        self._unname(each for each in self._names() if each.image == name.image and each.token < name.token)

    def remove(self, image: str) -> None:
        """Forget a name; one that is gone is no error."""
        self._unname(each for each in self._names() if each.image == _hash(image))

    def trim(self, repository: str, most: int) -> None:
        """Forget the oldest names of a repository, but for some."""
        names = sorted(each for each in self._names() if each.repository == _hash(repository))
        self._unname(names[: max(0, len(names) - most)])

    def _unname(self, names: Iterable[Name]) -> None:
        gone = [*names]
        for name in gone:
            self._home.delete(name.volume)
        if gone:
            self.collect()

    def collect(self) -> None:
        """Remove bits that have no name and that no machine is over, with the templates that begin from them.

        And names of bits that are not there.
        """
        names, everything = self._home.names(), self._home.everything()
        known = [name for name in map(Name.parse, names) if name is not None]
        for name in known:
            if name.bits not in everything:
                self._home.delete(name.volume)
        named = {name.bits for name in known}
        bits = {each for each in names if each.startswith("image-") and each.endswith(".qcow2")}
        remove_unused(bits - named, self._home, self._templates, self._domains)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:20]
