"""What a local machine keeps away from the computer it runs on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_rexxinfra import Lab, Machine, Spec
from pytest_rexxinfra.errors import UsageError
from pytest_rexxinfra.settings import Settings

from .support import run_as_nobody


@pytest.fixture(params=["namespaces", "user_namespaces"])
def machine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    monkeypatch.setenv("REXX_LOCAL_ISOLATION", request.param)
    with Lab(Settings(target="local")) as lab:
        yield lab.provision()


def test_writes_anywhere_and_nothing_stays(machine: Machine, tmp_path: Path) -> None:
    (tmp_path / "theirs").write_text("untouched")
    marks = [
        "/rexx-mark",
        "/usr/bin/rexx-mark",
        "/etc/rexx-mark",
        "/var/rexx-mark",
        "/tmp/rexx-mark",
        "/dev/rexx-mark",
        "/dev/shm/rexx-mark",
        "/run/rexx-mark",
        f"{tmp_path}/rexx-mark",
    ]
    for mark in marks:
        assert machine.run(f"echo here >{mark} && cat {mark}").lines == ["here"], mark
        assert not Path(mark).exists(), mark
    machine.run(f"echo changed >{tmp_path}/theirs; rm -rf /usr/share; rm -f /etc/passwd", check=True)
    assert (tmp_path / "theirs").read_text() == "untouched"
    assert Path("/usr/share").is_dir()
    assert Path("/etc/passwd").exists()


def test_settings_of_the_kernel_are_out_of_reach(machine: Machine) -> None:
    before = Path("/proc/sys/vm/swappiness").read_text()
    assert not machine.run("echo 7 >/proc/sys/vm/swappiness").ok
    assert not machine.run("echo h >/proc/sysrq-trigger").ok
    assert not machine.run("echo x >/sys/kernel/mm/ksm/run").ok
    assert not machine.run("for file in /sys/fs/cgroup/*/cgroup.procs; do [ -w $file ] && exit 0; done; exit 1").ok
    assert Path("/proc/sys/vm/swappiness").read_text() == before


def test_processes_and_names_are_its_own(machine: Machine) -> None:
    assert str(os.getpid()) not in machine.run("ls /proc").lines
    assert machine.run("cat /proc/sys/kernel/hostname").lines != [os.uname().nodename]
    assert machine.run("cat /dev/null; head -c4 /dev/urandom | wc -c; echo x >/dev/stdout").lines == ["4", "x"]


def test_everything_ends_with_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    with Lab(Settings(target="local")) as lab:
        machine = lab.provision()
        machine.run("sleep 98765 & setsid sleep 98766 & echo", check=True)
        home = Path(str(machine.resource.id))
        assert home.is_dir()
    commands = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()]
    assert not [command for command in commands if b"9876" in command]
    assert not home.exists()


def test_build_in_an_image_is_read_only() -> None:
    with Lab(Settings(target="local:mini", build="regina")) as lab:
        machine = lab.provision(build=lab.build)
        assert machine.rexx("SAY 'found'").lines == ["found"]
        assert not machine.run("touch /opt/rexxinfra/builds/*/mark").ok
        assert not (lab.build.root / "mark").exists()


def test_directory_kills_what_was_started_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REXX_LOCAL_ISOLATION", "directory")
    with Lab(Settings(target="local")) as lab:
        machine = lab.provision()
        machine.run("setsid sleep 98767 >/dev/null 2>&1 & echo", check=True)
        assert "directory" in repr(machine)
        assert not lab.driver("local").capabilities
    commands = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()]
    assert not [command for command in commands if b"98767" in command]


def test_isolation_that_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REXX_LOCAL_ISOLATION", "jail")
    with pytest.raises(UsageError, match="jail is not one of"):
        _ = Lab(Settings(target="local")).driver("local").capabilities


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_an_ordinary_user_has_a_throw_away_file_system(public_folder: Path) -> None:
    script = f"""
import os
os.environ.update(REXX_STATE={str(public_folder / "state")!r}, PATH="/usr/bin:/bin", HOME={str(public_folder)!r})
from pytest_rexxinfra import Lab
from pytest_rexxinfra.settings import Settings
with Lab(Settings(target="local")) as lab:
    machine = lab.provision()
    print(machine)
    print(machine.run("id -u; rm /etc/hostname; echo mine >/etc/hostname && cat /etc/hostname").lines)
    print(machine.run("touch /x /usr/bin/x /srv/x /usr/local/bin/x /var/lib/x && echo wrote").lines)
"""
    said = run_as_nobody(public_folder, script)
    assert "user namespaces" in said
    assert "['0', 'mine']" in said
    assert "['wrote']" in said
    assert not Path("/usr/bin/x").exists()


def test_spec_that_asks_for_an_image_starts_from_it() -> None:
    with Lab(Settings(target="local")) as lab:
        machine = lab.provision(spec=Spec.of(image="mini"))
        assert "busybox" in machine.run("readlink -f /bin/sh || ls -l /bin/sh").stdout
        assert not machine.run("ls /usr/bin/python3").ok
