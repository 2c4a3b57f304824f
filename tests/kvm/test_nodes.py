"""Several libvirt hosts as one target."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_rexxinfra.deadline import Deadline
from pytest_rexxinfra.errors import ProvisionError, RexxInfraError, SystemUnavailable, UsageError
from pytest_rexxinfra.kvm.address import NodeAddress
from pytest_rexxinfra.kvm.node import Node
from pytest_rexxinfra.kvm.nodes import Lost, Nodes
from pytest_rexxinfra.kvm.placement import Room
from pytest_rexxinfra.model import Placement, Resource, Spec
from tests.storage_servers import free_port, listens

from . import counting
from .ground import Ground, hosts, lease

SPEC = Spec.of(memory=counting.MEMORY, cpus=1)
HOLDER = """
import sys
from pytest_rexxinfra.deadline import Deadline
from pytest_rexxinfra.kvm.address import NodeAddress
from pytest_rexxinfra.kvm.nodes import Nodes
from pytest_rexxinfra.model import Kind, Resource, Spec

nodes = Nodes([NodeAddress(*text.split("=", 1)) for text in sys.argv[1:]])
lease = Resource.lease_for("kvm", Kind.MACHINE, "run")
with nodes.place(lease, Spec.of(memory="128m"), Deadline(30)) as node:
    print(node.name, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def ground(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ground]:
    monkeypatch.setenv("REXX_STATE", f"{tmp_path}/state")
    with hosts("a", "b") as made:
        there = Ground(made)
        yield there
        there.nodes.close()


def define(node: Node, machine: Resource, spec: Spec, _: Deadline) -> Resource:
    counting.define(node, counting.domain(machine.name, labels=spec.labels))
    return replace(machine, id=node.uri)


def start(node: Node, machine: Resource, spec: Spec, _: Deadline) -> Resource:
    counting.start(node, counting.domain(machine.name, labels=spec.labels))
    return replace(machine, id=node.uri)


def put(nodes: Nodes, spec: Spec = SPEC, name: str = "web") -> Resource:
    machine = lease(name)
    with nodes.place(machine, spec, Deadline(60)) as node:
        return define(node, machine, spec, Deadline(60))


def on(nodes: Nodes, machine: Resource) -> str:
    """The node that a machine was put on."""
    return nodes.of(machine).name


def room_for(nodes: Nodes, machines: int) -> Room:
    """So much that each node takes so many."""
    total = nodes.look(next(iter(nodes))).memory_total
    return Room(keeps=total - machines * counting.MEMORY)


def test_the_inventory_tells_what_nodes_have_and_what_is_on_them(ground: Ground) -> None:
    a, b = ground.nodes
    running, off = lease("one"), lease("two")
    start(a, running, SPEC.but(labels={"role": "db"}), Deadline(60))
    define(b, off, SPEC.but(memory=2 * counting.MEMORY), Deadline(60))
    counting.define(b, counting.domain("not-ours"), memory=3 * counting.MEMORY)
    one, two = ground.nodes.inventory()
    assert (one.name, one.alive, one.reason, dict(one.labels)) == ("a", True, None, {"host": "a"})
    assert one.cpus >= 1
    assert counting.MEMORY < one.memory_free <= one.memory_total
    [there] = one.machines
    assert (there.name, there.memory, there.cpus, there.state) == (running.name, counting.MEMORY, 1, "running")
    assert there.labels == {"role": "db"}
    assert {(each.name, each.memory, each.state) for each in two.machines} == {
        (off.name, counting.MEMORY, "shut off"),
        ("not-ours", 3 * counting.MEMORY, "shut off"),
    }
    before = a.calls.total()
    ground.nodes.inventory()
    assert a.calls.total() - before == 3


def test_policies_on_real_nodes(ground: Ground) -> None:
    machines = []
    for _ in range(3):
        machine = lease("m")
        with ground.nodes.place(machine, SPEC, Deadline(60)) as node:
            machines.append(start(node, machine, SPEC, Deadline(60)))
    assert [on(ground.nodes, each) for each in machines] == ["a", "b", "a"]
    packed = SPEC.but(placement=Placement("pack"))
    assert on(ground.nodes, put(ground.nodes, packed)) == "a"
    assert on(ground.nodes, put(ground.nodes, SPEC.but(placement=Placement("pack", labels={"host": "b"})))) == "b"
    apart = SPEC.but(placement=Placement("pack", apart="role"), labels={"role": "db"})
    assert [on(ground.nodes, put(ground.nodes, apart)) for _ in range(2)] == ["a", "b"]
    with pytest.raises(ProvisionError, match="with the same role=db") as caught:
        put(ground.nodes, apart)
    assert "b: rexx-web-" in str(caught.value)


def test_nodes_are_never_overfilled_by_machines_that_are_made_at_once(ground: Ground) -> None:
    ground.nodes.room = room_for(ground.nodes, 2)

    def make(_: int) -> str:
        try:
            return on(ground.nodes, put(ground.nodes))
        except ProvisionError as error:
            return str(error.output)

    with ThreadPoolExecutor(7) as pool:
        made = list(pool.map(make, range(7)))
    assert sorted(each for each in made if len(each) == 1) == ["a", "a", "b", "b"]
    full = [each for each in made if len(each) > 1]
    assert len(full) == 3
    assert all("128 MiB of memory is wanted, 0 MiB is left" in each for each in full)


def test_what_another_process_is_making_counts_until_that_dies(ground: Ground) -> None:
    words = [f"{host.name}={host.uri}" for host in ground.hosts.values()]
    ground.nodes.room = room_for(ground.nodes, 1)
    command = [sys.executable, "-c", HOLDER, *words]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "a\n"
        assert on(ground.nodes, put(ground.nodes)) == "b"
        with pytest.raises(ProvisionError, match="no node can take the machine"):
            put(ground.nodes)
        other.kill()
    assert on(ground.nodes, put(ground.nodes)) == "a"


def test_a_machine_that_could_not_be_made_takes_no_room(ground: Ground) -> None:
    ground.nodes.room = room_for(ground.nodes, 1)
    for _ in range(3):
        machine = lease()
        with (
            pytest.raises(RexxInfraError, match="os <type> must be specified"),
            ground.nodes.place(machine, SPEC, Deadline(60)) as node,
        ):
            node.ask(node.connection.defineXML, "<domain type='qemu'><name>x</name></domain>")
    assert [on(ground.nodes, put(ground.nodes)) for _ in range(2)] == ["a", "b"]


def test_the_machines_of_a_dead_node_are_told_and_made_anew_when_asked(ground: Ground) -> None:
    nodes = ground.nodes
    spec = SPEC.but(labels={"role": "db"})
    machines = []
    for name in ("one", "two"):
        machine = lease(name)
        with nodes.place(machine, spec, Deadline(60)) as node:
            machines.append(start(node, machine, spec, Deadline(60)))
    stays, goes = machines
    assert (on(nodes, stays), on(nodes, goes)) == ("a", "b")
    assert nodes.lost(machines) == []
    assert ground.hosts["b"].processes("qemu")
    ground.hosts["b"].kill()
    alive, dead = nodes.inventory()
    assert alive.alive
    assert not dead.alive
    assert "Connection refused" in str(dead.reason)
    [lost] = nodes.lost(machines)
    assert (lost.machine, lost.node) == (goes, "b")
    assert "node b: libvirt refuses" in lost.reason
    again = nodes.replace(lost, spec, start, Deadline(60))
    assert (again.name, again.lease, on(nodes, again)) == (goes.name, goes.lease, "a")
    assert {each.name for each in nodes.inventory()[0].machines} == {stays.name, goes.name}
    assert nodes.lost([stays, again]) == []
    with pytest.raises(ProvisionError, match="is not lost"):
        nodes.replace(Lost(stays, "a", "a guess"), spec, start, Deadline(60))


def test_a_lost_machine_stays_lost_when_its_placement_allows_no_other_node(ground: Ground) -> None:
    spec = SPEC.but(placement=Placement(node="b"))
    machine = put(ground.nodes, spec)
    ground.hosts["b"].kill()
    [lost] = ground.nodes.lost([machine])
    with pytest.raises(ProvisionError, match="no node can take") as caught:
        ground.nodes.replace(lost, spec, define, Deadline(60))
    assert "a: the machine is to be on b" in str(caught.value.output)
    assert "b: libvirt refuses" in str(caught.value.output)
    assert ground.nodes.look(ground.nodes["a"]).machines == []


def test_a_node_that_came_back_without_its_machines(ground: Ground) -> None:
    machine = lease()
    machine = start(ground.nodes["b"], machine, SPEC, Deadline(60))
    ground.hosts["b"].kill()
    ground.hosts["b"].start()
    [lost] = ground.nodes.lost([machine])
    assert "b has no such machine" in lost.reason
    again = ground.nodes.replace(lost, SPEC.but(placement=Placement(node="b")), start, Deadline(60))
    assert on(ground.nodes, again) == "b"


def test_a_node_that_does_not_answer_holds_nobody_up(ground: Ground) -> None:
    nodes = Nodes([*ground.nodes.addresses.values()], patience=1.0)
    assert [each.alive for each in nodes.inventory()] == [True, True]
    ground.hosts["b"].freeze()
    try:
        began = time.monotonic()
        _, silent = nodes.inventory()
        first = time.monotonic() - began
        assert not silent.alive
        assert "does not answer within 1 s" in str(silent.reason)
        began = time.monotonic()
        assert [on(nodes, put(nodes)) for _ in range(3)] == ["a", "a", "a"]
        assert time.monotonic() - began < first + 3
        new = Nodes([ground.nodes.addresses["b"]], patience=1.0)
        assert not new.inventory()[0].alive
    finally:
        ground.hosts["b"].thaw()
        nodes.close()
    assert ground.nodes.inventory()[1].alive


def test_a_call_to_a_node_that_stops_answering_ends_by_itself(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pytest_rexxinfra.kvm.node._KEEPALIVE_HERE", (1, 2))
    node = Node(ground.hosts["b"].uri, "b")
    assert node.connection
    ground.hosts["b"].freeze()
    try:
        with pytest.raises(SystemUnavailable, match="the connection to libvirt broke"):
            node.ask(node.connection.listAllDomains)
    finally:
        ground.hosts["b"].thaw()
    assert node.ask(node.connection.listAllDomains) == []
    node.close()


def test_a_connection_is_let_go_while_others_use_it(ground: Ground) -> None:
    node = ground.nodes["a"]
    done = threading.Event()

    def ask() -> int:
        asked = 0
        while not done.is_set():
            asked += len(node.ask(node.connection.listAllDomains)) + 1
        return asked

    with ThreadPoolExecutor(4) as pool:
        asking = [pool.submit(ask) for _ in range(4)]
        for _ in range(100):
            node.close()
            time.sleep(0.005)
        done.set()
        assert all(each.result(60) > 0 for each in asking)


def test_a_host_that_is_not_there(ground: Ground) -> None:
    nodes = Nodes([ground.nodes.addresses["a"], NodeAddress("far", "qemu+ssh://rexxinfra.invalid/system")])
    here, far = nodes.inventory()
    assert here.alive
    assert not far.alive
    assert "rexxinfra.invalid" in str(far.reason)
    assert on(nodes, put(nodes)) == "a"
    nodes.close()


@pytest.fixture
def ssh(tmp_path: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """The words of a URI that lead over an SSH server of this computer, and that server."""
    if not shutil.which("sshd", path="/usr/sbin:/usr/bin"):
        pytest.skip("no sshd here")
    Path("/run/sshd").mkdir(exist_ok=True)
    port = free_port()
    for key in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / key], check=True)
    server = f"-p {port} -h {tmp_path}/host -o AuthorizedKeysFile={tmp_path}/user.pub -o StrictModes=no -o UsePAM=no"
    client = f"-i {tmp_path}/user -o UserKnownHostsFile={tmp_path}/known -o StrictHostKeyChecking=accept-new"
    words = ["/usr/sbin/sshd", "-D", "-f", "/dev/null", "-o", "ListenAddress=127.0.0.1", *server.split()]
    (tmp_path / "ssh").write_text(f'#!/bin/sh\nexec ssh -F none {client} "$@"\n')
    (tmp_path / "ssh").chmod(0o755)
    with subprocess.Popen(words, stderr=subprocess.DEVNULL) as running:
        Deadline(20).wait_for(lambda: listens(port), "sshd")
        yield f"root@127.0.0.1:{port}/system?command={tmp_path}/ssh", running
        running.kill()


def test_a_node_over_ssh(node: Node, ssh: tuple[str, subprocess.Popen[bytes]]) -> None:
    address, server = ssh
    nodes = Nodes([NodeAddress("far", f"qemu+ssh://{address}")], patience=20)
    [far] = nodes.inventory()
    assert far.alive, far.reason
    assert far.cpus == node.connection.getInfo()[2]
    assert not nodes["far"].local
    sessions = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()
    assert sessions
    server.kill()
    for each in sessions:
        os.kill(int(each), signal.SIGKILL)
    [far] = nodes.inventory()
    assert not far.alive
    assert "Connection refused" in str(far.reason)
    nodes.close()


def test_unknown_nodes(ground: Ground) -> None:
    with pytest.raises(UsageError, match="there is no node 'c'"):
        ground.nodes["c"]
    stranger = lease(node=Node("qemu+ssh://far/system"))
    with pytest.raises(UsageError, match=r"at qemu.*far/system, which is none of these nodes"):
        ground.nodes.of(stranger)
    assert ground.nodes.of(lease(node=ground.nodes["b"])).name == "b"
    assert ground.nodes.lost([stranger, lease()]) == []
