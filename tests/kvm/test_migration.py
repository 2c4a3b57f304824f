"""A running machine goes on at another node."""

from __future__ import annotations

import re
import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_rexxinfra import Lab
from pytest_rexxinfra.deadline import Deadline
from pytest_rexxinfra.errors import DeadlineExceeded, ProvisionError, UsageError
from pytest_rexxinfra.kvm.domain import NicSource
from pytest_rexxinfra.kvm.machine import VirtualMachine
from pytest_rexxinfra.kvm.migration import for_target, migrate, obstacles
from pytest_rexxinfra.kvm.node import Missing, Node
from pytest_rexxinfra.kvm.placement import Room
from pytest_rexxinfra.model import Phase, Spec
from pytest_rexxinfra.settings import Settings

from . import counting
from .ground import Ground, ground, lease

SPEC = Spec.of(memory=counting.MEMORY, cpus=1)
LIMIT = 120
PAUSED = 3
"""virDomainState"""

POOL = f"<pool type='dir'><name>images</name><target><path>{counting.IMAGES}</path></target></pool>"
MIGRATE = """
import sys
from pytest_rexxinfra.deadline import Deadline
from pytest_rexxinfra.kvm.migration import migrate
from pytest_rexxinfra.kvm.node import Node

def tell(done, total):
    print(done, flush=True)

migrate(Node(sys.argv[1]), Node(sys.argv[2]), sys.argv[3], Deadline(120), copy_disks=False, on_progress=tell)
"""


@pytest.fixture(scope="module")
def shared() -> Iterator[Ground]:
    """Two nodes that see the same images."""
    with ground() as there:
        yield there


@pytest.fixture(scope="module")
def apart() -> Iterator[Ground]:
    """Two nodes with images of their own, in pools."""
    with ground(shared=False) as there:
        for node in there.nodes:
            node.ask(node.ask(node.connection.storagePoolDefineXML, POOL).create)
        yield there


@pytest.fixture(scope="module")
def guest(shared: Ground) -> Counter:
    """One that stays where it is."""
    return Counter(shared)


class Counter:
    """A guest on node ``a`` that counts on its console and its disk, and what it has printed on whichever node.

    Its disk lies over the file ``backing`` of the images of that node, if one is named.
    """

    def __init__(self, there: Ground, backing: str | None = None, nic: NicSource = counting.NIC) -> None:
        self.there = there
        self.resource = lease("count", there.nodes["a"])
        self.name = self.resource.name
        counting.disk(there.images("a"), self.name, backing)
        counting.start(there.nodes["a"], replace(counting.domain(self.name, disks=True), nics=[nic]))
        self.counts_on()

    def consoles(self) -> list[Path]:
        """Its console on the nodes; once, if they share it."""
        return [each for each in self.files("log") if each.exists()]

    def files(self, ending: str) -> list[Path]:
        return [*{self.there.images(node) / f"{self.name}.{ending}": None for node in self.there.hosts}]

    def lines(self) -> list[int]:
        return counting.lines(*self.consoles())

    def counts_on(self, more: int = 20) -> None:
        wanted = len(self.lines()) + more
        Deadline(LIMIT).wait_for(lambda: len(self.lines()) >= wanted, "the guest counts on")

    def is_on(self) -> list[str]:
        """The nodes that run it."""
        running = []
        for node in self.there.nodes:
            node.know(self.name, None)
            with suppress(Missing):
                running += [node.name] * node.ask(node.domain(self.name).isActive)
        return running

    def ended(self) -> list[int]:
        """End it, and say what it printed."""
        for name in self.is_on():
            node = self.there.nodes[name]
            node.ask(node.domain(self.name).destroy)
        return self.lines()

    def goes_on_at(self, node: str) -> None:
        """It is there and nowhere else, and no line of it is missing, or there twice."""
        self.counts_on()
        assert self.is_on() == [node]
        numbers = self.lines()
        assert numbers == whole(numbers)


def whole(numbers: list[int]) -> list[int]:
    return [*range(1, len(numbers) + 1)]


def pair(there: Ground) -> tuple[Node, Node]:
    return there.nodes["a"], there.nodes["b"]


