"""One pytest run's lab: which test gets which machine, how errors look, what the summary says."""

from __future__ import annotations

import os
import shlex
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, TextIO

import pytest

from .errors import RexxInfraError, SystemUnavailable, Unsupported, UsageError
from .events import Events
from .lab import Lab
from .machine import Machine
from .model import Spec
from .progress import Progress
from .settings import Settings
from .systems import registry
from .target import Target

SCOPES = ("test", "module", "run")

_PACKAGE = Path(__file__).parent
_MACHINES = pytest.StashKey[list[Machine]]()


class RexxSession:
    """What the plugin keeps for one run, on the controller and on each xdist worker."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._shared: dict[tuple[str, str, str], Machine] = {}
        self._counts: Counter[str] = Counter()
        self._notes: list[str] = []
        self._builds: set[str] = set()
        self._failed: set[str] = set()
        self._places: set[str] = set()

    @cached_property
    def settings(self) -> Settings:
        given = {
            name: self._config.getoption(f"rexx_{name}")
            for name in ("target", "build", "image", "require", "timeout", "keep")
        }
        with _as_usage_error():
            return Settings.load(given, root=self._config.rootpath)

    @cached_property
    def lab(self) -> Lab:
        with _as_usage_error():
            lab = Lab(self.settings, Events(Progress(self._open_terminal, self._worker_prefix, beside=True)))
            lab.targets  # noqa: B018 - a wrong target must show here, not in the first test
            unknown = set(self.settings.require) - {*registry.names(), "all"}
            if unknown:
                raise UsageError(
                    f"--rexx-require: unknown system {', '.join(sorted(unknown))}",
                    hint=f"systems: {', '.join(registry.names())}",
                )
            return lab

    @property
    def _worker_prefix(self) -> str:
        worker = getattr(self._config, "workerinput", None)
        return f"[{worker['workerid']}] " if worker else ""

    def _open_terminal(self) -> TextIO:
        """The real standard error, past pytest's capturing; safe to write to from any thread and time."""
        capture = self._config.pluginmanager.getplugin("capturemanager")
        if capture is None:
            return os.fdopen(os.dup(2), "w")
        with capture.global_and_fixture_disabled():
            return os.fdopen(os.dup(2), "w")

    def check_options(self) -> None:
        """Find what is wrong with the options before any test starts; raises `pytest.UsageError`."""
        targets = self.lab.targets
        chosen = self.settings.build
        if chosen != "auto" and not hasattr(self._config, "workerinput") and targets:
            with _as_usage_error():
                self.lab.build  # noqa: B018 - resolving is the check

    def header(self) -> list[str]:
        image = f", image {self.settings.image}" if self.settings.image else ""
        build = self.lab.build.label if self.settings.build != "auto" else "auto"
        return [f"rexxinfra: target {self.settings.target}{image}, build {build}"]

    def machine(self, request: pytest.FixtureRequest, target: Target | str) -> Machine:
        """The machine for a test, made now or shared, with its removal arranged."""
        with shown_plainly(), self._skipping(target):
            wishes, scope = _wishes(request.node)
            chosen = Target.parse(target, registry.names()) if isinstance(target, str) else target
            spec = Spec.of(**wishes)
            wants_rexx = "rexx" in request.fixturenames
            if scope == "test":
                machine = self._provision(chosen, spec, None, wants_rexx)
                request.addfinalizer(lambda: self._dispose(machine))
            else:
                module = request.node.getparent(pytest.Module)
                owner = request.session if scope == "run" or module is None else module
                key = (owner.nodeid, str(chosen), repr(spec))
                if key not in self._shared:
                    self._shared[key] = self._provision(chosen, spec, None, wants_rexx)
                    owner.addfinalizer(lambda: self._dispose(self._shared.pop(key)))
                machine = self._shared[key]
            request.node.stash.setdefault(_MACHINES, []).append(machine)
            return machine

    @contextmanager
    def provisioner(self, request: pytest.FixtureRequest, target: Target) -> Iterator[Provisioner]:
        """The factory behind the fixture ``provision``; takes down what it made."""
        provisioner = Provisioner(self, request, target)
        try:
            yield provisioner
        finally:
            self._dispose(*provisioner.machines)
            with shown_plainly():
                provisioner.remove_others()

    def _provision(self, target: Target, spec: Spec, name: str | None, rexx: bool) -> Machine:
        build = self.lab.build if rexx else None
        machine = self.lab.provision(target, spec, name=name, build=build)
        try:
            self._config.hook.pytest_rexxinfra_machine_ready(machine=machine)
        except BaseException:
            self.lab.destroy(machine)
            raise
        return machine

    def _dispose(self, *machines: Machine) -> None:
        """Keep or take down machines that no test uses any more."""
        for machine in machines:
            try:
                self._config.hook.pytest_rexxinfra_machine_teardown(machine=machine)
            finally:
                failed = machine.resource.lease in self._failed
                if self.settings.keep == "all" or (self.settings.keep == "failed" and failed):
                    self._keep(machine)
        with shown_plainly():
            self.lab.destroy(*machines)

    def _keep(self, machine: Machine) -> None:
        names = " ".join(each.name for each in self.lab.release(machine))
        enter = shlex.join(machine.driver.enter_command(machine.resource))
        self._notes.append(f"kept {machine.where}: enter with `{enter}`, remove with `rexxinfra rm {names}`")

    @contextmanager
    def _skipping(self, target: Target | str) -> Iterator[None]:
        """Turn a missing capability, or a missing system unless it is required, into a skip with its reason."""
        try:
            yield
        except (SystemUnavailable, Unsupported) as error:
            system = target.system if isinstance(target, Target) else target
            if isinstance(error, SystemUnavailable) and {system, "all"} & set(self.settings.require):
                raise
            reason = str(error).replace("\n  hint: ", "; ")
            raise pytest.skip.Exception(reason, _use_item_location=True) from None

    def shorten(self, failure: pytest.ExceptionInfo[BaseException]) -> None:
        """Leave our own code out of the traceback of an error of ours: the text says what happened."""
        if not isinstance(failure.value, RexxInfraError):
            return
        failure.value.__cause__ = failure.value.__context__ = None
        entry = failure.value.__traceback__
        while entry is not None and entry.tb_next is not None:
            if Path(entry.tb_next.tb_frame.f_code.co_filename).is_relative_to(_PACKAGE):
                entry.tb_next = None
            entry = entry.tb_next

    def explain(self, item: pytest.Item, report: pytest.TestReport) -> None:
        """Put what ran in the test's machines beside its failure, and note who failed."""
        machines = item.stash.get(_MACHINES, [])
        if report.failed:
            self._failed.update(machine.resource.lease for machine in machines)
        for machine in machines:
            self._places.add(f"{machine.system} ({machine.driver.describe(machine.resource)})")
            runtime = machine.__dict__.get("rexx")
            if runtime is None:
                continue
            if runtime.results:
                self._builds.add(runtime.build.label)
            if report.failed and report.when == "call":
                for number, result in enumerate(runtime.results, 1):
                    report.sections.append((f"REXX run {number} on {machine.where}", result.report()))
            if report.when == "teardown":
                runtime.results.clear()

    def finish(self, session: pytest.Session) -> None:
        """Take everything down and tell the controller, or the user, how it went."""
        try:
            self.lab.close()
        except RexxInfraError as error:
            self._notes.append(f"teardown: {error}")
        tally = self.lab.tally
        told = {
            "created": sum(tally.created.values()),
            "removed": sum(tally.removed.values()),
            "kept": len(tally.kept),
            "left": len(tally.left),
            "notes": [*self._notes, *(f"left: {each.system} {each.kind} {each.name}" for each in tally.left)],
            "builds": sorted(self._builds),
            "places": sorted(self._places),
        }
        self._notes.clear()
        output = getattr(self._config, "workeroutput", None)
        if output is None:
            self.add(told)
        else:
            output["rexxinfra"] = told
        if self._counts["left"] and session.exitstatus == 0:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def add(self, told: dict[str, Any]) -> None:
        """Add what a worker, or this process, made and removed."""
        self._counts.update({name: told[name] for name in ("created", "removed", "kept", "left")})
        self._notes += told["notes"]
        self._builds.update(told["builds"])
        self._places.update(told["places"])

    def summary(self) -> list[str]:
        if not self._counts["created"] and not self._notes:
            return []
        kept = f", kept {self._counts['kept']}" if self._counts["kept"] else ""
        lines = [
            f"machines: created {self._counts['created']}, removed {self._counts['removed']}{kept}, "
            f"left {self._counts['left']}"
        ]
        if self._places:
            lines.append(f"on: {'; '.join(sorted(self._places))}")
        if self._builds:
            lines.append(f"REXX: {'; '.join(sorted(self._builds))}")
        return [*lines, *self._notes]


