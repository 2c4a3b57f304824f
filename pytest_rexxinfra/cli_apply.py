"""``rexxinfra apply``: a Rexxfile on many machines at once."""

from __future__ import annotations

import io
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .console import events, pairs, plain_errors, standard_input
from .errors import UsageError
from .events import Events
from .interrupts import Interrupts

if TYPE_CHECKING:
    from rich.console import Console

    from .rexxfile.fleet import Outcome
    from .rexxfile.hosts import Host, Login

_USUAL = "Rexxfile"
_WIDE = 200


@click.command()
@click.option("-f", "--file", default=None, metavar="FILE", help="The Rexxfile, instead of the argument; - for stdin.")
@click.option("-H", "--host", multiple=True, metavar="HOST[,HOST...]", help="Machines that exist; repeatable.")
@click.option("-i", "--inventory", default=None, metavar="FILE", help="Hosts in a file, with groups and arguments.")
@click.option("-t", "--target", multiple=True, metavar="TARGET", help="A machine made for this, and gone after it.")
@click.option("-a", "--arg", multiple=True, metavar="NAME=VALUE", help="Value of an ARG; repeatable.")
@click.option("-u", "--user", default=None, help="User of hosts that name none.")
@click.option("--port", type=int, default=None, help="Port of hosts that name none.")
@click.option("-b", "--build", default=None, help="REXX build, as for pytest's --rexx-build.  [default: auto]")
@click.option("--parallel", type=click.IntRange(min=1), default=20, show_default=True, help="Hosts at once.")
@click.option("--timeout", default=None, help="Seconds that one task may take.  [default: 60]")
@click.option("-d", "--dry-run", is_flag=True, help="Change nothing, and connect to no host unless --diff is given.")
@click.option("--diff", is_flag=True, help="Look at each host first, and show what would change.")
@click.option("--fail-fast", is_flag=True, help="When one host fails, let the others begin no further task.")
@click.option("--retry", type=click.Path(dir_okay=False, path_type=Path), help="Write the hosts that failed to a file.")
@click.option("-q", "--quiet", is_flag=True, help="Tell only the end.")
@click.option("-v", "--verbose", is_flag=True, help="Show what the commands print, while they do.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document at the end, and nothing else.")
@click.argument("rexxfile", required=False, metavar="[REXXFILE]")
@plain_errors
def apply(
    file: str | None,
    host: Sequence[str],
    inventory: str | None,
    target: Sequence[str],
    arg: Sequence[str],
    user: str | None,
    port: int | None,
    build: str | None,
    parallel: int,
    timeout: str | None,
    dry_run: bool,
    diff: bool,
    fail_fast: bool,
    retry: Path | None,
    quiet: bool,
    verbose: bool,
    as_json: bool,
    rexxfile: str | None,
) -> None:
    """Apply a Rexxfile to many machines at once.

    REXXFILE is a file, by default Rexxfile, or - for standard input. A HOST is [USER@]HOST[:PORT] for ssh,
    SYSTEM:NAME for a machine that exists (docker:web), @FILE for a list, or a name from the inventory. Files and
    sources are checked before any host is touched. The exit status is 1 if any host failed.
    """
    from .lab import Lab
    from .rexxfile import report
    from .rexxfile.fleet import Fleet, Job, Manner, Outcome, State
    from .rexxfile.hosts import Login, distinct
    from .rexxfile.plans import Plans
    from .rexxfile.screen import Detail, Screen
    from .settings import Settings

    if file is not None and rexxfile is not None:
        raise UsageError(f"two Rexxfiles are named: {file} and {rexxfile}")
    if quiet and verbose:
        raise UsageError("--quiet and --verbose contradict each other")
    if retry is not None and not os.access(retry.absolute().parent, os.W_OK):
        raise UsageError(f"--retry: {retry.absolute().parent} is not a directory that can be written to")
    hosts = distinct(_hosts(host, inventory, target, Login(user, port)))
    if not hosts:
        raise UsageError("no host is named", hint="-H HOST, -i INVENTORY, or -t TARGET for a fresh machine")
    path = file or rexxfile or _USUAL
    plans = Plans(path, pairs("--arg", arg), standard_input() if path == "-" else None)
    jobs = [Job(each, plans.of(each)) for each in hosts]
    settings = Settings.load({"build": build, "timeout": timeout, "pool": 0})
    console = _console()
    for note in dict.fromkeys(note for job in jobs if job.host.text for note in job.plan.notes):
        click.echo(note, err=True)
    if dry_run and not diff:
        if as_json:
            click.echo(json.dumps(report.as_json([*map(Outcome, jobs)], 0.0, dry_run=True), indent=2))
        else:
            report.show_plans(console, jobs)
        return
    detail = Detail.QUIET if quiet or as_json else Detail.OUTPUT if verbose else Detail.TASKS
    listener = Events() if detail is Detail.QUIET or console.is_terminal else events()
    begun = time.monotonic()
    with Lab(settings, listener) as lab, Interrupts(lab.hand_over).handled():
        if not dry_run and any(job.plan.needs_build for job in jobs):
            # Looked for once, and not by every host.
            lab.builds  # noqa: B018
        manner = Manner(parallel, fail_fast, settings.timeout if timeout else None, diff, put=not dry_run)
        screen = Screen(console, detail, len(jobs))
        fleet = Fleet(lab, jobs, manner, screen)
        try:
            with screen:
                fleet.run()
        finally:
            seconds = time.monotonic() - begun
            if as_json:
                click.echo(json.dumps(report.as_json(fleet.outcomes, seconds, dry_run=dry_run), indent=2))
            else:
                report.show(console, fleet.outcomes, seconds, dry_run=dry_run)
            if retry is not None:
                _write_retry(retry, fleet.outcomes)
    sys.exit(0 if all(each.state is State.OK for each in fleet.outcomes) else 1)


def _hosts(names: Sequence[str], inventory: str | None, targets: Sequence[str], login: Login) -> list[Host]:
    from .rexxfile.hosts import fresh, parse_hosts
    from .rexxfile.inventory import Inventory

    found = Inventory.read(Path(inventory), login).pick(names) if inventory else parse_hosts(names, login)
    return [*found, *(fresh(each.strip()) for text in targets for each in text.split(",") if each.strip())]


def _console() -> Console:
    """Standard output: coloured on a terminal only, and no character that it cannot show ends the run."""
    from rich.console import Console

    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    terminal = sys.stdout.isatty()
    width = None if terminal else _WIDE
    return Console(force_terminal=terminal, width=width, highlight=False, markup=False, emoji=False)


def _write_retry(path: Path, outcomes: Sequence[Outcome]) -> None:
    """Name the hosts that are not done, one a line; there is no file when all are."""
    from .rexxfile.fleet import State

    names = [each.job.host.text for each in outcomes if each.state is not State.OK and each.job.host.text]
    if names:
        path.write_text("".join(f"{name}\n" for name in names))
    else:
        path.unlink(missing_ok=True)


COMMANDS = (apply,)
