"""Virtual machines: from a memory that was saved once, next to booting, and to what the tools themselves do."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial

from pytest_rexxinfra import Lab, Spec
from pytest_rexxinfra.errors import RexxInfraError
from pytest_rexxinfra.machine import Machine
from pytest_rexxinfra.settings import Settings
from pytest_rexxinfra.systems.kvm import KvmDriver

from .bench import IMAGE, Bench
from .measure import Case, Goal, Row, Unmeasured, in_turns
from .raw_virtual import VagrantUp, VirshRestore, pycloudlib

NAME = "kvm"

_TARGET = f"kvm:{IMAGE}"
_FIRST = Goal(500, "ms")
_BOOT = Goal(1 / 8)
_TOGETHER = 8
_SLOW_ROUNDS = 3
"""Of what takes a minute each time."""


def rows(bench: Bench) -> Iterator[Row]:
    with Lab(Settings(target=_TARGET, pool=0)) as lab:
        try:
            _made(lab, "from memory", Spec())
        except RexxInfraError as reason:
            raise Unmeasured(reason.message) from reason
        yield from _first_command(bench, lab)
        yield from _next_command(bench, lab)
        yield from _together(bench, lab)
        yield from _round_trips(lab)
        yield from _peers(bench, lab)


def _first_command(bench: Bench, lab: Lab) -> Iterator[Row]:
    """Clones, booted machines and virsh, in turns."""
    what = "kvm: machine from memory to first command"
    boots = Spec.of(disks=["16m"])
    with ExitStack() as stack:
        cases: dict[str, Case] = {
            "ours": lambda: _made(lab, "from memory", Spec()),
            "booting it": lambda: _made(lab, "booted", boots),
        }
        try:
            saved = stack.enter_context(_machine(lab, boots))
            cases["virsh restore, a command by the agent"] = VirshRestore(saved, bench.folder)
        except Unmeasured as reason:
            yield Row.unmeasured(what, f"virsh restore: {reason}")
        found = in_turns(bench.rounds, cases, what)
    ours = found.pop("ours")
    yield Row(what, str(ours), "", None, _FIRST, ours.median * 1000, ours.quartiles)
    for name, samples in found.items():
        yield Row.compare(what, ours, name, samples, _BOOT if name == "booting it" else None)


def _next_command(bench: Bench, lab: Lab) -> Iterator[Row]:
    """By the shell that the machine keeps, and by the guest agent."""
    with _machine(lab, Spec()) as by_shell, _machine(lab, Spec(channel="agent")) as by_agent:
        what = "kvm: a command in a machine"
        cases: dict[str, Case] = {
            "ours": lambda: by_shell.run("true", check=True),
            "agent": lambda: by_agent.run("true", check=True),
        }
        found = in_turns(bench.rounds, cases, what)
        yield Row.compare(what, found["ours"], "by the guest agent", found["agent"])


def _together(bench: Bench, lab: Lab) -> Iterator[Row]:
    """Machines at once, each with a disk of its own that it writes to."""

    def used(number: int) -> Machine:
        machine = lab.provision()
        text = f"{number} {machine.resource.name}\n"
        machine.write("/root/mine", text)
        assert machine.run("cat /root/mine; sync", check=True).stdout == text
        return machine

    def together() -> float:
        started = time.perf_counter()
        with ThreadPoolExecutor(_TOGETHER) as threads:
            machines = list(threads.map(used, range(_TOGETHER)))
        took = time.perf_counter() - started
        lab.destroy(*machines)
        return took

    def in_sequence() -> float:
        started = time.perf_counter()
        machines = [used(number) for number in range(_TOGETHER)]
        took = time.perf_counter() - started
        lab.destroy(*machines)
        return took

    rounds = max(_SLOW_ROUNDS, bench.rounds // 3)
    what = f"kvm: {_TOGETHER} machines at once, each written to and read from"
    found = in_turns(rounds, {"ours": together, "one after the other": in_sequence}, what)
    yield Row.compare(what, found["ours"], "one after the other", found["one after the other"])
    left = [each for each in lab.driver("kvm").list() if each.run == lab.run_id]
    yield Row("kvm: machines left of those", str(len(left)), "", None, Goal(0, "machines"), len(left))


def _round_trips(lab: Lab) -> Iterator[Row]:
    """How often libvirt is asked."""
    driver = lab.driver("kvm")
    assert isinstance(driver, KvmDriver)

    def asked(what: Callable[[], Machine | None]) -> tuple[Machine | None, int]:
        before = sum(driver.calls().values())
        told = what()
        return told, sum(driver.calls().values()) - before

    machine, made = asked(lab.provision)
    assert machine is not None
    _, used = asked(partial(_run, machine))
    _, removed = asked(partial(_destroyed, lab, machine))
    yield Row("kvm: questions to libvirt: made from memory, a command, removed", f"{made}, {used}, {removed}", "")


def _run(machine: Machine) -> None:
    machine.run("true", check=True)


def _destroyed(lab: Lab, machine: Machine) -> None:
    lab.destroy(machine)


def _peers(bench: Bench, lab: Lab) -> Iterator[Row]:
    """What takes its time, so that there are fewer rounds."""
    what = "kvm: machine from memory to first command"
    ours: dict[str, Case] = {"ours": lambda: _made(lab, "from memory", Spec())}
    with ExitStack() as stack:
        ways: dict[str, Callable[[], Case]] = {
            "vagrant up, vagrant ssh": lambda: _vagrant(bench, stack),
            "pycloudlib, a cloud image boots": lambda: _pycloudlib(bench),
        }
        for name, prepare in ways.items():
            try:
                found = in_turns(_SLOW_ROUNDS, ours | {name: prepare()}, name)
            except Exception as reason:  # whatever a peer raises
                yield Row.unmeasured(what, f"{name}: {' '.join(str(reason).split())}")
            else:
                yield Row.compare(what, found["ours"], name, found[name])


def _vagrant(bench: Bench, stack: ExitStack) -> Case:
    from tests.vagrant_box import box

    vagrant = VagrantUp(box(), bench.folder)
    stack.callback(vagrant.close)
    return vagrant


def _pycloudlib(bench: Bench) -> Case:
    from tests.kvm.cloud_image import cloud_image

    return pycloudlib(cloud_image(), bench.folder)


@contextmanager
def _machine(lab: Lab, spec: Spec) -> Iterator[Machine]:
    machine = lab.provision(_TARGET, spec)
    try:
        yield machine
    finally:
        lab.destroy(machine)


def _made(lab: Lab, how: str, spec: Spec) -> float:
    """Seconds until the first command of a new machine had run; it must have been made as said."""
    started = time.perf_counter()
    with _machine(lab, spec) as machine:
        machine.run("true", check=True)
        took = time.perf_counter() - started
        told = machine.status.details["made"]
        if told != how:
            raise Unmeasured(f"the machine was not made {how}, but {told}")
        return took
