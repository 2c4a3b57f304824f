"""One pytest run's lab: which test gets which machine, how errors look, what the summary says."""

from __future__ import annotations

import dataclasses
import os
import shlex
import threading
import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import pytest
from _pytest.nodes import Node

from .custody import Custodian, RunCustodian
from .deadline import Deadline
from .errors import RexxInfraError, SystemUnavailable, Unsupported, UsageError
from .events import Events
from .fixtures import SYSTEM_FIXTURES
from .interrupts import Interrupts
from .lab import Lab
from .machine import Machine
from .model import Spec
from .network import Network
from .pod import Pod, joined
from .policy import Mode
from .pool import Order
from .progress import Progress
from .rexx.matrix import Observation
from .script_tests import ScriptTests
from .settings import Settings
from .systems import registry
from .target import Target

if TYPE_CHECKING:
    from .broker import Broker
    from .collector import RexxItem
    from .rexx.build import Build
    from .rexx.checkpoints import Checkpoint
    from .storage import StoragePool

SCOPES = ("test", "module", "run")

_COLLECTING = 30.0
"""Seconds for saving what one machine leaves."""

_COMMANDS_SHOWN = 20
_WRITTEN_SHOWN = 10
_HORIZON = 20
"""So many tests ahead are looked at for the pool."""

_PACKAGE = Path(__file__).parent
_MACHINES = pytest.StashKey[list[tuple[Machine, int]]]()
_SAVED = pytest.StashKey[list[str]]()


