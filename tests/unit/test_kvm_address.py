"""What kvm://… means."""

from __future__ import annotations

import pytest

from pytest_rexxinfra.errors import UsageError
from pytest_rexxinfra.kvm.address import NodeAddress, declared, resolve
from pytest_rexxinfra.target import Target, parse_targets

SYSTEMS = ["docker", "kvm", "local", "ssh"]


@pytest.mark.parametrize(
    ("text", "name", "uri"),
    [
        ("system", "system", "qemu:///system"),
        ("session", "session", "qemu:///session"),
        ("host1", "host1", "qemu+ssh://host1/system"),
        ("root@host1:2222", "host1", "qemu+ssh://root@host1:2222/system"),
        ("[::1]", "::1", "qemu+ssh://[::1]/system"),
        ("qemu+ssh://root@h.example/system", "h.example", "qemu+ssh://root@h.example/system"),
        ("qemu:///session", "session", "qemu:///session"),
        ("qemu+unix:///system?socket=/run/x", "system", "qemu+unix:///system?socket=/run/x"),
        ("b=qemu+unix:///system?socket=/run/x%2Cy", "b", "qemu+unix:///system?socket=/run/x%2Cy"),
        ("b=root@host1", "b", "qemu+ssh://root@host1/system"),
        ("test:///default", "default", "test:///default"),
    ],
)
def test_nodes(text: str, name: str, uri: str) -> None:
    node = NodeAddress.parse(text)
    assert (node.name, node.uri, node.labels) == (name, uri, {})


def test_labels() -> None:
    one, two = resolve("host1/disk=ssd/zone=a, b=session/zone=b")
    assert one == NodeAddress("host1", "qemu+ssh://host1/system", {"disk": "ssd", "zone": "a"})
    assert two == NodeAddress("b", "qemu:///session", {"zone": "b"})


def test_an_address_that_is_left_out_is_the_computers_own_libvirt() -> None:
    assert resolve(None) == resolve("system") == (NodeAddress("system", "qemu:///system"),)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("host1,", "between two commas"),
        ("a,,b", "between two commas"),
        ("host1,root@host1", "two nodes are called host1"),
        ("a=host1,b=host1", "two nodes are at qemu"),
        ("qemu:///system,qemu+unix:///system?socket=/x", "two nodes are called system"),
        ("host1/ssd", "'ssd' is no label"),
        ("host1/disk=", "'disk=' is no label"),
        ("host1/a b=c", "label of a node: 'a b' is no name"),
        ("dokcer:debian-12", "no libvirt host"),
        ("ho st", "no libvirt host"),
        ("xen+ssh://host/", "xen is not qemu"),
        ("qemu+ssh://host", "does not say what of that host is meant"),
    ],
)
def test_bad_addresses(text: str, told: str) -> None:
    with pytest.raises(UsageError, match=told) as caught:
        resolve(text)
    assert caught.value.hint


def test_nodes_of_the_settings() -> None:
    known = declared({"a": "root@host1", "b": {"uri": "qemu+ssh://h/system", "labels": {"zone": 2}}})
    assert resolve("a,b/disk=ssd,c", known) == (
        NodeAddress("a", "qemu+ssh://root@host1/system"),
        NodeAddress("b", "qemu+ssh://h/system", {"zone": "2", "disk": "ssd"}),
        NodeAddress("c", "qemu+ssh://c/system"),
    )
    assert declared("a=root@host1,c/zone=b") == {
        "a": NodeAddress("a", "qemu+ssh://root@host1/system"),
        "c": NodeAddress("c", "qemu+ssh://c/system", {"zone": "b"}),
    }


@pytest.mark.parametrize(
    "value", [{"a": {}}, {"a": 3}, {"a": {"uri": "h", "labels": "x"}}, {"a": {"url": "h"}}, {"a/b": "h"}]
)
def test_bad_nodes_of_the_settings(value: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="node"):
        declared(value)


def test_who_shares_storage() -> None:
    one, two, far, shared, also = resolve("system,session,host1,c=host2/storage=nfs,d=host3/storage=nfs")
    assert one.local
    assert not far.local
    assert one.storage == two.storage
    assert shared.storage == also.storage
    assert len({one.storage, far.storage, shared.storage}) == 3
    assert not NodeAddress("x", "qemu+ssh://root@127.0.0.1:2222/system").local
    assert not NodeAddress("x", "qemu+tcp://localhost/system").local
    assert NodeAddress("x", "qemu+unix:///system?socket=/x").local


@pytest.mark.parametrize(
    ("text", "targets"),
    [
        ("kvm://a,b", ["kvm://a,b"]),
        ("kvm://a, b/disk=ssd ,docker:mini,kvm", ["kvm://a,b/disk=ssd", "docker:mini", "kvm"]),
        ("local,kvm://a,b=qemu:///system,Docker", ["local", "kvm://a,b=qemu:///system", "Docker"]),
        ("kvm://a,b,kvm://c,d", ["kvm://a,b", "kvm://c,d"]),
        ("KVM://a,b:2222", ["KVM://a,b:2222"]),
    ],
)
def test_commas_in_a_list_of_targets(text: str, targets: list[str]) -> None:
    assert [str(each) for each in parse_targets(text, SYSTEMS)] == targets


def test_a_target_has_the_whole_address() -> None:
    assert parse_targets("kvm://a,b,local", SYSTEMS)[0] == Target("kvm://a,b", "kvm", address="a,b")


@pytest.mark.parametrize("text", ["docker,dokcer", "ssh://pi@host,dokcer", "kvm,host2"])
def test_what_is_no_target_is_told_when_no_address_can_go_on(text: str) -> None:
    with pytest.raises(UsageError, match="unknown target"):
        parse_targets(text, SYSTEMS)
