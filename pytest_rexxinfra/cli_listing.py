"""What exists, as the commands of ``rexxinfra`` see it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import click

from .console import events
from .errors import RexxInfraError, SystemUnavailable, UsageError
from .lab import lost, make_driver, open_entries
from .ledger import Entry, Ledger, State
from .manifest import manifest, part_manifest
from .model import Kind, Resource
from .settings import Settings
from .spec_document import Document, from_text, plain, to_document
from .systems import registry
from .systems.base import Driver

T = TypeVar("T")

_EXISTING = (State.LIVE, State.KEPT)


@dataclass(frozen=True)
class Found:
    """A resource, the driver that found it, and what the ledger says of it.

    ``unseen`` is why its system cannot be asked, for what only the ledger knows of.
    """

    driver: Driver
    resource: Resource
    entry: Entry | None
    unseen: str | None = None

    @property
    def current(self) -> Resource:
        """The resource with its present owner and expiry."""
        return self.entry.resource if self.entry else self.resource

    @property
    def kept(self) -> bool:
        return self.entry is not None and self.entry.state is State.KEPT

    @cached_property
    def status(self) -> Document:
        """What it does: its `Status`, ``there`` for what does not run, ``unknown`` where the system does not tell."""
        if self.unseen is not None:
            return {"phase": "unknown", "reason": self.unseen}
        if self.resource.kind is not Kind.MACHINE:
            return {"phase": "there"}
        try:
            return dict(plain(self.driver.status(self.resource)))
        except RexxInfraError as error:
            return {"phase": "unknown", "reason": error.message}

    @property
    def spec(self) -> Document | None:
        """What it should be: as the system itself has it, else the ledger, which alone knows the build."""
        noted = self._noted or {}
        asked = self._ask(self.driver.asked)
        if asked is None:
            return noted or None
        return {**to_document(asked), **{name: noted[name] for name in ("build",) if name in noted}}

    @property
    def _noted(self) -> Document | None:
        text = self.entry and self.entry.document
        if not text:
            return None
        try:
            from_text(text)
        except RexxInfraError as error:
            self._tell(error)
            return None
        return dict(json.loads(text))

    def documents(self, owners: Sequence[Resource]) -> Iterator[Document]:
        """It, and the parts that go with it; ``owners`` are what it may go with itself."""
        spec = self.spec
        mine = [each for each in owners if spec and each.name == spec.get("pod")]
        yield manifest(self.current, self.status, spec=spec, kept=self.kept, owners=mine)
        for part in self._ask(self.driver.parts) or ():
            yield part_manifest(part, self.resource)

    def _ask(self, question: Callable[[Resource], T]) -> T | None:
        """What the driver answers about a machine; ``None`` when it cannot."""
        if self.unseen is not None or self.resource.kind is not Kind.MACHINE:
            return None
        try:
            return question(self.resource)
        except RexxInfraError as error:
            self._tell(error)
            return None

    def _tell(self, error: RexxInfraError) -> None:
        click.echo(f"{self.resource.name}: {error.message}", err=True)


@dataclass(frozen=True)
class Everything:
    """Every resource with our labels in every system that can be used, as of now."""

    found: Sequence[Found]
    entries: dict[str, Entry]
    unlisted: Sequence[tuple[Driver, Resource]]
    """What dead runs may have half made or half removed."""
    unseen: Sequence[Found] = ()
    """What the ledger has of systems that cannot be used now."""
    drivers: Sequence[Driver] = ()
    """The systems that can be used."""

    @classmethod
    def look(cls, ledger: Ledger) -> Everything:
        entries, settings = open_entries(ledger), Settings.load()
        found: list[Found] = []
        unlisted: list[tuple[Driver, Resource]] = []
        unseen: list[Found] = []
        drivers: list[Driver] = []
        for name in registry.names():
            own = {lease: entry for lease, entry in entries.items() if entry.resource.system == name}
            driver = None
            try:
                driver = make_driver(name, events(), settings)
                available = driver.probe()
                if not available.usable:
                    raise SystemUnavailable(available.reason)
                listed = driver.list()
            except RexxInfraError as error:
                if not isinstance(error, SystemUnavailable):
                    click.echo(f"{name}: {error.message}", err=True)
                if driver is not None:
                    there = [entry for entry in own.values() if entry.state in _EXISTING]
                    unseen += [Found(driver, entry.resource, entry, error.message) for entry in there]
                continue
            drivers.append(driver)
            found += [Found(driver, each, entries.get(each.lease)) for each in listed]
            unlisted += [(driver, each) for each in lost(listed, own)]
        return cls(_by_age(found), entries, unlisted, _by_age(unseen), drivers)

    def named(self, name: str) -> Found:
        """One that its system lists; see `named`."""
        return named(self.found, name)


def _by_age(found: Sequence[Found]) -> list[Found]:
    return sorted(found, key=lambda each: each.resource.created)


def named(found: Sequence[Found], name: str) -> Found:
    """The one of a name, or whose name begins so; raises `UsageError` unless it is exactly one."""
    exact = [each for each in found if each.resource.name == name]
    chosen = exact or [each for each in found if name and each.resource.name.startswith(name)]
    if not chosen:
        raise UsageError(f"nothing is named {name or 'like an empty text'}", hint="rexxinfra ps lists the names")
    if len(chosen) > 1:
        raise UsageError(f"{name} may be {', '.join(each.resource.name for each in chosen)}", hint="write it out")
    return chosen[0]


def look() -> Everything:
    """What is there now."""
    ledger = Ledger()
    try:
        return Everything.look(ledger)
    finally:
        ledger.close()