class RexxSession:
    """What the plugin keeps for one run, on the controller and on each xdist worker."""

    def __init__(self, config: pytest.Config, broker: Broker | None = None) -> None:
        self._config = config
        self._broker = broker
        self._worker: dict[str, Any] | None = getattr(config, "workerinput", None)
        self.interrupts = broker.interrupts if broker else Interrupts(None if self._worker else self.hand_over)
        self._shared: dict[tuple[str, str], Machine] = {}
        self._item: pytest.Item | None = None
        self._indices: dict[pytest.Item, int] = {}
        self._counts: Counter[str] = Counter()
        self._notes: list[str] = []
        self._builds: set[str] = set()
        self._failed: set[str] = set()
        self._places: set[str] = set()

    @cached_property
    def settings(self) -> Settings:
        given = {each.name: self._config.getoption(f"rexx_{each.name}", None) for each in dataclasses.fields(Settings)}
        with _as_usage_error():
            return Settings.load(given, root=self._config.rootpath)

    @cached_property
    def scripts(self) -> ScriptTests:
        """The REXX scripts that are tests."""
        named = self._config.args_source is pytest.Config.ArgsSource.ARGS
        if self._worker and "rexxinfra" in self._worker:
            named = self._worker["rexxinfra"]["named"]
        return ScriptTests(self, self._config, named)

    @cached_property
    def lab(self) -> Lab:
        with _as_usage_error():
            progress = Progress(self._open_terminal, self._worker_prefix, beside=True)
            lab = Lab(self.settings, Events(progress), self._custodian())
            lab.warn = self.note
            lab.before_removal = self._save_what_failed
            lab.on_checkpoint = self._checkpoint
            lab.audit.test = lambda: self._item.nodeid if self._item else None
            lab.targets  # noqa: B018 - a wrong target must show here, not in the first test
            for option, named in (("require", self.settings.require), ("max", self.settings.max)):
                unknown = set(named) - {*registry.names(), "all" if option == "require" else "*"}
                if unknown:
                    raise UsageError(
                        f"--rexx-{option}: unknown system {', '.join(sorted(unknown))}",
                        hint=f"systems: {', '.join(registry.names())}",
                    )
            self.interrupts.install()
            return lab

    def _custodian(self) -> Custodian | None:
        """Who answers for the leases: in a worker the controller, where it can be reached."""
        if self._broker:
            return RunCustodian(self._broker.run, self.settings.bounds)
        if self._worker and "rexxinfra" in self._worker:
            from .worker import WorkerCustodian, interrupt_main

            told = self._worker["rexxinfra"]
            with suppress(OSError):
                return WorkerCustodian(
                    self._worker["workerid"], told["run"], told["address"], self.settings.bounds, interrupt_main
                )
        return None

    def hand_over(self) -> None:
        """Say that the reaper does the rest; the process ends after this."""
        self.lab.hand_over()

    def _checkpoint(self, machine: Machine, checkpoint: Checkpoint) -> None:
        self._config.hook.pytest_rexxinfra_checkpoint(machine=machine, checkpoint=checkpoint)

    def note(self, text: str) -> None:
        """Add a line to the summary."""
        self._notes.append(text)

    @property
    def _worker_prefix(self) -> str:
        return f"[{self._worker['workerid']}] " if self._worker else ""

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
        if self.settings.known_differences and not self.settings.compare:
            raise pytest.UsageError(
                "--rexx-known-differences is for what --rexx-compare finds\n  hint: say with which build to compare"
            )
        if chosen != "auto" and not hasattr(self._config, "workerinput") and targets:
            with _as_usage_error():
                self.lab.builds  # noqa: B018 - resolving is the check
                self.lab.reference  # noqa: B018
                self.scripts.known  # noqa: B018

    def header(self) -> list[str]:
        image = f", image {self.settings.image}" if self.settings.image else ""
        chosen = self.settings.build
        build = "auto" if chosen == "auto" else "; ".join(each.label for each in self.lab.builds.values())
        mode = self.settings.policy.mode
        policy = "" if mode == Mode.MODERATE else f", policy {mode}"
        against = f", compared with {self.lab.reference.label}" if self.lab.reference else ""
        lines = [f"rexxinfra: target {self.settings.target}{image}, build {build}{against}{policy}"]
        if chosen != "auto":
            from .rexx.facts import headline

            lines += [f"rexxinfra: {each.label}: {headline(each)}" for each in self.lab.builds.values()]
        return lines

    def machine(self, request: pytest.FixtureRequest, target: Target | str) -> Machine:
        """The machine for a test, made now or shared, with its removal arranged."""
        with shown_plainly(), self._skipping(target):
            self._item = request.node
            chosen = self.of_system(target) if isinstance(target, str) else target
            _patterns(request.node)
            wishes, scope = _wishes(request.node)
            order = Order(chosen, Spec.of(**wishes), "rexx" in request.fixturenames, _build_of(request.node))
            if scope == "test":
                machine = self._ready(self.lab.take(order))
                request.addfinalizer(lambda: self._dispose(machine))
            else:
                module = request.node.getparent(pytest.Module)
                machine = self._of_scope(order, request.session if scope == "run" or module is None else module)
            self._use(request.node, machine)
            return machine

    def of_system(self, system: str) -> Target:
        """The target that the fixture of a system means: the host that --rexx-target names for it, if it does."""
        hosts = (each for each in self.lab.targets if each.system == system and each.address)
        return next(hosts, Target(system, system))

    def script_machine(self, item: RexxItem) -> Machine:
        """The machine for a REXX script that is a test: that of the run, or of its file, as its marks say.

        Marks go over the headers of the script.
        """
        with shown_plainly(), self._skipping(item.where.target):
            self._item = item
            order, owner = self._script_order(item)
            machine = self._of_scope(order, owner)
            self._use(item, machine)
            return machine

    def script_order(self, item: RexxItem) -> tuple[str, str]:
        """What two scripts have in common that can run in the same machine."""
        order, owner = self._script_order(item)
        return order.key, owner.nodeid

    def _script_order(self, item: RexxItem) -> tuple[Order, Node]:
        marked, scope = _wishes(item, "run")
        build = item.where.build if item.where.name else None
        order = Order(item.where.target, Spec.of(**{**item.script.wishes, **marked}), True, build)
        return order, item.session if scope == "run" or item.parent is None else item.parent

    def forget(self, machine: Machine) -> None:
        """Take down a shared machine that is of no use any more, so that the next test gets another one."""
        for key in [key for key, shared in self._shared.items() if shared is machine]:
            del self._shared[key]
        self._dispose(machine)

    def _of_scope(self, order: Order, owner: Node) -> Machine:
        """The machine that the tests of a module or a file, or of the run, share."""
        key = (owner.nodeid, order.key)
        if key in self._shared:
            return self._shared[key]
        custodian = self.lab.custodian
        if not isinstance(owner, pytest.Session) or isinstance(custodian, RunCustodian):
            self._shared[key] = self._ready(self.lab.take(order))
            owner.addfinalizer(lambda: self._dispose_shared(key))
        else:
            self._shared[key] = self._of_all_workers(custodian, order)
        return self._shared[key]

    def _dispose_shared(self, key: tuple[str, str]) -> None:
        machine = self._shared.pop(key, None)
        if machine is not None:
            self._dispose(machine)

    def _of_all_workers(self, custodian: Custodian, order: Order) -> Machine:
        """The machine that all workers share; the controller makes it, the first worker prepares it."""
        from .worker import WorkerCustodian

        assert isinstance(custodian, WorkerCustodian)
        build = self.lab.ordered(order)
        resource, spec, name, prepare = custodian.share(order.key, str(order.target), order.spec, build)
        try:
            machine = self.lab.attach(order.target, resource, spec, name, build)
            if prepare:
                if order.rexx:
                    machine.rexx.deploy()
                self._config.hook.pytest_rexxinfra_machine_ready(machine=machine)
        except BaseException:
            if prepare:
                custodian.prepared(order.key, False)
            raise
        if prepare:
            custodian.prepared(order.key, True)
        return machine

    def _use(self, item: pytest.Item, machine: Machine) -> None:
        """Arrange that what this test did in a machine is reported, and saved before the machine goes."""
        start = machine.transcript.mark()
        item.stash.setdefault(_MACHINES, []).append((machine, start))
        item.user_properties += [
            ("rexx_system", machine.system),
            ("rexx_image", machine.spec.image or machine.driver.describe(machine.resource)),
            ("rexx_machine", machine.resource.name),
        ]
        item.addfinalizer(lambda: self._save(item, machine, start))

    @contextmanager
    def provisioner(self, request: pytest.FixtureRequest, target: Target) -> Iterator[Provisioner]:
        """The factory behind the fixture ``provision``; takes down what it made."""
        self._item = request.node
        provisioner = Provisioner(self, request, target)
        try:
            yield provisioner
        finally:
            for machine in provisioner.machines:
                self._save(request.node, machine, 0)
            stored = [name for pool in provisioner.pools for name in pool.names]
            self._dispose(*provisioner.machines, others=[*provisioner.others, *stored])

    def provide(self, target: Target, spec: Spec, name: str | None, build: Build | None) -> Machine:
        """Make a machine of which the pool knows nothing."""
        return self._ready(self.lab.provision(target, spec, name=name, build=build))

    def _ready(self, machine: Machine) -> Machine:
        """Let the user's hook prepare a new machine."""
        try:
            self._config.hook.pytest_rexxinfra_machine_ready(machine=machine)
        except BaseException:
            self._save_what_failed(machine)
            self.lab.destroy(machine)
            raise
        return machine

    def look_ahead(self, item: pytest.Item, nextitem: pytest.Item | None) -> None:
        """Tell the pool what this test and the next ones will ask for; also, the run goes on."""
        self._item = item
        self.interrupts.forget()
        if not self.settings.pool:
            return
        items = item.session.items
        if len(self._indices) != len(items):
            self._indices = {each: index for index, each in enumerate(items)}
        start = len(items) if nextitem is None else self._indices.get(nextitem, len(items))
        self.lab.expect([order for each in [item, *items[start : start + _HORIZON]] for order in self._orders(each)])

    def _orders(self, item: pytest.Item) -> list[Order]:
        """What a test that has not started will ask the pool for, as far as its signature and marks tell."""
        if not isinstance(item, pytest.Function) or any(item.iter_markers("skip")):
            return []
        targets: list[Target] = []
        parameters: dict[str, Any] = item.callspec.params if hasattr(item, "callspec") else {}
        if "machine" in item.fixturenames and isinstance(parameters.get("rexx_target"), Target):
            targets.append(parameters["rexx_target"])
        targets += [self.of_system(SYSTEM_FIXTURES[name]) for name in item.fixturenames if name in SYSTEM_FIXTURES]
        try:
            wishes, scope = _wishes(item)
            spec = Spec.of(**wishes)
        except UsageError:
            return []
        if scope != "test":
            return []
        return [Order(target, spec, "rexx" in item.fixturenames, _build_of(item)) for target in targets]

    def _dispose(self, *machines: Machine, others: Collection[str] = ()) -> None:
        """Keep machines, or take them down in the background, whatever the user's hook does.

        An error of the hook is raised when all are on their way.
        """
        failures: list[Exception] = []
        doomed: list[Machine] = []
        try:
            for machine in machines:
                doomed.append(machine)
                self._tell_written(machine)
                try:
                    self._config.hook.pytest_rexxinfra_machine_teardown(machine=machine)
                except Exception as failure:
                    failures.append(failure)
                failed = machine.resource.lease in self._failed
                if (self.settings.keep == "all" or (self.settings.keep == "failed" and failed)) and self._keep(machine):
                    doomed.remove(machine)
        finally:
            self.lab.dispose(*doomed, others=others)
        for other in failures[1:]:
            self.note(f"pytest_rexxinfra_machine_teardown: {type(other).__name__}: {other}")
        if failures:
            raise failures[0]

    def _tell_written(self, machine: Machine) -> None:
        """Say what teardown does not undo, on hosts that were there before the run."""
        if machine.written:
            *some, last = machine.written
            self.note(f"{machine.where}: stays on the host: {', '.join([*some[: _WRITTEN_SHOWN - 1], last])}")

    def _keep(self, machine: Machine) -> bool:
        """Leave a machine running and say how to get at it; says whether that worked."""
        try:
            released = self.lab.release(machine)
        except RexxInfraError as error:
            self.note(f"{machine.where} could not be kept: {error}")
            return False
        names = " ".join(each.name for each in released)
        until = time.strftime("%H:%M", time.localtime(machine.resource.expires))
        enter = shlex.join(machine.driver.enter_command(machine.resource))
        self.note(
            f"kept {machine.where} until {until}: enter with `rexxinfra shell {machine.resource.name}` or `{enter}`, "
            f"remove with `rexxinfra rm {names}`"
        )
        return True

    def _save(self, item: pytest.Item, machine: Machine, start: int) -> None:
        """Write down what a test's machine leaves, if that is wanted; never an error of the test."""
        if self.settings.artifacts is None:
            return
        from .artifacts import Artifacts

        found = Artifacts(self.settings.artifacts).collect(
            machine, item.nodeid, _patterns(item), start, Deadline(_COLLECTING)
        )
        item.stash.setdefault(_SAVED, []).extend([*map(str, found), *(f"({note})" for note in found.notes)])
        if found:
            item.user_properties.append(("rexxinfra_artifacts", str(found.folder)))

    def _save_what_failed(self, machine: Machine) -> None:
        if self._item is not None and threading.current_thread() is threading.main_thread():
            self._save(self._item, machine, 0)

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
            self._failed.update(machine.resource.lease for machine, _ in machines)
        saved = item.stash.get(_SAVED, [])
        seconds = getattr(item, "seconds", None)
        if report.when == "call" and seconds is not None:
            report.duration = seconds
        if report.when == "teardown" and saved:
            report.sections.append(("artifacts, saved at teardown", "\n".join(saved)))
        for machine, start in machines:
            self._places.add(f"{machine.system} ({machine.driver.describe(machine.resource)})")
            if report.failed and report.when == "call":
                said = machine.transcript.since(start)[-_COMMANDS_SHOWN:]
                if said:
                    report.sections.append((f"last commands on {machine.where}", "\n".join(map(str, said))))
            runtime = machine.__dict__.get("rexx")
            if runtime is None:
                continue
            if runtime.deployed:
                self._builds.add(runtime.build.label)
                if report.when == "call" and "rexx_build" not in dict(item.user_properties):
                    item.user_properties.append(("rexx_build", runtime.build.label))
            if report.failed and report.when == "call":
                for number, run in enumerate((run for run in runtime.runs if run.mark > start), 1):
                    text = machine.transcript.masked(run.report())
                    report.sections.append((f"REXX run {number} on {machine.where}", text))

    def finish(self, session: pytest.Session) -> None:
        """Take everything down and tell the controller, or the user, how it went."""
        if self._broker:
            self._broker.close()
            for machine in self._broker.shared():
                with self._noting("teardown"):
                    self._dispose(machine)
        with self._noting("teardown"):
            self.lab.close()
        if session.exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED and self.scripts.passed_over:
            self.note(
                f"{self.scripts.passed_over} .rexx files were passed over: name them on the command line, or the "
                "directory together with --rexx-target, or say --rexx-scripts='*.rexx'"
            )
        tally, custodian = self.lab.tally, self.lab.custodian
        own = custodian if isinstance(custodian, RunCustodian) else None
        told = {
            "created": own.created if own else 0,
            "removed": own.removed if own else 0,
            "kept": len(tally.kept),
            "left": len(tally.left),
            "pooled": tally.pooled,
            "unused": tally.unused,
            "reused": tally.reused,
            "notes": [*self._notes, *(f"left: {each.system} {each.kind} {each.name}" for each in tally.left)],
            "builds": sorted(self._builds),
            "places": sorted(self._places),
            "failed": sorted(self._failed),
            "observed": [each.pack() for each in self.scripts.matrix.observations],
        }
        self._notes.clear()
        output = getattr(self._config, "workeroutput", None)
        if output is None:
            self.add(told)
        else:
            output["rexxinfra"] = told
        if self._counts["left"] and session.exitstatus == 0 and not self.settings.allow_leaks:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    @contextmanager
    def _noting(self, what: str) -> Iterator[None]:
        """Turn an error into a line of the summary."""
        try:
            yield
        except Exception as error:
            self.note(f"{what}: {error}")

    def add(self, told: dict[str, Any]) -> None:
        """Add what a worker, or this process, made and removed."""
        self._counts.update({name: number for name, number in told.items() if isinstance(number, int)})
        self._notes += told["notes"]
        self._builds.update(told["builds"])
        self._places.update(told["places"])
        self._failed.update(told["failed"])
        for each in told["observed"]:
            self.scripts.matrix.add(Observation.unpack(each))

    def matrix(self) -> list[str]:
        """Builds and targets against outcomes, if scripts ran on more than one of them."""
        return self.scripts.matrix.lines() if len(self.scripts.matrix.places) > 1 else []

    def summary(self) -> list[str]:
        counts = self._counts
        if not counts["created"] and not self._notes:
            return []
        kept = f", kept {counts['kept']}" if counts["kept"] else ""
        lines = [f"machines: created {counts['created']}, removed {counts['removed']}{kept}, left {counts['left']}"]
        extra = {
            "taken from the pool": counts["pooled"],
            "made ahead and not used": counts["unused"],
            "reused": counts["reused"],
        }
        if any(extra.values()):
            lines.append(f"of these {', '.join(f'{number} {what}' for what, number in extra.items() if number)}")
        if counts["left"] and not self.settings.allow_leaks:
            lines.append("left is an error; look with `rexxinfra ps`, remove with `rexxinfra reap`")
        if self._places:
            lines.append(f"on: {'; '.join(sorted(self._places))}")
        if self._builds:
            lines.append(f"REXX: {'; '.join(sorted(self._builds))}")
        return [*lines, *self._notes]


