"""Pools and disks, where a system has them: what is on a disk does not go with the machine that had it."""

from __future__ import annotations

from pathlib import Path

from pytest_rexxinfra import Capability, Lab, Spec

from .conftest import Lacks


def test_disks_outlive_machines(lab: Lab, lacks: Lacks, tmp_path: Path) -> None:
    if lacks(Capability.STORAGE):
        return
    pool = lab.storage("dir")
    disk = pool.create("data", "4m")
    (tmp_path / "image").write_bytes(b"content of a disk")
    disk.upload(tmp_path / "image")
    machine = lab.provision(spec=Spec.of(disks=disk))
    assert machine.run("head -c 17 /dev/vdb").stdout == "content of a disk"
    lab.destroy(machine)
    copy = disk.clone("copy")
    disk.delete()
    copy.download(tmp_path / "got")
    assert (tmp_path / "got").read_bytes() == b"content of a disk".ljust(4 << 20, b"\0")
    names = {*pool.names}
    assert names == {pool.name, copy.name}
    pool.delete()
    assert not names & {each.name for each in machine.driver.list()}
