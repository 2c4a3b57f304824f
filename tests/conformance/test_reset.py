"""Kept machines that a later lab takes: as they were created, or not taken at all."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pytest_rexxinfra import Capability, Lab, Machine, Spec
from pytest_rexxinfra.deadline import Deadline
from pytest_rexxinfra.ledger import Ledger
from pytest_rexxinfra.model import Phase
from pytest_rexxinfra.settings import Settings

from .conftest import Way

Labs = Callable[..., Lab]

ODD_NAMES = [
    "two words",
    "new\nline",
    "quo'te\"s",
    "-rf",
    "--",
    "*",
    "back\\slash",
    "$HOME",
    "ümläut",
    ".hidden",
    "tab\there",
    "x" * 255,
]

LOOK = r"""
find / -xdev \( -path /proc -o -path /sys -o -path /dev -o -path /etc/hosts -o -path /etc/hostname \
    -o -path /etc/resolv.conf -o -path /run/.containerenv \) -prune -o -type f \
    -exec stat -c '%n %F %a %u %g %s %Y' {} + | sort
find / -xdev \( -path /proc -o -path /sys -o -path /dev \) -prune -o ! -type f -exec stat -c '%N %F %a %u %g' {} + |
    sort
md5sum /etc/passwd /etc/profile
"""
"""Everything that is in a machine with an image of its own, without the times of directories."""

SPOIL = r"""
trap '' TERM HUP INT
setsid sleep MARK >/dev/null 2>&1 &
sleep MARK >/dev/null 2>&1 &
echo left >/dev/shm/left
echo left >/dev/shm/.left
echo x:x:0:0::/:/bin/sh >>/etc/passwd
chmod 600 /etc/passwd
rm /etc/profile
mkdir -p '/root/a/b c' /root/odd
mkfifo /root/pipe
ln -s . /root/self
touch "/root/$(printf 'new\nline')" '/root/-rf'
touch "/root/odd/$(printf 'no\377utf')"
mkdir "/root/odd/$(printf 'nor\376this')"
"""
"""What a test may do in any machine that has a file system of its own."""

SPOIL_IMAGE = r"""
mkdir -p /etc/profile/deeper
echo x >/etc/profile/deeper/x
chmod 700 /tmp /home
chown 1:1 /root
touch -d '1999-12-31 00:00' /etc/shells
rm -rf /var/lib /srv /opt
ln -s /etc /srv
echo now a file >/opt
ln /etc/shadow '/root/a/b c/link'
"""


@pytest.fixture
def labs(lab: Lab, way: Way, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Labs]:
    """Makes labs with a ledger that only they know; whatever they keep is removed."""
    monkeypatch.setenv("REXX_LEDGER", str(tmp_path / "ledger.sqlite3"))
    made: list[Lab] = []

    def make(keep: str = "never", reuse: bool = True) -> Lab:
        given = {"target": way.target, "timeout": 30, "provision_timeout": 300, "keep": keep, "reuse": reuse}
        made.append(Lab(Settings.load(given)))
        return made[-1]

    yield make
    for each in made:
        each.close()
    driver = lab.driver(lab.targets[0].system)
    runs = {each.run_id for each in made}
    driver.destroy([each for each in driver.list() if each.run in runs], Deadline(60))


def kept(labs: Labs, use: Callable[[Machine], object], spec: Spec | None = None) -> str:
    """Use a machine, keep it, and forget about it; returns its name."""
    with labs(keep="all") as first:
        machine = first.provision(spec=spec)
        use(machine)
        first.release(machine)
        assert not first.tally.left
    return machine.resource.name


def has_image(way: Way) -> bool:
    """Whether a machine is made from an image, rather than from a view of this computer."""
    return way.target != "local"


def nothing(machine: Machine) -> None:
    """Use a machine for nothing."""


def test_the_same_machine_as_new(labs: Labs, can: frozenset[Capability], way: Way, mark: str) -> None:
    if Capability.RESET not in can:
        old = kept(labs, lambda machine: machine.write(f"{machine.scratch}/mark", "old"))
        with labs() as second:
            machine = second.provision()
            assert machine.resource.name != old
            assert not machine.run(f"ls {machine.scratch}/mark").ok
            assert second.tally.reused == 0
        return
    whole = has_image(way)
    seen: list[str] = []

    def spoil(machine: Machine) -> None:
        if whole:
            seen.append(machine.run(LOOK, check=True).stdout)
        assert machine.run(f"set -e\n{SPOIL.replace('MARK', mark)}{SPOIL_IMAGE if whole else ''}").stderr == ""
        for name in ODD_NAMES:
            place = f"/root/odd/{name}"
            machine.run(["mkdir", "--", place], check=True)
            machine.run(["touch", "--", f"{place}/file"], check=True)

    old = kept(labs, spoil)
    with labs() as second:
        machine = second.provision()
        assert (machine.resource.name, second.tally.reused) == (old, 1)
        if whole:
            assert machine.run(LOOK, check=True).stdout == seen[0]
        assert machine.run("ls -A /root/odd /root/a /root/self /dev/shm/left /dev/shm/.left").stdout == ""
        assert machine.run("ls -ld /etc/profile").stdout.startswith("-rw-r--r--")
        assert "x:x:0:0" not in machine.read("/etc/passwd").decode()
        assert mark not in machine.run("cat /proc/[0-9]*/cmdline | tr '\\0' ' '").stdout
    assert machine.status.phase is Phase.GONE


def test_main_process_starts_again_with_clean_files(labs: Labs, can: frozenset[Capability], mark: str) -> None:
    if not {Capability.RESET, Capability.MAIN_PROCESS} <= can:
        return
    command = "ls /root/[ot]* >/root/others; sleep 81712 & echo $! >/root/pid; wait"
    spec = Spec.of(command=command)

    def spoil(machine: Machine) -> None:
        machine.wait_until("cat /root/pid")
        machine.run(f"echo x >/root/others; touch /root/theirs; sleep {mark} >/dev/null 2>&1 &", check=True)

    old = kept(labs, spoil, spec)
    with labs() as second:
        machine = second.provision(spec=spec)
        assert machine.resource.name == old
        machine.wait_until("cat /root/pid")
        assert machine.run("kill -0 $(cat /root/pid)").ok
        assert machine.run("cat /root/others; ls /root/theirs").stdout == ""
        assert mark not in machine.run("cat /proc/[0-9]*/cmdline | tr '\\0' ' '").stdout


def test_volumes_that_an_image_declares_are_not_taken_for_clean(
    labs: Labs, can: frozenset[Capability], lab: Lab, way: Way, tmp_path: Path
) -> None:
    if not {Capability.RESET, Capability.VOLUMES} <= can or way.target.partition(":")[0] not in ("docker", "podman"):
        return
    base = lab.driver(lab.targets[0].system).prepare(Spec(image="mini"), Deadline(600))
    (tmp_path / "Dockerfile").write_text(f"FROM {base}\nVOLUME /data\n")
    spec = Spec.of(image=str(tmp_path))
    old = kept(labs, lambda machine: machine.write("/data/mark", "old"), spec)
    with labs() as second:
        machine = second.provision(spec=spec)
        assert not machine.run("ls /data/mark").ok
        assert machine.resource.name == old or old not in [each.name for each in machine.driver.list()]
        name = hashlib.sha256(str(tmp_path.resolve()).encode()).hexdigest()[:16]
        second.destroy(machine)
        machine.driver.remove_image(f"rexxinfra/dockerfile:{name}")


def test_only_the_same_spec_and_only_once(labs: Labs, can: frozenset[Capability]) -> None:
    old = kept(labs, nothing)
    with labs() as second, labs() as third:
        other = second.provision(spec=Spec.of(env={"A": "b"}))
        assert other.resource.name != old
        assert other.run("echo $A").lines == ["b"]
        taken, fresh = second.provision(), third.provision()
        assert fresh.resource.name not in (old, taken.resource.name)
        assert (taken.resource.name == old) is (Capability.RESET in can)
        assert (second.tally.reused, third.tally.reused) == (int(Capability.RESET in can), 0)


def test_of_many_that_want_it_at_once_one_gets_it(labs: Labs, can: frozenset[Capability]) -> None:
    if Capability.RESET not in can:
        return
    old = kept(labs, nothing)
    users = [labs() for _ in range(3)]
    names: list[str] = []
    threads = [
        threading.Thread(target=lambda user=user: names.append(user.provision().resource.name)) for user in users
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(set(names)) == 3
    assert old in names


def test_kept_again_and_again(labs: Labs, can: frozenset[Capability]) -> None:
    spec = Spec.of(env={"COLOUR": "red"})
    old = kept(labs, lambda machine: machine.write(f"{machine.scratch}/mark", "old"), spec)
    if Capability.RESET not in can:
        return
    with labs(keep="all") as second:
        machine = second.provision(spec=spec)
        assert machine.resource.name == old
        assert not machine.run(f"ls {machine.scratch}/mark").ok
        assert machine.run("echo $COLOUR").lines == ["red"]
        machine.write(f"{machine.scratch}/mark", "new")
        second.release(machine)
    assert machine.driver.status(machine.resource).phase is Phase.RUNNING
    with labs() as third:
        machine = third.provision(spec=spec)
        assert machine.resource.name == old
        assert not machine.run(f"ls {machine.scratch}/mark").ok


@pytest.mark.parametrize(
    "spoil",
    [
        "rm -rf /bin /usr/bin /lib /usr/lib /sbin; :",
        "echo 10.1.1.1 elsewhere >>/etc/hosts",
        "echo nameserver 10.1.1.1 >/etc/resolv.conf",
        "touch \"/root/$(printf 'no\\377utf')\"",
    ],
    ids=["no shell", "hosts", "resolver", "name"],
)
def test_reset_or_replaced(labs: Labs, can: frozenset[Capability], way: Way, spoil: str) -> None:
    if Capability.RESET not in can or not has_image(way):
        return
    look = "ls -A /root; cat /etc/hosts /etc/resolv.conf"
    with labs(reuse=False) as first:
        clean = first.provision()
        before = clean.run(look, check=True).stdout
    old = kept(labs, lambda machine: machine.run(spoil, check=True))
    with labs() as second:
        warnings: list[str] = []
        second.warn = warnings.append
        machine = second.provision()
        assert _without_address(machine.run(look, check=True).stdout) == _without_address(before)
        if machine.resource.name != old:
            assert f"{old} could not be reset, so it is removed" in "".join(warnings)
    names = [each.name for each in machine.driver.list()]
    assert not {old, machine.resource.name} & set(names)
    assert Ledger().entries() == []


def _without_address(text: str) -> str:
    """What was looked at, without the line of the machine's own address."""
    return "\n".join(line for line in text.splitlines() if not line.startswith(("172.", "10.", "127.0.1.1")))


def test_one_that_is_gone_is_replaced(labs: Labs) -> None:
    with labs(keep="all") as first:
        machine = first.provision()
        first.release(machine)
        machine.driver.destroy([machine.resource], Deadline(30))
    with labs() as second:
        again = second.provision()
        assert again.resource.name != machine.resource.name
        assert again.run("true").ok
        assert second.tally.reused == 0


def test_without_being_asked_nothing_is_taken(labs: Labs) -> None:
    old = kept(labs, nothing)
    with labs(reuse=False) as second:
        machine = second.provision()
        assert machine.resource.name != old
        assert old in [each.name for each in machine.driver.list()]
