"""What the plugin costs a pytest run that does not use it."""

from __future__ import annotations

import resource
from collections.abc import Iterator

from .bench import Bench
from .inner import dependencies_plugins, pytest_options, python, without_plugins
from .measure import Case, Goal, Row, Samples, in_turns, readable

NAME = "start"

_MANY = 10
_GOAL = Goal(5, "ms")
_COUNT = """\
import sys, pytest
status = pytest.main(sys.argv[1:])
print("modules", sum(name.split(".")[0] == "pytest_rexxinfra" for name in sys.modules))
sys.exit(status)
"""


def rows(bench: Bench) -> Iterator[Row]:
    folder = bench.folder / "start"
    folder.mkdir()
    test = folder / "test_nothing.py"
    test.write_text("def test_nothing():\n    pass\n")
    common = [*pytest_options(folder), str(test)]
    without = without_plugins()
    plugin = without_plugins("rexxinfra")
    brought = dependencies_plugins("pytest-rexxinfra")
    ways = {"without": without, "plugin": plugin}
    labels = {"plugin": "pytest start, plugin unused: added time"}
    if brought:
        ways["everything"] = without_plugins("rexxinfra", *brought)
        labels["everything"] = f"the same with plugins of its dependencies ({_shown(brought)})"
    processor: dict[str, list[float]] = {name: [] for name in ways}

    def start(name: str, options: list[str]) -> Case:
        def once() -> None:
            before = _processor_seconds()
            python(["-m", "pytest", *options, *common], folder)
            processor[name].append(_processor_seconds() - before)

        return once

    clock = in_turns(bench.rounds * _MANY, {name: start(name, options) for name, options in ways.items()}, NAME)
    busy = {name: Samples(tuple(seconds[1:])) for name, seconds in processor.items()}
    for name, what in labels.items():
        yield _added(what, clock[name], clock["without"], _GOAL)
        yield _added("- the same start, processor time", busy[name], busy["without"], None)
    count = int(python(["-c", _COUNT, *plugin, *common], folder).rpartition("modules ")[2])
    yield Row("modules of ours that an unused start imports", str(count), "", None, Goal(10, "modules"), count)


def _added(what: str, with_it: Samples, without: Samples, goal: Goal | None) -> Row:
    added = with_it.median - without.median
    low, high = with_it.over(without).quartiles
    return Row(
        what,
        f"{'+' if added >= 0 else ''}{readable(added)} (quartiles {low * 1000:+.1f} to {high * 1000:+.1f})",
        f"without it {without}",
        with_it.median / without.median,
        goal,
        added * 1000,
        with_it.quartiles,
        without.quartiles,
    )


def _processor_seconds() -> float:
    """User and system time of the child processes so far, which other work on the computer distorts less."""
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime


def _shown(plugins: list[str]) -> str:
    return ", ".join(name.rpartition(".")[2] for name in plugins)
