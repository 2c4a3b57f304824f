"""From the wish for a machine to its first command, and to its booted system, next to the tools themselves."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from pytest_rexxinfra import Spec
from pytest_rexxinfra.deadline import Deadline
from pytest_rexxinfra.errors import RexxInfraError

from . import raw
from .bench import IMAGE, Bench
from .measure import Case, Goal, Row, Samples, Unmeasured, in_turns

NAME = "systems"

_FIRST = Goal(1.0)
_BOOTED = Goal(500, "ms")
_BOOT_IMAGE = "debian-12"


def rows(bench: Bench) -> Iterator[Row]:
    for system, ways in _ways(bench).items():
        yield from _compare(bench, f"{system}: machine to first command", lambda: _ours(bench, system), ways)  # noqa: B023
    what = "nspawn: machine to booted (READY=1)"
    rootfs = _rootfs(bench, _BOOT_IMAGE)
    ways = {"overlay, systemd-nspawn --boot": lambda: raw.nspawn_booted(bench.folder, rootfs)}
    yield from _compare(bench, what, lambda: _ours(bench, "nspawn", _BOOT_IMAGE, boot=True), ways, _BOOTED)


def _ways(bench: Bench) -> Mapping[str, Mapping[str, Case]]:
    """How the tools themselves make a machine of each system and run a command in it."""
    rootfs = _rootfs(bench, IMAGE)
    lxc = raw.RawLxc(bench.folder, rootfs)
    return {
        "docker": {"docker run": lambda: raw.container("docker", _image(bench, "docker"), bench.label)},
        "podman": {"podman run": lambda: raw.container("podman", _image(bench, "podman"), bench.label)},
        "nspawn": {
            "overlay, systemd-nspawn": lambda: raw.nspawn(bench.folder, rootfs),
            "the same --network-veth": lambda: raw.nspawn(bench.folder, rootfs, "--network-veth"),
            "systemd-nspawn --volatile=overlay": lambda: raw.nspawn_volatile(rootfs),
        },
        "lxc": {
            "overlay, lxc-execute": lxc.executed,
            "the same with a veth": lambda: lxc.executed("veth"),
            "lxc-copy, lxc-start, lxc-attach": lxc.copied,
        },
        "incus": {"incus launch, exec": lambda: raw.incus(_image(bench, "incus"))},
    }


def _compare(
    bench: Bench, what: str, ours: Callable[[], float], ways: Mapping[str, Case], goal: Goal | None = None
) -> Iterator[Row]:
    """One row for each way that works here; ``goal`` is for our own time, in place of the ratio."""
    works: dict[str, Case] = {"ours": ours}
    try:
        ours()
        for name, way in ways.items():
            try:
                way()
                works[name] = way
            except Unmeasured as reason:
                yield Row.unmeasured(what, f"{name}: {reason}")
    except RexxInfraError as reason:
        yield Row.unmeasured(what, " ".join(str(reason).split()), goal or _FIRST)
        return
    found: Mapping[str, Samples] = in_turns(bench.rounds, works, what)
    for name in [name for name in works if name != "ours"]:
        value = found["ours"].median * 1000 if goal else None
        yield Row.compare(what, found["ours"], name, found[name], goal or _FIRST, value)


def _ours(bench: Bench, system: str, image: str = IMAGE, boot: bool = False) -> float:
    started = time.perf_counter()
    machine = bench.lab.provision(f"{system}:{image}", Spec.of(boot=boot))
    try:
        machine.run("true", check=True)
        return time.perf_counter() - started
    finally:
        bench.lab.destroy(machine)


def _image(bench: Bench, system: str) -> str:
    """What the system itself calls the image that our machines start from."""
    driver = bench.lab.driver(system)
    return driver.prepare(Spec(image=IMAGE), Deadline(600))


def _rootfs(bench: Bench, image: str) -> Path:
    from pytest_rexxinfra.images import ImageStore

    store = ImageStore(events=bench.lab.events)
    recipe = store.find(image)
    assert recipe is not None
    return store.rootfs(store.ensure(recipe, Deadline(600)))
