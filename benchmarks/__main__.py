"""Measure the plugin next to raw tools and its peers, and print ratios."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from pytest_rexxinfra.errors import RexxInfraError

from . import (
    command,
    deploy,
    files,
    fresh_docker,
    fresh_local,
    hosts,
    leases,
    report,
    scripts,
    start,
    systems,
    throughput,
    virtual,
)
from .bench import Bench
from .measure import Row, Unmeasured

_MODULES = (
    start,
    command,
    leases,
    fresh_docker,
    fresh_local,
    systems,
    throughput,
    deploy,
    files,
    scripts,
    hosts,
    virtual,
)
SUBJECTS = {module.NAME: module for module in _MODULES}

_EPILOG = f"""\
subjects: {", ".join(SUBJECTS)}

Docker is needed for most of them; pytest-container and testcontainers are measured where they are
installed (pip install 'pytest-rexxinfra[bench]'). Every container and file of the run is removed at
its end, also after Ctrl-C; images that the plugin keeps for later runs stay.
"""


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--rounds",
        type=_rounds,
        default=15,
        metavar="N",
        help="rounds of each measurement, at least 10 (default: 15)",
    )
    parser.add_argument(
        "--only",
        action="append",
        choices=SUBJECTS,
        metavar="NAME",
        help="measure this subject only; may be repeated",
    )
    parser.add_argument(
        "--tests",
        type=_tests,
        default=throughput.TESTS,
        metavar="N",
        help=f"tests of each `throughput` run; fewer are for rehearsal (default: {throughput.TESTS})",
    )
    parser.add_argument("--build", default="auto", help="the REXX build that `deploy` deploys (default: auto)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures with their quartiles")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table and how it was made")
    parser.add_argument("--strict", action="store_true", help="end with status 1 unless every goal is met")
    return parser.parse_args(arguments)


def _rounds(text: str) -> int:
    if not text.isdecimal() or int(text) < 10:
        raise argparse.ArgumentTypeError("a median of fewer than 10 rounds says little")
    return int(text)


def _tests(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError("how many tests? a number from 1 on")
    return int(text)


def measure(bench: Bench, names: Sequence[str]) -> Iterator[tuple[str, Row]]:
    """The rows of the subjects; one that cannot be measured becomes a row of its name that says why."""
    for name in names:
        try:
            for row in SUBJECTS[name].rows(bench):
                yield name, row
        except (Unmeasured, RexxInfraError, ImportError, OSError) as reason:
            text = " ".join(str(reason).split())
            yield name, Row.unmeasured(name, text)


def _command(options: argparse.Namespace) -> str:
    """The command line of this run, without paths that only this computer has."""
    page = options.markdown.name if options.markdown.is_absolute() else options.markdown
    words = ["python -m benchmarks", f"--rounds {options.rounds}", *(f"--only {name}" for name in options.only or ())]
    words += [f"--tests {options.tests}"] if options.tests != throughput.TESTS else []
    return " ".join([*words, *(["--build BUILD"] if options.build != "auto" else []), f"--markdown {page}"])


def main() -> int:
    options = parse()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    names = [name for name in SUBJECTS if not options.only or name in options.only]
    measured: list[tuple[str, Row]] = []
    build = "none"
    print(report.line())
    try:
        with Bench(options.rounds, options.build, options.tests) as bench:
            for name, row in measure(bench, names):
                measured.append((name, row))
                print(report.line(row.cells()), flush=True)
            if "deploy" in names and "build" in bench.lab.__dict__:
                build = bench.lab.build.label.partition(" (")[0]
    except KeyboardInterrupt:
        print("interrupted; everything was removed", file=sys.stderr)
        return 130
    if options.json:
        report.write_json(options.json, measured, options.rounds)
    if options.markdown:
        report.write_markdown(options.markdown, measured, _command(options), build)
    missed = any(row.met is False or row.what == subject for subject, row in measured)
    return 1 if options.strict and missed else 0


if __name__ == "__main__":
    sys.exit(main())