def test_a_guest_goes_there_and_back_and_no_line_is_lost(shared: Ground, tmp_path: Path) -> None:
    guest = Counter(shared)
    told: list[tuple[int, int]] = []
    there, moved = shared.nodes.migrate(
        guest.resource, SPEC, Deadline(LIMIT), on_progress=lambda done, total: told.append((done, total))
    )
    assert there.id == guest.there.nodes["b"].uri
    assert guest.is_on() == ["b"]
    assert 0 < moved.downtime <= moved.seconds
    assert moved.live == (shared.nodes["a"].connection.getVersion() >= 9_000_000)
    assert moved.sent > 0
    assert moved.copied == ()
    assert told[-1][0] > 0
    guest.counts_on()
    back, _ = shared.nodes.migrate(there, SPEC, Deadline(LIMIT), to="a")
    assert back.id == guest.resource.id
    guest.counts_on()
    assert guest.is_on() == ["a"]
    numbers = guest.ended()
    assert numbers == whole(numbers)
    written = counting.lines_on(shared.images("a") / f"{guest.name}.qcow2", tmp_path)
    assert written == whole(written)
    assert len(written) >= len(numbers) - 1
    print(f"migration {moved.seconds:.1f} s, downtime {moved.downtime * 1000:.0f} ms, {moved.sent >> 20} MiB")


def test_disks_go_along_where_storage_is_not_shared(apart: Ground, tmp_path: Path) -> None:
    counting.disk(apart.images("a"), "below")
    guest = Counter(apart, backing="below.qcow2")
    for node, label in zip(apart.nodes.addresses.values(), "ab", strict=True):
        apart.nodes.addresses[node.name] = replace(node, labels={"storage": label})
    there, moved = apart.nodes.migrate(guest.resource, SPEC, Deadline(LIMIT))
    assert there.id == guest.there.nodes["b"].uri
    assert moved.copied == (str(counting.IMAGES / f"{guest.name}.qcow2"),)
    guest.counts_on()
    assert guest.is_on() == ["b"]
    numbers = guest.ended()
    assert numbers == whole(numbers)
    # The layer below stayed where it was, and is not needed any more.
    assert not (apart.images("b") / "below.qcow2").exists()
    written = counting.lines_on(apart.images("b") / f"{guest.name}.qcow2", tmp_path)
    assert written == whole(written)
    assert len(written) >= len(numbers) - 1


def test_what_takes_too_long_is_undone(apart: Ground) -> None:
    guest = Counter(apart)
    began: list[int] = []

    def halt(done: int, total: int) -> None:
        # Once data flows, no more than this many bytes a second may.
        if not began:
            began.append(done)
            source.ask(source.domain(guest.name).migrateSetMaxSpeed, 1)

    source, target = pair(apart)
    with pytest.raises(DeadlineExceeded, match="the migration: not done after 3 s"):
        migrate(source, target, guest.name, Deadline(3), copy_disks=True, on_progress=halt)
    assert began
    assert not guest.files("qcow2")[1].exists()
    guest.goes_on_at("a")


def test_the_guest_goes_on_when_the_target_dies_on_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    with ground() as there:
        guest = Counter(there)
        source, target = pair(there)
        with pytest.raises(ProvisionError, match="cannot go from a to b; it goes on there") as caught:
            migrate(
                source,
                target,
                guest.name,
                Deadline(LIMIT),
                copy_disks=False,
                on_progress=lambda done, _: there.hosts["b"].kill() if done else None,
            )
        assert caught.value.output
        there.nodes["b"].close()
        there.hosts["b"].start()
        guest.goes_on_at("a")


def test_the_guest_goes_on_when_who_moves_it_is_killed(shared: Ground, guest: Counter) -> None:
    command = [sys.executable, "-c", MIGRATE, shared.hosts["a"].uri, shared.hosts["b"].uri, guest.name]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as mover:
        assert mover.stdout is not None
        assert any(int(line) > 0 for line in mover.stdout)
        mover.kill()
    Deadline(LIMIT).wait_for(lambda: guest.is_on() == ["a"] and not on_target(guest), "the target is empty")
    guest.goes_on_at("a")


def on_target(guest: Counter) -> bool:
    target = guest.there.nodes["b"]
    return guest.name in {each.name() for each in target.ask(target.connection.listAllDomains)}