class Provisioner:
    """Makes machines, networks, volumes and storage pools of one target for one test."""

    def __init__(self, session: RexxSession, request: pytest.FixtureRequest, target: Target) -> None:
        self._session = session
        self._request = request
        self._target = target
        self.others: list[str] = []
        self.pools: list[StoragePool] = []
        self.machines: list[Machine] = []

    def __call__(self, name: str | None = None, *, rexx: bool = False, **wishes: Any) -> Machine:
        """Make a machine; ``wishes`` are those of the marker ``machine``, ``rexx`` deploys the build."""
        return self._make(name, rexx, wishes)

    def _make(self, name: str | None, rexx: bool, wishes: dict[str, Any], pod: str | None = None) -> Machine:
        with shown_plainly(), self._session._skipping(self._target):
            marked, _ = _wishes(self._request.node)
            spec = Spec.of(**{**marked, **wishes})
            node = self._request.node
            build = self._session.lab.ordered(Order(self._target, spec, rexx, _build_of(node)))
            machine = self._session.provide(self._target, joined(spec, pod) if pod else spec, name, build)
            self.machines.append(machine)
            node.stash.setdefault(_MACHINES, []).append((machine, 0))
            return machine

    def pod(self, name: str = "pod", ports: Sequence[int] = ()) -> Pod:
        """Make a pod; the machines that it makes reach each other at 127.0.0.1, and ``ports`` are all of theirs."""
        with shown_plainly(), self._session._skipping(self._target):
            made = self._session.lab.pod(self._target, name, ports)
            self.others.append(made)
            return Pod(made, partial(self._make, pod=made))

    def kube_play(self, manifest: str | Path) -> list[Machine]:
        """Make the pods of a Kubernetes manifest (text, or a .yaml file); returns the machines in them."""
        with shown_plainly(), self._session._skipping(self._target):
            machines = self._session.lab.kube_play(manifest, self._target)
            self.others += dict.fromkeys(str(machine.spec.pod) for machine in machines)
            self._request.node.stash.setdefault(_MACHINES, []).extend((machine, 0) for machine in machines)
            return machines

    def network(self, name: str = "net", kind: str | None = None) -> Network:
        """Make a network; machines made with ``network=`` it see each other by their own names.

        ``kind`` is ``isolated``, ``nat`` or ``bridge:NAME``, where the system has such kinds.
        """
        with shown_plainly(), self._session._skipping(self._target):
            made = self._session.lab.network(self._target, name, kind)
            self.others.append(made)
            return Network(made, partial(self._session.lab.addresses, made))

    def volume(self, name: str = "vol") -> str:
        """Make an empty volume; mount it with ``volumes=[f"{volume}:/data"]``."""
        with shown_plainly(), self._session._skipping(self._target):
            self.others.append(self._session.lab.volume(self._target, name))
            return self.others[-1]

    def storage(
        self,
        kind: str = "dir",
        source: str | None = None,
        *,
        name: str = "pool",
        user: str | None = None,
        password: str | None = None,
        key: str | None = None,
        initiator: str | None = None,
        node: str | None = None,
    ) -> StoragePool:
        """Make a place for disks, or use one that is there: ``storage("nfs", "host:/export")``.

        ``dir`` takes a directory of the node, or none for one of its own, ``nfs`` ``HOST:/EXPORT``, ``iscsi``
        ``HOST[:PORT]/IQN`` and perhaps a user with a password (CHAP), ``rbd`` ``MONITOR[,MONITOR]/POOL``, a user and a
        key. ``node`` says which of several nodes has the pool.
        """
        with shown_plainly(), self._session._skipping(self._target):
            pool = self._session.lab.storage(
                kind,
                source,
                target=self._target,
                name=name,
                user=user,
                password=password,
                key=key,
                initiator=initiator,
                node=node,
            )
            self.pools.append(pool)
            return pool


