"""``rexxinfra matrix``: scripts on every combination of targets and builds, and what is not the same everywhere."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .console import events, plain_errors
from .errors import SystemUnavailable, Unsupported, UsageError
from .interrupts import Interrupts

if TYPE_CHECKING:
    from .lab import Lab
    from .rexx.build import Build
    from .rexx.matrix import Matrix
    from .rexx.script import Script
    from .target import Target


@click.command()
@click.option("-t", "--target", default=None, metavar="SYSTEM[,SYSTEM...]", help="Targets.  [default: local]")
@click.option(
    "-b", "--build", multiple=True, metavar="BUILD", help="A build, as for pytest's --rexx-build; repeatable."
)
@click.option("--timeout", default=None, help="Seconds that one script may take.  [default: 60]")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
@click.argument("paths", nargs=-1, required=True, metavar="SCRIPT|DIRECTORY...")
@plain_errors
def matrix(target: str | None, build: Sequence[str], timeout: str | None, as_json: bool, paths: Sequence[str]) -> None:
    """Run scripts on all targets with all builds, and show where they differ.

    A script's outcome, output and EXIT value are compared. The exit status is 0 when nothing failed and nothing
    differs, else 1.
    """
    from .lab import Lab
    from .rexx.matrix import Matrix
    from .rexx.outcome import Verdict
    from .settings import Settings

    scripts = list(_scripts(paths))
    given = {"target": target, "build": ",".join(build) or None, "timeout": timeout, "pool": 0}
    table = Matrix()
    with Lab(Settings.load(given), events()) as lab, Interrupts(lab.hand_over).handled():
        for place in lab.targets:
            for name, each in lab.builds.items():
                _fill(table, lab, place, name, each, scripts)
    if as_json:
        keys = ("test", "target", "build", "verdict", "reason", "facts")
        click.echo(json.dumps([dict(zip(keys, each.pack(), strict=True)) for each in table.observations], indent=2))
    else:
        click.echo("\n".join(table.lines()))
        for reason in dict.fromkeys(each.reason for each in table.observations if each.verdict is Verdict.SKIPPED):
            click.echo(f"skipped: {reason}")
    failed = any(each.verdict is Verdict.FAILED for each in table.observations)
    sys.exit(1 if failed or table.differences() else 0)


def _fill(table: Matrix, lab: Lab, target: Target, name: str, build: Build, scripts: Sequence[Script]) -> None:
    """Run the scripts in one column; scripts of the same headers share a machine."""
    from .model import Spec
    from .rexx.matrix import Observation
    from .rexx.outcome import Outcome
    from .rexx.script import MAIN
    from .rexx.suite import Job, ScriptRun, Suite

    suites: dict[str, Suite] = {}
    for script in scripts:
        names = tuple(each.name for each in script.routines) if script.is_test else ()
        names = names or (MAIN,)
        shown: Callable[[str], str] = str
        try:
            key = repr(script.wishes)
            if key not in suites:
                machine = lab.provision(target, Spec.of(**script.wishes), build=build)
                suites[key] = Suite(machine.rexx, Path.cwd(), alone=True)
            run = suites[key].run(Job(script, names, script.timeout or lab.settings.timeout))
            shown = suites[key].shown
        except (SystemUnavailable, Unsupported) as error:
            run = ScriptRun(dict.fromkeys(names, Outcome.skipped(error.message)))
        path = os.path.relpath(script.path)
        for test in names:
            label = path if test == MAIN else f"{path}::{test}"
            table.add(Observation.of(label, str(target), name, run.outcomes[test], run.result, shown))


def _scripts(paths: Sequence[str]) -> Iterator[Script]:
    from .rexx.script import Script

    for text in paths:
        path = Path(text).absolute()
        found = sorted(path.rglob("*.rexx")) if path.is_dir() else [path]
        if not found:
            raise UsageError(f"there is no .rexx file in {path}")
        yield from map(Script.read, found)


COMMANDS = (matrix,)
