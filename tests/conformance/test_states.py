"""Copies and states of a machine: clones, snapshots, pauses, what it uses, booted ones."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_rexxinfra import Capability, Lab, Machine
from pytest_rexxinfra.errors import CommandTimeout, ProvisionError, UsageError
from pytest_rexxinfra.model import Phase

from .conftest import Lacks, Way


def test_clone(lab: Lab, lacks: Lacks, make: Callable[..., Machine], mark: str) -> None:
    if lacks(Capability.CLONE):
        return
    machine = make()
    machine.write("/root/before", "in both")
    machine.run("rm /etc/profile; mkdir -p /srv/new; chmod 700 /srv/new; ln -s before /root/link", check=True)
    machine.run(f"sleep {mark} & echo")
    clone = machine.clone("twin")
    machine.write("/root/after", "in one")
    clone.write("/root/before", "changed")
    assert machine.read("/root/before") == b"in both"
    assert machine.run("cat /proc/[0-9]*/cmdline | tr '\\0' ' '").stdout.count(f"sleep {mark}") == 1
    assert not clone.run("ls /root/after").ok
    assert not clone.run("ls /etc/profile").ok
    assert clone.run("stat -c '%a %u' /srv/new; readlink /root/link").lines == ["700 0", "before"]
    assert mark not in clone.run("cat /proc/[0-9]*/cmdline | tr '\\0' ' '").stdout
    assert clone.resource.name != machine.resource.name
    assert clone.name == "twin"
    assert lab.build.label == clone.rexx.build.label
    assert clone.rexx("SAY 'cloned'").lines == ["cloned"]


def test_clone_of_a_clone_goes_with_the_first(lab: Lab, lacks: Lacks) -> None:
    if lacks(Capability.CLONE):
        return
    machine = lab.provision()
    machine.write("/root/mark", "1")
    clone = machine.clone()
    clone.write("/root/mark", "2")
    second = clone.clone()
    assert second.read("/root/mark") == b"2"
    lab.destroy(machine)
    leases = {each.resource.lease for each in (machine, clone, second)}
    assert not leases & {each.lease for each in machine.driver.list()}
    assert second.status.phase is Phase.GONE


def test_snapshot_and_restore(lacks: Lacks, make: Callable[..., Machine], mark: str) -> None:
    if lacks(Capability.SNAPSHOT):
        return
    machine = make()
    machine.write("/root/state", "first")
    machine.snapshot("one")
    machine.write("/root/state", "second")
    machine.write("/root/more", "x")
    machine.snapshot("two")
    machine.run(f"rm -r /root/state /etc/profile; sleep {mark} & echo")
    machine.restore("one")
    assert machine.read("/root/state") == b"first"
    assert machine.run("ls /etc/profile").ok
    assert not machine.run("ls /root/more").ok
    assert mark not in machine.run("cat /proc/[0-9]*/cmdline | tr '\\0' ' '").stdout
    assert machine.snapshots == ["one", "two"]
    machine.restore("two")
    assert (machine.read("/root/state"), machine.read("/root/more")) == (b"second", b"x")
    machine.write("/root/state", "third")
    machine.snapshot("one")
    machine.write("/root/state", "fourth")
    machine.restore("one")
    assert machine.read("/root/state") == b"third"
    assert sorted(machine.snapshots) == ["one", "two"]
    machine.delete_snapshot("one")
    assert machine.snapshots == ["two"]
    assert machine.read("/root/state") == b"third"
    machine.restore("two")
    assert machine.read("/root/state") == b"second"


def test_snapshot_that_is_none(lacks: Lacks, fresh: Machine) -> None:
    if lacks(Capability.SNAPSHOT):
        return
    fresh.write("/root/state", "kept")
    with pytest.raises(UsageError, match="never-made"):
        fresh.restore("never-made")
    with pytest.raises(UsageError, match="never-made"):
        fresh.delete_snapshot("never-made")
    with pytest.raises(UsageError, match="no name"):
        fresh.snapshot("../escape")
    assert fresh.read("/root/state") == b"kept"
    assert fresh.snapshots == []


def test_pause(lacks: Lacks, make: Callable[..., Machine]) -> None:
    if lacks(Capability.PAUSE):
        return
    machine = make()
    machine.run("(while :; do echo x >>/root/ticks; sleep 0.02; done) & echo", check=True)
    machine.wait_until("test -s /root/ticks")
    machine.pause()
    assert machine.status.phase == "paused"
    with pytest.raises((CommandTimeout, UsageError), match=r"it may still run|the machine is paused"):
        machine.run("true", timeout=0.5)
    machine.resume()
    assert machine.status.phase == "running"
    counted = int(machine.run("wc -l </root/ticks").stdout)
    machine.wait_until(f"test $(wc -l </root/ticks) -gt {counted}")


def test_destroyed_while_paused(lab: Lab, lacks: Lacks) -> None:
    if lacks(Capability.PAUSE):
        return
    machine = lab.provision()
    machine.pause()
    lab.destroy(machine)
    assert machine.status.phase is Phase.GONE
    assert machine.resource.lease not in [each.lease for each in machine.driver.list()]


def test_stats(lacks: Lacks, make: Callable[..., Machine], can: frozenset[Capability]) -> None:
    if lacks(Capability.STATS):
        return
    limits = {"memory": "256m"} if Capability.LIMITS in can else {}
    machine = make(**limits)
    before = machine.stats
    machine.run("i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done", check=True)
    after = machine.stats
    if before.cpu is not None and after.cpu is not None:
        assert 0.01 < after.cpu - before.cpu < 30
    if limits:
        assert after.memory_limit == 256 << 20
    assert after.memory is None or 0 < after.memory < 256 << 20
    assert after.processes is None or after.processes >= 1
    assert (after.memory, after.cpu, after.processes) != (None, None, None)


def test_boot(lacks: Lacks, make: Callable[..., Machine]) -> None:
    if lacks(Capability.BOOT):
        return
    started = time.monotonic()
    machine = make(boot=True)
    assert machine.run("cat /proc/1/comm").lines == ["systemd"]
    state = machine.run("systemctl is-system-running --wait", timeout=60)
    assert state.lines == ["running"], machine.run("systemctl --failed --no-legend; journalctl -b -p warning").stdout
    assert time.monotonic() - started < 60
    machine.run("systemd-run --unit=ours sh -c 'echo said by a unit'", check=True)
    if Capability.LOGS in machine.capabilities:
        machine.wait_until("journalctl -u ours | grep -q 'said by a unit'")
        assert "said by a unit" in machine.logs()


def test_restart_of_a_booted_machine(lacks: Lacks, make: Callable[..., Machine], can: frozenset[Capability]) -> None:
    if lacks(Capability.BOOT) or Capability.RESTART not in can:
        return
    machine = make(boot=True, image="debian-12")
    unit = "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/sh -c 'echo up >>/root/boots'\n"
    machine.write("/etc/systemd/system/ours.service", f"{unit}ExecStop=/bin/sh -c 'echo down >>/root/boots'\n")
    machine.run("systemctl start ours", check=True)
    machine.restart()
    assert machine.run("cat /root/boots").lines == ["up", "down"]
    assert machine.run("cat /proc/1/comm").lines == ["systemd"]


def test_host_network_and_host_pid(way: Way, lacks: Lacks, make: Callable[..., Machine]) -> None:
    if not lacks(Capability.HOST_NETWORK):
        assert make(network="host").run("readlink /proc/self/ns/net").stdout == _own("net")
    if not lacks(Capability.HOST_PID):
        assert make(host_pid=True).run("readlink /proc/self/ns/pid").stdout == _own("pid")


def test_privileged(lacks: Lacks, make: Callable[..., Machine]) -> None:
    if lacks(Capability.PRIVILEGED):
        return
    refusal = ""
    try:
        machine = make(privileged=True)
    except ProvisionError as refused:
        refusal = str(refused)
    if refusal:
        # An engine that has not all capabilities itself cannot give them.
        assert "caps" in refusal
        assert _bounding_set() != (1 << _last_capability() + 1) - 1
    else:
        assert machine.run("mkdir /mnt/x && mount -t tmpfs none /mnt/x").ok


def _own(kind: str) -> str:
    return f"{Path(f'/proc/self/ns/{kind}').readlink()}\n"


def _bounding_set() -> int:
    status = Path("/proc/self/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("CapBnd:")), 16)


def _last_capability() -> int:
    return int(Path("/proc/sys/kernel/cap_last_cap").read_text())
