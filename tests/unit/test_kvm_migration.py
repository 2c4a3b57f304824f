"""What a machine is told to be at the node that it moves to."""

from __future__ import annotations

from xml.etree import ElementTree as ET

import pytest

from pytest_rexxinfra.kvm.domain import QEMU, DirectBoot, DiskSource, Domain, Memory
from pytest_rexxinfra.kvm.migration import for_target, reachable, read, written
from pytest_rexxinfra.kvm.node import Node


def domain(memory: Memory | None = None, *disks: DiskSource) -> str:
    boot = DirectBoot("/k", "/i", "quiet")
    return Domain("m", "", 512 << 20, 1, boot, disks, [], {}, memory_file=memory).xml()


def words(xml: str) -> list[str | None]:
    return [each.get("value") for each in ET.fromstring(xml).iter(f"{{{QEMU}}}arg")]


@pytest.mark.parametrize("incoming", [True, False])
def test_memory_from_a_file_becomes_memory_under_the_same_name(incoming: bool) -> None:
    xml = domain(Memory("/pool/template.ram", shared=False, incoming=incoming))
    assert ("-incoming" in words(xml)) == incoming
    assert words(for_target(xml)) == [
        "-object",
        "memory-backend-ram,id=rexxram,size=524288K",
        "-machine",
        "memory-backend=rexxram",
        "-global",
        "virtio-net-pci.guest_announce=off",
    ]
    assert words(for_target(for_target(xml))) == words(for_target(xml))


def test_other_machines_stay_as_they_are() -> None:
    xml = domain()
    assert ET.canonicalize(for_target(xml)) == ET.canonicalize(xml)


def test_what_a_machine_writes_to_and_what_it_reads() -> None:
    network = ET.Element("source", protocol="rbd", name="pool/disk")
    disks = [
        DiskSource.volume("/pool/m.qcow2"),
        DiskSource.volume("/pool/seed.iso", "raw", device="cdrom"),
        DiskSource.volume("/pool/more.qcow2"),
        DiskSource.volume("/pool/base.qcow2", read_only=True),
        DiskSource(network, "raw"),
    ]
    xml = domain(None, *disks)
    assert list(written(xml).values()) == ["/pool/m.qcow2", "/pool/more.qcow2"]
    assert read(xml) == ["/k", "/i", "/pool/seed.iso", "/pool/base.qcow2"]


@pytest.mark.parametrize(
    ("source", "target", "uri"),
    [
        ("qemu:///system", "qemu+unix:///system?socket=/x", "tcp://127.0.0.1"),
        ("qemu:///system", "qemu+ssh://root@h:2222/system", "tcp://h"),
        ("qemu+ssh://g/system", "qemu+ssh://[fe80::1]/system", "tcp://[fe80::1]"),
        ("qemu+ssh://g/system", "qemu:///system", None),
    ],
)
def test_where_the_source_finds_the_target(source: str, target: str, uri: str | None) -> None:
    assert reachable(Node(source), Node(target)) == uri
