"""Machines that were booted once and saved with their memory, so that others go on from there in no time.

A template is four volumes of our pool: the disk, the memory (a file that clones map copy-on-write), the state of
processors and devices, and last a record that says that the others are whole. Its key names all that it depends on.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from ..deadline import Deadline
from ..locks import locked_key
from . import memory
from .home import Home
from .node import Missing

PREFIX = "template-"
"""Begins the names of the volumes of templates."""
KEPT = 8
"""Templates that stay on a node; more than these are removed, the oldest first, when one is made."""


@dataclass(frozen=True)
class Template:
    """A saved machine; ``disk`` and ``ram`` are paths on the node, ``state`` the rest of its memory."""

    key: str
    disk: str
    ram: str
    state: bytes


class Templates:
    """The templates of one node."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._known: dict[str, Template] = {}

    def find(self, key: str) -> Template | None:
        """The template of a key, if there is a whole one."""
        known = self._known.get(key)
        if known is None:
            names = set(self._home.names())
            if {_record(key), _state(key), _ram(key), _disk(key)} <= names:
                known = self._read(key)
                self._known[key] = known
        return known

    def _read(self, key: str) -> Template:
        path = self._home.path
        return Template(key, str(path / _disk(key)), str(path / _ram(key)), self._home.read(_state(key)))

    def forget(self, key: str) -> None:
        """Remove a template that turned out to be of no use."""
        self._known.pop(key, None)
        self._home.discard(_stem(key))

    @contextmanager
    def making(self, key: str, deadline: Deadline) -> Iterator[None]:
        """The turn to make a template; others of this user wait, and then find it."""
        with locked_key("kvm-template", key, deadline=deadline, what="the template of a virtual machine"):
            yield

    def prepare(self, key: str, base: str, size: int) -> tuple[str, str]:
        """Make room for a template: its disk, over ``base``, and its memory of ``size`` bytes. What was there goes.

        Until it is saved nobody sees it, and if this process dies it is swept away.
        """
        self._known.pop(key, None)
        self._home.begin(_stem(key))
        return self._home.create(_disk(key), None, "qcow2", base), self._home.create(_ram(key), size)

    def save(self, key: str, name: str, base: str, deadline: Deadline) -> Template:
        """Save the running machine ``name`` whose disk, over ``base``, and memory `prepare` made; it is paused then."""
        node = self._home.node
        node.ask(node.domain(name).suspend)
        with tempfile.TemporaryFile() as file:
            memory.save(node, name, file.fileno(), deadline, shared=True)
            file.seek(0)
            state = file.read()
        self._home.write(_state(key), state)
        self._home.write(_record(key), json.dumps({"made": time.time(), "base": base}).encode())
        self._home.done(_stem(key))
        self._known[key] = self._read(key)
        return self._known[key]

    def trim(self, used: Callable[[str], bool]) -> None:
        """Remove the oldest templates but for some; one whose disk is ``used`` stays."""
        records = self._records()
        for key in sorted(records, key=lambda key: float(records[key].get("made", 0)), reverse=True)[KEPT:]:
            if not used(str(self._home.path / _disk(key))):
                self.forget(key)

    def forget_over(self, base: str) -> None:
        """Remove the templates whose disk is over a file."""
        for key, record in self._records().items():
            if record.get("base") == base:
                self.forget(key)

    def _records(self) -> dict[str, dict[str, Any]]:
        """What is written down about each whole template."""
        found = {}
        for name in self._home.names():
            if name.startswith(PREFIX) and name.endswith(".json"):
                key = name.removeprefix(PREFIX).removesuffix(".json")
                with suppress(Missing, ValueError):
                    found[key] = dict(json.loads(self._home.read(name)))
        return found


def _stem(key: str) -> str:
    return f"{PREFIX}{key}"


def _disk(key: str) -> str:
    return f"{_stem(key)}.qcow2"


def _ram(key: str) -> str:
    return f"{_stem(key)}.ram"


def _state(key: str) -> str:
    return f"{_stem(key)}.state"


def _record(key: str) -> str:
    return f"{_stem(key)}.json"


def is_used(path: str, domains: Callable[[], list[str]]) -> bool:
    """Whether the XML of any domain names a file."""
    return any(path in xml for xml in domains())
