"""The commands of ``rexxinfra`` about what exists: ps, shell, logs, rm, reap."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click

from .cli_listing import Found, look, named
from .console import age, plain_errors, table
from .deadline import Deadline
from .errors import RexxInfraError, SystemUnavailable, UsageError
from .lab import is_expired, is_orphan
from .ledger import Ledger
from .model import Capability, Kind, Phase
from .systems.base import Driver

_REMOVING = 120.0
_ALIVE = {True: "alive", False: "dead", None: "out of sight"}


@click.command()
@click.argument("name", required=False)
@click.option(
    "-o",
    "--output",
    type=click.Choice(["table", "json", "yaml"]),
    default="table",
    help="The table (the default), or spec and status of everything with its disks and network interfaces.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the rows of the table as JSON.")
@plain_errors
def ps(name: str | None, output: str, as_json: bool) -> None:
    """List machines, networks and volumes of all runs, and whether their owners still live.

    With NAME, which may be cut short, only that one.
    """
    if as_json and output != "table":
        raise UsageError(f"--json and -o {output} are two ways to print it", hint="leave out one of them")
    write = _yaml() if output == "yaml" else _json
    everything = look()
    listed = [*everything.found, *everything.unseen]
    chosen = listed if name is None else [named(listed, name)]
    if as_json:
        click.echo(_json([_row(each) for each in chosen]))
    elif output == "table":
        _table(chosen)
    else:
        pods = [each.resource for each in listed if each.resource.kind is Kind.POD]
        click.echo(write([document for each in chosen for document in each.documents(pods)]))


def _json(documents: Sequence[Mapping[str, Any]]) -> str:
    return json.dumps(documents, indent=2)


def _yaml() -> Callable[[Sequence[Mapping[str, Any]]], str]:
    """What writes documents one after the other; raises `UsageError` without PyYAML."""
    try:
        import yaml
    except ImportError as missing:
        raise UsageError(f"-o yaml needs PyYAML: {missing}", hint="pip install pyyaml, or take -o json") from missing

    def write(documents: Sequence[Mapping[str, Any]]) -> str:
        text: str = yaml.safe_dump_all(documents, sort_keys=False, allow_unicode=True)
        return text.rstrip("\n")

    return write


def _row(each: Found) -> dict[str, Any]:
    return {
        "system": each.resource.system,
        "kind": str(each.resource.kind),
        "name": each.resource.name,
        "image": each.resource.image,
        "age": max(0, round(time.time() - each.resource.created)),
        "phase": each.status["phase"],
        "run": each.current.run,
        "owner": str(each.current.owner),
        "owner_alive": each.current.owner.alive,
        "kept": each.kept,
        "expires": each.current.expires,
        "lease": each.resource.lease,
    }


def _table(found: Sequence[Found]) -> None:
    now = time.time()
    table(
        "no machines",
        ["SYSTEM", "KIND", "NAME", "IMAGE", "AGE", "PHASE", "OWNER", "EXPIRES"],
        [
            [
                row["system"],
                row["kind"],
                row["name"],
                row["image"] or "",
                age(row["age"]),
                row["phase"],
                "kept" if row["kept"] else _ALIVE[row["owner_alive"]],
                _until(row["expires"] - now),
            ]
            for row in map(_row, found)
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
    found = look().named(name)
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
    found = look().named(name)
    if Capability.LOGS not in found.driver.capabilities or found.resource.kind is not Kind.MACHINE:
        raise UsageError(f"{found.resource.name}: a {found.resource.kind} of {found.driver.name} has no logs")
    click.echo(found.driver.logs(found.resource), nl=False)


@click.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@plain_errors
def rm(names: Sequence[str]) -> None:
    """Remove machines, networks or volumes by name, as ps lists them; names may be cut short."""
    everything = look()
    if _remove(list(dict.fromkeys(everything.named(name) for name in names)), dry_run=False):
        sys.exit(1)


@click.command()
@click.option("--dry-run", is_flag=True, help="Only tell what would be removed.")
@click.option("--expired", is_flag=True, help="Also what has expired on hosts out of sight.")
@click.option("--all", "everything", is_flag=True, help="Also what living runs hold, and what was kept.")
@plain_errors
def reap(dry_run: bool, expired: bool, everything: bool) -> None:
    """Remove what dead runs left on this host, and kept machines that have expired.

    What a living run holds is left alone, and so is what belongs to other hosts.
    """
    now = look()

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
    failed = _remove(doomed, dry_run)
    if not dry_run:
        failed |= _tidy(now.drivers)
    if failed:
        sys.exit(1)
    if not doomed:
        click.echo("nothing is left by dead runs")


def _tidy(drivers: Sequence[Driver]) -> bool:
    """Remove what dead processes left half made; whether something could not be."""
    failed = False
    for driver in drivers:
        try:
            driver.tidy()
        except RexxInfraError as error:
            failed = True
            _tell(error)
    return failed


def _tell(error: RexxInfraError) -> None:
    click.echo(f"{click.style('error', fg='red')}: {error}", err=True)


def _remove(chosen: Sequence[Found], dry_run: bool) -> bool:
    """Remove what can be removed; whether something could not be."""
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
                _tell(error)
            left = {each.lease for each in driver.list()}
            ledger.closed(each.lease for each in mine if each.lease not in left)
        for resource in mine:
            done = "would remove" if dry_run else "could not remove" if resource.lease in left else "removed"
            failed |= done == "could not remove"
            click.echo(f"{done} {resource.system} {resource.kind} {resource.name}")
    ledger.close()
    return failed


COMMANDS = (ps, shell, logs, rm, reap)
