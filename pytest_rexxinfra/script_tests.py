"""The REXX scripts that are tests of one pytest run: which are collected, and what runs together."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from .errors import ChannelClosed, MachineDied, Unsupported
from .machine import Machine
from .rexx import expected
from .rexx.build import Build
from .rexx.comparison import KnownDifferences
from .rexx.matrix import Matrix, Observation
from .rexx.outcome import Outcome, Verdict
from .rexx.script import looks_like_test
from .rexx.suite import Job, ScriptRun, Suite
from .settings import OFF
from .target import Target

if TYPE_CHECKING:
    from .collector import RexxItem
    from .session import RexxSession

USUAL = "*.rexx"


@dataclass(frozen=True)
class Where:
    """A target and a build that scripts run on; ``name`` is that of the build where there are several."""

    target: Target
    build: Build
    name: str = ""

    def __str__(self) -> str:
        return f"{self.target}-{self.name}" if self.name else str(self.target)


class ScriptTests:
    """What the scripts of a run share. ``named`` says whether the command line names what to collect."""

    def __init__(self, session: RexxSession, config: pytest.Config, named: bool) -> None:
        self._session = session
        self._config = config
        self._named = named and (config.getoption("rexx_target") is not None or bool(os.environ.get("REXX_TARGET")))
        self._folders: dict[Path, bool] = {}
        self._suites: dict[tuple[str, str], Suite] = {}
        self._runs: dict[str, dict[Path, ScriptRun]] = {}
        self._written: set[Path] = set()
        self._grouped: dict[tuple[Path, str], list[RexxItem]] = {}
        self.passed_over = 0
        """Scripts that nobody asked for."""
        self.matrix = Matrix()

    @cached_property
    def places(self) -> list[Where]:
        """Every combination of target and build of the run."""
        lab = self._session.lab
        several = len(lab.builds) > 1
        return [
            Where(target, build, name if several else "")
            for target in lab.targets
            for name, build in lab.builds.items()
        ]

    @cached_property
    def known(self) -> KnownDifferences:
        """The differences to the reference that are known."""
        file = self._session.settings.known_differences
        return KnownDifferences.read(file) if file else KnownDifferences()

    def asked_for(self, path: Path, session: pytest.Session) -> bool:
        """Whether a file is to be collected as a script.

        Those that the option ``scripts`` matches are. Without it a ``.rexx`` file is that the command line names,
        or that is in a directory of REXX tests which the command line names together with a target.
        """
        patterns = self._session.settings.scripts
        if patterns:
            relative = os.path.relpath(path, self._config.rootpath)
            return patterns != (OFF,) and any(fnmatch(path.name, each) or fnmatch(relative, each) for each in patterns)
        if not fnmatch(path.name, USUAL):
            return False
        if session.isinitpath(path) or (self._named and self._of_tests(path.parent)):
            return True
        self.passed_over += 1
        return False

    def _of_tests(self, folder: Path) -> bool:
        if folder not in self._folders:
            self._folders[folder] = any(looks_like_test(path) for path in sorted(folder.glob(USUAL)))
        return self._folders[folder]

    def outcome(self, item: RexxItem) -> Outcome:
        """Run an item, if it has not run along with an earlier one; raises what the machine raises."""
        machine = self._session.script_machine(item)
        suite = self._suite(machine, item)
        try:
            run = suite.run(self._job(item), self._ahead(item))
        except Unsupported as lack:
            run = ScriptRun({item.test: Outcome.skipped(lack.message)})
        except (ChannelClosed, MachineDied):
            self._session.forget(machine)
            raise
        outcome = self._recorded(item, run) if self._session.settings.update_expected else run.outcomes[item.test]
        reference = self._session.lab.reference
        build = item.where.name or (item.where.build.label if reference else "")
        seen = Observation.of(item.label, str(item.where.target), build, outcome, run.result, suite.shown)
        self.matrix.add(seen)
        if run.result is not None and reference is not None:
            outcome = self._compared(item, machine, reference, seen, outcome)
        if suite.dead:
            self._session.forget(machine)
        return outcome

    def _suite(self, machine: Machine, item: RexxItem, build: Build | None = None) -> Suite:
        """The suite for one machine and one build in it, made at the first script."""
        runtime = self._session.lab.runtime(machine, build) if build else machine.rexx
        key = (machine.resource.lease, runtime.build.digest)
        if key not in self._suites:
            runs = self._runs.setdefault(f"{item.where.target} {runtime.build.digest}", {})
            settings = self._session.settings
            alone = len(self.places) > 1 or settings.compare is not None or settings.update_expected
            self._suites[key] = Suite(runtime, self._config.invocation_params.dir, runs, alone)
        return self._suites[key]

    def _job(self, item: RexxItem) -> Job:
        of_script = self._groups(item.session).get((item.path, str(item.where)), [])
        names = tuple(each.test for each in of_script if not each.skipped)
        return Job(item.script, names or (item.test,), item.script.timeout or self._session.settings.timeout)

    def _ahead(self, item: RexxItem) -> Iterator[Job]:
        """The scripts after this one that the same machine will run; a worker does not know what it will get."""
        if hasattr(self._config, "workerinput"):
            return
        order = self._session.script_order(item)
        groups = self._groups(item.session)
        keys = list(groups)
        for path, place in keys[keys.index((item.path, str(item.where))) + 1 :]:
            wanted = [each for each in groups[path, place] if not each.skipped]
            if wanted and place == str(item.where) and self._session.script_order(wanted[0]) == order:
                yield self._job(wanted[0])

    def _groups(self, session: pytest.Session) -> dict[tuple[Path, str], list[RexxItem]]:
        """The items of the run, by script and place."""
        from .collector import RexxItem

        if not self._grouped:
            for item in session.items:
                if isinstance(item, RexxItem):
                    self._grouped.setdefault((item.path, str(item.where)), []).append(item)
        return self._grouped

    def _recorded(self, item: RexxItem, run: ScriptRun) -> Outcome:
        """Write down what the script printed as what is expected; on the next place it is compared with that."""
        result, outcome = run.result, run.outcomes[item.test]
        if result is None or item.path in self._written:
            return outcome
        if not result.ok and not item.script.judges_end:
            return outcome
        self._written.add(item.path)
        file = expected.update(
            item.path, expected.expectation(item.path), result.stdout_bytes.decode("utf-8", "surrogateescape")
        )
        self._session.note(f"expected output: {os.path.relpath(file, self._config.rootpath)} is what it printed now")
        return Outcome(Verdict.PASSED, output=outcome.output)

    def _compared(
        self, item: RexxItem, machine: Machine, reference: Build, seen: Observation, outcome: Outcome
    ) -> Outcome:
        """The outcome of a script after a look at what the reference makes of it."""
        suite = self._suite(machine, item, reference)
        run = suite.run(self._job(item))
        theirs = Observation.of(
            item.label, str(item.where.target), reference.label, run.outcomes[item.test], run.result, suite.shown
        )
        self.matrix.add(theirs)
        compared = self.known.judge(item.path, seen, theirs)
        for reason in compared.reasons:
            item.user_properties.append(("rexx_known_difference", reason))
        problems = [*compared.unlisted, *compared.gone]
        if not problems or outcome.verdict is Verdict.FAILED:
            return outcome
        reason = f"it differs from {reference.label}" if compared.unlisted else "a known difference is gone"
        return Outcome(Verdict.FAILED, reason, trace="\n".join(problems), output=outcome.output)