class Provisioner:
    """Makes machines, networks and volumes of one target for one test."""

    def __init__(self, session: RexxSession, request: pytest.FixtureRequest, target: Target) -> None:
        self._session = session
        self._request = request
        self._target = target
        self._others: list[str] = []
        self.machines: list[Machine] = []

    def __call__(self, name: str | None = None, *, rexx: bool = False, **wishes: Any) -> Machine:
        """Make a machine; ``wishes`` are those of the marker ``machine``, ``rexx`` deploys the build."""
        with shown_plainly(), self._session._skipping(self._target):
            marked, _ = _wishes(self._request.node)
            machine = self._session._provision(self._target, Spec.of(**{**marked, **wishes}), name, rexx)
            self.machines.append(machine)
            self._request.node.stash.setdefault(_MACHINES, []).append(machine)
            return machine

    def network(self, name: str = "net") -> str:
        """Make a network; machines with ``network=`` its name see each other by their own names."""
        with shown_plainly(), self._session._skipping(self._target):
            self._others.append(self._session.lab.network(self._target, name))
            return self._others[-1]

    def volume(self, name: str = "vol") -> str:
        """Make an empty volume; mount it with ``volumes=[f"{volume}:/data"]``."""
        with shown_plainly(), self._session._skipping(self._target):
            self._others.append(self._session.lab.volume(self._target, name))
            return self._others[-1]

    def remove_others(self) -> None:
        """Remove the networks and volumes, after their machines."""
        self._session.lab.remove(*self._others)
        self._others.clear()


def _wishes(node: pytest.Item) -> tuple[dict[str, Any], str]:
    """What the marks of a test ask for, nearer marks over farther ones; raises `UsageError`."""
    wishes: dict[str, Any] = {}
    for mark in reversed(list(node.iter_markers("machine"))):
        if mark.args:
            raise UsageError(
                f"@pytest.mark.machine{mark.args!r}: wishes need their names", hint="for example image='mini'"
            )
        wishes.update(mark.kwargs)
    scope = wishes.pop("scope", "test")
    if scope not in SCOPES:
        raise UsageError(f"@pytest.mark.machine: scope {scope!r} is not one of {', '.join(SCOPES)}")
    return wishes, scope


@contextmanager
def shown_plainly() -> Iterator[None]:
    """Let an error of ours fail the test with its own text and no traceback of our code."""
    try:
        yield
    except RexxInfraError as error:
        raise pytest.fail.Exception(f"{type(error).__name__}: {error}", pytrace=False) from None


@contextmanager
def _as_usage_error() -> Iterator[None]:
    try:
        yield
    except RexxInfraError as error:
        raise pytest.UsageError(str(error)) from error
