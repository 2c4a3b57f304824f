"""The commands of ``rexxinfra`` about what exists: ps, shell, logs, rm, reap."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

import click

from .console import age, events, plain_errors, table
from .deadline import Deadline
from .errors import RexxInfraError, SystemUnavailable, UsageError
from .lab import is_expired, is_orphan, lost, make_driver, open_entries
from .ledger import Entry, Ledger, State
from .model import Capability, Kind, Phase, Resource
from .settings import Settings
from .systems import registry
from .systems.base import Driver

_REMOVING = 120.0


@dataclass(frozen=True)
class Found:
    """A resource with our labels, the driver that found it, and what the ledger says of it."""

    driver: Driver
    resource: Resource
    entry: Entry | None

    @property
    def current(self) -> Resource:
        """The resource with its present owner and expiry."""
        return self.entry.resource if self.entry else self.resource

    @property
    def kept(self) -> bool:
        return self.entry is not None and self.entry.state is State.KEPT

    @property
    def phase(self) -> str:
        """What it is doing: running, stopped, or there, for what does not run."""
        if self.resource.kind is not Kind.MACHINE:
            return "there"
        try:
            return str(self.driver.status(self.resource).phase)
        except RexxInfraError:
            return "unknown"


@dataclass(frozen=True)
class Everything:
    """Every resource with our labels in every system that can be used, as of now."""

    found: Sequence[Found]
    entries: dict[str, Entry]
    unlisted: Sequence[tuple[Driver, Resource]]
    """What dead runs may have half made or half removed."""

    @classmethod
    def look(cls, ledger: Ledger) -> Everything:
        entries, settings = open_entries(ledger), Settings.load()
        found: list[Found] = []
        unlisted: list[tuple[Driver, Resource]] = []
        for name in registry.names():
            try:
                driver = make_driver(name, events(), settings)
                if driver.probe().usable:
                    listed = driver.list()
                    found += [Found(driver, each, entries.get(each.lease)) for each in listed]
                    own = {lease: entry for lease, entry in entries.items() if entry.resource.system == name}
                    unlisted += [(driver, each) for each in lost(listed, own)]
            except SystemUnavailable:
                continue
            except RexxInfraError as error:
                click.echo(f"{name}: {error.message}", err=True)
        return cls(sorted(found, key=lambda each: each.resource.created), entries, unlisted)

    def named(self, name: str) -> Found:
        """The resource of a name, or whose name begins so; raises `UsageError` unless it is exactly one."""
        exact = [each for each in self.found if each.resource.name == name]
        chosen = exact or [each for each in self.found if name and each.resource.name.startswith(name)]
        if not chosen:
            raise UsageError(f"nothing is named {name or 'like an empty text'}", hint="rexxinfra ps lists the names")
        if len(chosen) > 1:
            raise UsageError(f"{name} may be {', '.join(each.resource.name for each in chosen)}", hint="write it out")
        return chosen[0]


def _look() -> Everything:
    ledger = Ledger()
    try:
        return Everything.look(ledger)
    finally:
        ledger.close()


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
@plain_errors
def ps(as_json: bool) -> None:
    """List machines, networks and volumes of all runs, and whether their owners still live."""
    now = time.time()
    rows = [
        {
            "system": each.resource.system,
            "kind": str(each.resource.kind),
            "name": each.resource.name,
            "image": each.resource.image,
            "age": max(0, round(now - each.resource.created)),
            "phase": each.phase,
            "run": each.current.run,
            "owner": str(each.current.owner),
            "owner_alive": each.current.owner.alive,
            "kept": each.kept,
            "expires": each.current.expires,
            "lease": each.resource.lease,
        }
        for each in _look().found
    ]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    alive = {True: "alive", False: "dead", None: "out of sight"}
    table(
        "no machines",
        ["SYSTEM", "KIND", "NAME", "IMAGE", "AGE", "PHASE", "OWNER", "EXPIRES"],
        [
            [
                str(row["system"]),
                str(row["kind"]),
                str(row["name"]),
                str(row["image"] or ""),
                age(float(str(row["age"]))),
                str(row["phase"]),
                "kept" if row["kept"] else alive[row["owner_alive"]],  # type: ignore[index]
                _until(float(str(row["expires"])) - now),
            ]
            for row in rows
        ],
    )


def _until(seconds: float) -> str:
    return f"in {age(seconds)}" if seconds > 0 else f"{age(-seconds)} ago"


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.argument("name")
@click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="[COMMAND...]")
@plain_errors
def shell(name: str, command: Sequence[str]) -> None:
    """Enter a machine, or run COMMAND in it; NAME may be cut short."""
    if command[:1] == ("--",):
        command = command[1:]
    found = _look().named(name)
    if found.resource.kind is not Kind.MACHINE:
        raise UsageError(f"{found.resource.name} is a {found.resource.kind}, no machine")
    phase = found.driver.status(found.resource).phase
    if phase is not Phase.RUNNING:
        raise UsageError(f"{found.resource.name} is {phase}", hint=f"rexxinfra rm {found.resource.name}")
    argv = list(found.driver.enter_command(found.resource, command, terminal=sys.stdin.isatty()))
    try:
        os.execvp(argv[0], argv)
    except OSError as error:
        raise SystemUnavailable(f"{argv[0]} cannot be run: {error.strerror}", hint="install that program") from error


@click.command()
@click.argument("name")
@plain_errors
def logs(name: str) -> None:
    """Print what the main process of a machine printed; NAME may be cut short."""
    found = _look().named(name)
    if Capability.LOGS not in found.driver.capabilities or found.resource.kind is not Kind.MACHINE:
        raise UsageError(f"{found.resource.name}: a {found.resource.kind} of {found.driver.name} has no logs")
    click.echo(found.driver.logs(found.resource), nl=False)


@click.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@plain_errors
def rm(names: Sequence[str]) -> None:
    """Remove machines, networks or volumes by name, as ps lists them; names may be cut short."""
    everything = _look()
    _remove(list(dict.fromkeys(everything.named(name) for name in names)), dry_run=False)


@click.command()
@click.option("--dry-run", is_flag=True, help="Only tell what would be removed.")
@click.option("--expired", is_flag=True, help="Also what has expired on hosts out of sight.")
@click.option("--all", "everything", is_flag=True, help="Also what living runs hold, and what was kept.")
@plain_errors
def reap(dry_run: bool, expired: bool, everything: bool) -> None:
    """Remove what dead runs left on this host, and kept machines that have expired.

    What a living run holds is left alone, and so is what belongs to other hosts.
    """
    now = _look()

    def chosen(each: Found) -> bool:
        orphan = is_orphan(each.resource, now.entries)
        return everything or orphan or (expired and is_expired(each.resource, now.entries))

    if not dry_run:
        ledger = Ledger()
        for driver, resource in now.unlisted:
            driver.destroy([resource], Deadline(_REMOVING))
            ledger.closed([resource.lease])
        ledger.close()
    doomed = [each for each in now.found if chosen(each)]
    _remove(doomed, dry_run)
    if not doomed:
        click.echo("nothing is left by dead runs")


def _remove(chosen: Sequence[Found], dry_run: bool) -> None:
    """Remove what can be removed; ends with status 1 when something could not."""
    failed = False
    ledger = Ledger()
    for driver in dict.fromkeys(each.driver for each in chosen):
        mine = [each.resource for each in chosen if each.driver is driver]
        left: set[str] = set()
        if not dry_run:
            try:
                driver.destroy(mine, Deadline(_REMOVING))
            except RexxInfraError as error:
                failed = True
                click.echo(f"{click.style('error', fg='red')}: {error}", err=True)
            left = {each.lease for each in driver.list()}
            ledger.closed(each.lease for each in mine if each.lease not in left)
        for resource in mine:
            done = "would remove" if dry_run else "could not remove" if resource.lease in left else "removed"
            failed |= done == "could not remove"
            click.echo(f"{done} {resource.system} {resource.kind} {resource.name}")
    ledger.close()
    if failed:
        sys.exit(1)


COMMANDS = (ps, shell, logs, rm, reap)