def refused(guest: Counter, why: str, **how: Any) -> str:
    """Moving it to b is refused for this reason, and it goes on; returns the whole story."""
    with pytest.raises(ProvisionError, match="cannot go from a to b; it goes on there") as caught:
        migrate(*pair(guest.there), guest.name, Deadline(LIMIT), **{"copy_disks": False, **how})
    assert why in str(caught.value.output)
    assert caught.value.hint
    guest.goes_on_at("a")
    return str(caught.value)


def test_a_node_without_the_files(apart: Ground) -> None:
    refused(Counter(apart), "No such file or directory")


def test_a_node_without_the_pool(apart: Ground) -> None:
    target = apart.nodes["b"]
    pool = target.ask(target.connection.storagePoolLookupByName, "images")
    target.ask(pool.destroy)
    try:
        refused(Counter(apart), "no storage pool with matching target path", copy_disks=True)
    finally:
        target.ask(pool.create)


def test_a_node_without_the_network(shared: Ground) -> None:
    source = shared.nodes["a"]
    network = source.ask(source.connection.networkCreateXML, "<network><name>only-here</name></network>")
    try:
        guest = Counter(shared, nic=NicSource("network", counting.NIC.mac, "only-here"))
        refused(guest, "b has no network only-here")
        guest.ended()
    finally:
        source.ask(network.destroy)


def test_a_node_without_the_bridge(shared: Ground) -> None:
    bridge = f"rxb{secrets.token_hex(4)}"
    subprocess.run(["ip", "link", "add", bridge, "type", "bridge"], check=True)
    try:
        guest = Counter(shared, nic=NicSource("bridge", counting.NIC.mac, bridge))
        refused(guest, "no-such-bridge", prepare=lambda xml: for_target(xml).replace(bridge, "no-such-bridge"))
        guest.ended()
    finally:
        subprocess.run(["ip", "link", "delete", bridge], check=True)


def test_a_node_without_the_kind_of_machine(shared: Ground, guest: Counter) -> None:
    source, target = pair(shared)
    xml = source.ask(source.domain(guest.name).XMLDesc)
    other = re.sub(r"machine='[^']*'", "machine='pc-q35-99.0'", xml)
    [told] = obstacles(source, target, guest.name, other)
    assert told.startswith("b has no pc-q35-99.0 for x86_64 (qemu): ")
    assert [*obstacles(source, target, guest.name, xml)] == []


def test_a_node_that_has_one_of_that_name(shared: Ground, guest: Counter) -> None:
    target = shared.nodes["b"]
    stranger = target.ask(target.connection.defineXML, counting.domain(guest.name).xml())
    try:
        with pytest.raises(ProvisionError, match="it goes on there") as caught:
            migrate(*pair(shared), guest.name, Deadline(LIMIT), copy_disks=False)
        assert caught.value.output == "b has a machine of that name"
        assert target.ask(target.connection.listAllDomains)
    finally:
        target.ask(stranger.undefine)
        target.know(guest.name, None)
    guest.goes_on_at("a")


