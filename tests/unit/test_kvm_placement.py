"""On which node a machine is put."""

from __future__ import annotations

import pytest

from pytest_rexxinfra.errors import ProvisionError, UsageError
from pytest_rexxinfra.kvm.placement import MachineInfo, NodeInfo, Room, choose
from pytest_rexxinfra.model import Placement, Spec

GIB = 1 << 30
ROOM = Room(keeps=0)


def machines(count: int, memory: int = GIB, **labels: str) -> list[MachineInfo]:
    return [MachineInfo(f"m{number}", memory, 1, labels) for number in range(count)]


def node(name: str, there: list[MachineInfo] | None = None, **labels: str) -> NodeInfo:
    return NodeInfo(name, f"qemu+ssh://{name}/system", labels, 4, 8 * GIB, 6 * GIB, there or [])


def spec(policy: str = "spread", **more: object) -> Spec:
    wishes = {name: more.pop(name) for name in ("memory", "cpus", "labels") if name in more}
    return Spec.of(placement={"policy": policy, **more}, **{"memory": "1g", "cpus": 1, **wishes})


def refused(wanted: Spec, *nodes: NodeInfo, room: Room = ROOM) -> str:
    with pytest.raises(ProvisionError) as caught:
        choose(wanted, nodes, room)
    assert caught.value.hint
    return str(caught.value.output)


def test_spread_takes_the_node_where_fewest_run_and_pack_that_where_most_do() -> None:
    nodes = [node("a", machines(1)), node("b"), node("c", machines(2))]
    assert choose(spec("spread"), nodes, ROOM).name == "b"
    assert choose(spec("pack"), nodes, ROOM).name == "c"
    assert choose(Spec.of(memory="1g"), nodes, ROOM).name == "b"


def test_among_equals_it_is_the_first() -> None:
    nodes = [node("z", machines(1)), node("a", machines(1)), node("c", machines(1))]
    assert {choose(spec(policy), nodes, ROOM).name for policy in ("spread", "pack") for _ in range(3)} == {"z"}


def test_machines_that_are_only_defined_take_room_and_do_not_run() -> None:
    off = [MachineInfo(f"off{number}", GIB, 1, state="shut off") for number in range(4)]
    nodes = [node("a", off), node("b", machines(1))]
    assert choose(spec("spread"), nodes, ROOM).name == "a"
    assert choose(spec("spread", memory="5g"), nodes, ROOM).name == "b"


def test_pack_goes_on_to_the_next_node_when_one_is_full() -> None:
    full = node("a", machines(8))
    assert choose(spec("pack"), [full, node("b", machines(1)), node("c")], ROOM).name == "b"


def test_machines_that_are_about_to_be_made_count() -> None:
    reserved = [MachineInfo("r", GIB, 1, state="reserved")]
    assert choose(spec("spread"), [node("a", reserved), node("b")], ROOM).name == "b"


def test_labels_and_a_name_choose_the_node() -> None:
    nodes = [node("a", disk="hdd"), node("b", disk="ssd", zone="1"), node("c", machines(1), disk="ssd", zone="2")]
    assert choose(spec(node="c"), nodes, ROOM).name == "c"
    wanted = Spec.of(memory="1g", placement=Placement(labels={"disk": "ssd", "zone": "2"}))
    assert choose(wanted, nodes, ROOM).name == "c"
    told = refused(Spec.of(placement=Placement(labels={"disk": "tape"})), *nodes)
    assert "a: disk=tape is wanted, it has disk=hdd" in told
    told = refused(Spec.of(placement=Placement(labels={"gpu": "1"})), *nodes)
    assert "b: gpu=1 is wanted, it has no label gpu" in told


def test_machines_that_are_to_be_apart() -> None:
    nodes = [node("a", machines(1, role="db")), node("b", machines(3, role="web")), node("c", machines(4, role="db"))]
    wanted = spec("spread", apart="role", labels={"role": "db"})
    assert choose(wanted, nodes, ROOM).name == "b"
    assert "m0 is there, with the same role=db" in refused(wanted, nodes[0], nodes[2])
    with pytest.raises(UsageError, match="'role', which it has not"):
        choose(spec(apart="role"), nodes, ROOM)


def test_memory_is_given_once() -> None:
    one = node("a", machines(7))
    assert choose(spec(), [one], ROOM).name == "a"
    told = refused(spec(memory="1500m"), one)
    assert told == "a: 1.5 GiB of memory is wanted, 1.0 GiB is left: its 7 machines have 7.0 GiB of 8.0 GiB"
    assert choose(spec(memory="1500m"), [one], Room(memory=1.5, keeps=0)).name == "a"
    assert "512 MiB is left" in refused(spec(), one, room=Room(keeps=GIB // 2))


def test_memory_that_others_use_is_not_given() -> None:
    assert refused(spec(memory="7g"), node("a")) == "a: 7.0 GiB of memory is wanted, 6.0 GiB is free now"


def test_processors_are_given_several_times() -> None:
    one = node("a", machines(7))
    assert choose(spec(cpus=1), [one], Room(cpus=2, keeps=0)).name == "a"
    told = refused(spec(cpus=1.5), one, room=Room(cpus=2, keeps=0))
    assert told == "a: 2 CPUs are wanted: its machines have 7 of 8, which is 4 times 2"


def test_a_dead_node_is_passed_over_and_told() -> None:
    dead = NodeInfo("a", "qemu+ssh://a/system", alive=False, reason="connection refused")
    assert choose(spec(), [dead, node("b")], ROOM).name == "b"
    assert refused(spec(), dead, node("b", machines(8))).splitlines()[0] == "a: connection refused"


def test_the_refusal_tells_of_each_node() -> None:
    nodes = [node("a", machines(8)), node("b", disk="hdd")]
    told = refused(Spec.of(memory="1g", placement=Placement(labels={"disk": "ssd"})), *nodes)
    assert [line.partition(":")[0] for line in told.splitlines()] == ["a", "b"]


def test_an_unknown_node_is_the_users_mistake() -> None:
    with pytest.raises(UsageError, match="there is no node 'x'") as caught:
        choose(spec(node="x"), [node("a"), node("b")], ROOM)
    assert "a, b" in str(caught.value.hint)


def test_nodes_to_avoid() -> None:
    nodes = [node("a"), node("b", machines(1))]
    assert choose(spec(), nodes, ROOM, avoid={"a": "it is there"}).name == "b"
    with pytest.raises(ProvisionError) as caught:
        choose(spec(node="a"), nodes, ROOM, avoid={"a": "it is there"})
    assert str(caught.value.output).splitlines() == ["a: it is there", "b: the machine is to be on a"]