def _wishes(node: pytest.Item, usual: str = "test") -> tuple[dict[str, Any], str]:
    """What the marks of a test ask for, nearer marks over farther ones, and its scope; raises `UsageError`."""
    wishes: dict[str, Any] = {}
    for mark in reversed(list(node.iter_markers("machine"))):
        if mark.args:
            raise UsageError(
                f"@pytest.mark.machine{mark.args!r}: wishes need their names", hint="for example image='mini'"
            )
        wishes.update(mark.kwargs)
    scope = wishes.pop("scope", usual)
    if scope not in SCOPES:
        raise UsageError(f"@pytest.mark.machine: scope {scope!r} is not one of {', '.join(SCOPES)}")
    return wishes, scope


def _patterns(item: pytest.Item) -> list[str]:
    """What the marks ``collect`` of a test name; raises `UsageError` for what is no pattern."""
    patterns = [pattern for mark in item.iter_markers("collect") for pattern in mark.args]
    if patterns:
        from .artifacts import Glob

        for pattern in patterns:
            Glob(pattern)
    return patterns


def _build_of(item: pytest.Item) -> Build | None:
    """The build that a test runs with, where it runs once with each of several."""
    parameters: Mapping[str, Any] = item.callspec.params if hasattr(item, "callspec") else {}
    return parameters.get("rexx_build")


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