def test_a_node_without_room(shared: Ground, guest: Counter, monkeypatch: pytest.MonkeyPatch) -> None:
    total = shared.nodes.look(shared.nodes["b"]).memory_total
    monkeypatch.setattr(shared.nodes, "room", Room(keeps=total - counting.MEMORY // 2))
    with pytest.raises(ProvisionError, match="no node can take the machine") as caught:
        shared.nodes.migrate(guest.resource, SPEC, Deadline(LIMIT))
    assert "a: the machine is there now" in str(caught.value.output)
    assert "b: 128 MiB of memory is wanted, 64 MiB is left" in str(caught.value.output)
    guest.goes_on_at("a")


def test_what_cannot_be_moved(shared: Ground) -> None:
    machine = lease("off", shared.nodes["a"])
    off = counting.domain(machine.name)
    source, target = pair(shared)
    domain = source.ask(source.connection.defineXML, off.xml())
    try:
        with pytest.raises(UsageError, match="does not run"):
            migrate(source, target, machine.name, Deadline(LIMIT), copy_disks=False)
    finally:
        source.ask(domain.undefine)
        source.know(machine.name, None)
    with pytest.raises(Missing):
        migrate(source, target, machine.name, Deadline(LIMIT), copy_disks=False)
    with pytest.raises(UsageError, match="is on a already"):
        shared.nodes.migrate(machine, SPEC, Deadline(LIMIT), to="a")
    with pytest.raises(UsageError, match="there is no node 'c'"):
        shared.nodes.migrate(machine, SPEC, Deadline(LIMIT), to="c")


def test_a_guest_that_is_paused_stays_so(apart: Ground) -> None:
    guest = Counter(apart)
    source, target = pair(apart)
    source.ask(source.domain(guest.name).suspend)
    migrate(source, target, guest.name, Deadline(LIMIT), copy_disks=True)
    there = target.domain(guest.name)
    assert target.ask(there.info)[0] == PAUSED
    target.ask(there.resume)
    guest.goes_on_at("b")
    guest.ended()


def test_a_guest_that_is_paused_stays_where_it_is_on_one_computer(shared: Ground) -> None:
    guest = Counter(shared)
    source, target = pair(shared)
    source.ask(source.domain(guest.name).suspend)
    with pytest.raises(UsageError, match="a paused machine stays where it is"):
        migrate(source, target, guest.name, Deadline(LIMIT), copy_disks=False)
    source.ask(source.domain(guest.name).resume)
    guest.goes_on_at("a")
    guest.ended()


def test_a_defined_machine_is_defined_at_the_target(shared: Ground) -> None:
    guest = Counter(shared)
    source, target = pair(shared)
    source.ask(source.connection.defineXML, source.ask(source.domain(guest.name).XMLDesc))
    migrate(source, target, guest.name, Deadline(LIMIT), copy_disks=False)
    assert target.ask(target.domain(guest.name).isPersistent)
    guest.goes_on_at("b")
    assert guest.name not in {each.name() for each in source.ask(source.connection.listAllDomains)}
    guest.ended()
    target.ask(target.domain(guest.name).undefine)


LINES = 60
SCRIPT = f"""
DO i = 1 TO {LINES}
  SAY 'line' i
  IF i = 5 THEN SAY 'CHECKPOINT GO'
  ADDRESS SYSTEM 'sleep 0.1'
END
"""


@pytest.mark.parametrize("storage", ["shared", "apart"])
def test_a_running_script_is_moved_and_no_line_of_it_is_lost(
    storage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REXX_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("REXX_LEDGER", str(tmp_path / "ledger"))
    given: dict[str, Any] = {}
    with ground(shared=storage == "shared") as there:
        target = f"kvm://{','.join(f'{host.name}={host.uri}' for host in there.hosts.values())}"
        if storage == "apart":
            nodes = {host.name: {"uri": host.uri, "labels": {"storage": host.name}} for host in there.hosts.values()}
            target = "kvm://" + ",".join(nodes)
            given["kvm_nodes"] = nodes
        settings = {**given, "target": target, "timeout": 120, "provision_timeout": 300, "kvm_acceleration": "tcg"}
        with Lab(Settings.load(settings)) as lab:
            machine = lab.provision()
            assert isinstance(machine, VirtualMachine)
            assert machine.node == "a"
            told = []
            with machine.rexx.stream(SCRIPT) as running:
                for checkpoint in running:
                    assert checkpoint.name == "GO"
                    for node in ["b", *(["a"] if storage == "shared" else [])]:
                        moved = machine.migrate(node)
                        assert machine.node == node
                        told.append(f"{moved.seconds:.1f} s, downtime {moved.downtime * 1000:.0f} ms")
                    assert running.running
                result = running.result.check()
            assert [line for line in result.lines if line.startswith("line")] == [
                f"line {number}" for number in range(1, LINES + 1)
            ]
            assert machine.status.phase is Phase.RUNNING
            assert machine.status.details["node"] == node
            assert machine.run("echo still here", check=True).stdout == "still here\n"
            assert [each.id for each in machine.driver.list()] == [there.hosts[node].uri]
            print(f"{lab.build.label}, {machine.status.details['made']}, storage {storage}: {'; '.join(told)}")
            lab.destroy(machine)
        for each in there.nodes:
            assert each.ask(each.connection.listAllDomains) == []
