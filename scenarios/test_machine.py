"""The machine itself: commands, files, testinfra, networks, limits and life, with and without REXX."""

from __future__ import annotations

import shlex
import stat
import urllib.request
from pathlib import Path

import pytest

from pytest_rexxinfra import Capability, Machine, RexxInfraError
from pytest_rexxinfra.session import Provisioner

shared = pytest.mark.machine(scope="module")

ALL_BYTES = bytes(range(256)) * 64


@shared
def test_a_command_line(machine: Machine) -> None:
    result = machine.run("echo out; echo err >&2; exit 7")
    assert (result.rc, result.stdout, result.stderr) == (7, "out\n", "err\n")


@shared
def test_words_that_no_shell_interprets(machine: Machine) -> None:
    words = ["$HOME", "a b", "it's", "*", "", "grüße"]
    assert machine.run(["printf", r"%s\n", *words], check=True).lines == words


@shared
def test_a_command_that_must_succeed(machine: Machine) -> None:
    with pytest.raises(RexxInfraError, match="ended with status 3") as caught:
        machine.run("echo why >&2; exit 3", check=True)
    assert "why" in str(caught.value)


@shared
def test_a_command_that_does_not_end(machine: Machine) -> None:
    with pytest.raises(RexxInfraError, match=r"not done after 0\.5 s"):
        machine.run("tail -f /dev/null", timeout=0.5)
    assert machine.run("echo still here").stdout == "still here\n"


@shared
def test_commands_share_nothing_but_files(machine: Machine) -> None:
    first = machine.run("pwd").stdout
    machine.run("cd /usr; LEFT=x; export LEFT; exit 1")
    assert machine.run("pwd; echo ${LEFT-unset}").stdout == f"{first}unset\n"


@shared
def test_bytes_go_in_and_out_unchanged(machine: Machine) -> None:
    assert machine.run("cat", stdin=ALL_BYTES, check=True).stdout_bytes == ALL_BYTES
    machine.write("bytes.bin", ALL_BYTES)
    assert machine.read("bytes.bin") == ALL_BYTES


@shared
def test_put_and_get_a_file(machine: Machine, tmp_path: Path) -> None:
    source = tmp_path / "a program.sh"
    source.write_text("#!/bin/sh\necho ran\n")
    source.chmod(0o750)
    machine.put(source, f"{machine.scratch}/new/place/")
    assert machine.run([f"{machine.scratch}/new/place/a program.sh"], check=True).stdout == "ran\n"
    machine.get(f"{machine.scratch}/new/place/a program.sh", tmp_path / "back" / "copy.sh")
    assert (tmp_path / "back" / "copy.sh").read_bytes() == source.read_bytes()


@shared
def test_put_and_get_a_directory(machine: Machine, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "sub").mkdir(parents=True)
    (tree / "sub" / "data.bin").write_bytes(ALL_BYTES)
    (tree / "run.sh").write_text("#!/bin/sh\n")
    (tree / "run.sh").chmod(0o700)
    (tree / "link").symlink_to("sub/data.bin")
    machine.put(tree, f"{machine.scratch}/tree")
    machine.get(f"{machine.scratch}/tree", tmp_path / "back")
    assert (tmp_path / "back" / "sub" / "data.bin").read_bytes() == ALL_BYTES
    assert stat.S_IMODE((tmp_path / "back" / "run.sh").stat().st_mode) == 0o700
    assert (tmp_path / "back" / "link").readlink() == Path("sub/data.bin")


@shared
@pytest.mark.parametrize("mib", [1, 12])
def test_a_large_file(machine: Machine, tmp_path: Path, mib: int) -> None:
    source = tmp_path / "large.bin"
    source.write_bytes(ALL_BYTES * (64 * mib))
    machine.put(source, f"{machine.scratch}/large.bin")
    machine.get(f"{machine.scratch}/large.bin", tmp_path / "back.bin")
    assert (tmp_path / "back.bin").read_bytes() == source.read_bytes()


@shared
def test_what_is_missing(machine: Machine, tmp_path: Path) -> None:
    with pytest.raises(RexxInfraError, match="does not exist"):
        machine.put(tmp_path / "missing", "/tmp/x")
    with pytest.raises(RexxInfraError, match="No such file"):
        machine.read("/no/such/file")
    with pytest.raises(RexxInfraError, match="/no/such/file"):
        machine.get("/no/such/file", tmp_path / "x")


@shared
def test_testinfra(machine: Machine) -> None:
    machine.write(f"{machine.scratch}/config", "key = value\n", mode=0o600)
    file = machine.host.file(f"{machine.scratch}/config")
    assert file.exists
    assert file.is_file
    assert file.mode == 0o600
    assert file.contains("^key")
    assert file.content_string == "key = value\n"
    assert not machine.host.file("/no/such/file").exists
    assert machine.host.check_output("echo %s", "it's quoted") == "it's quoted"
    assert machine.host.run("exit 5").rc == 5
    assert machine.host.user().name == machine.run("id -un").stdout.strip()


@shared
def test_rexx_and_shell_in_one_machine(machine: Machine) -> None:
    machine.write(f"{machine.scratch}/name", "Ann\n")
    script = f"ADDRESS SYSTEM 'tr a-z A-Z <{machine.scratch}/name >{machine.scratch}/upper'\nSAY RC"
    assert machine.rexx(script).check().lines == ["0"]
    assert machine.read(f"{machine.scratch}/upper") == b"ANN\n"


def test_machines_have_their_own_files(provision: Provisioner) -> None:
    one, other = provision("one"), provision("other")
    if Capability.IMAGES not in one.capabilities:
        pytest.skip("machines of this system share their file system with this computer")
    one.write("/etc/mark-of-a-scenario", "one")
    assert other.run(["test", "-e", "/etc/mark-of-a-scenario"]).rc == 1
    assert not Path("/etc/mark-of-a-scenario").exists()


@pytest.mark.machine(image="mini", hostname="box")
def test_an_image_and_a_host_name(machine: Machine) -> None:
    assert "rexxinfra mini" in machine.read("/etc/os-release").decode()
    assert machine.run("hostname", check=True).stdout == "box\n"
    assert machine.rexx("SAY 'hello'").check().lines == ["hello"]


@pytest.mark.machine(network="none")
def test_no_network(machine: Machine) -> None:
    interfaces = machine.run("tail -n +3 /proc/net/dev", check=True).lines
    assert [line.split(":")[0].strip() for line in interfaces] == ["lo"]


def test_machines_find_each_other_by_name(provision: Provisioner) -> None:
    network = provision.network()
    serve = "mkdir /www && echo 'hello from web' >/www/index.html && exec httpd -f -p 8000 -h /www"
    web = provision("web", network=network, command=serve)
    client = provision("client", network=network, rexx=True)
    client.wait_until("wget -q -O - http://web:8000/")
    script = "ADDRESS SYSTEM 'wget -q -O - http://web:8000/ >&2'\nSAY RC"
    result = client.rexx(script).check()
    assert (result.lines, result.stderr) == (["0"], "hello from web\n")
    assert web.status.phase == "running"


@pytest.mark.machine(ports=[8000], command="mkdir /www; echo outside >/www/index.html; httpd -f -p 8000 -h /www")
def test_a_port_seen_from_outside(machine: Machine) -> None:
    host, port = machine.wait_for_port(8000)
    with urllib.request.urlopen(f"http://{host}:{port}/", timeout=10) as answer:
        assert answer.read() == b"outside\n"


@pytest.mark.machine(memory="128m", pids=20, cpus=1)
def test_limits(machine: Machine) -> None:
    """What the kernel says, in either version of its control groups, or of the hardware."""

    def limit(*files: str) -> list[str]:
        return machine.run(f"cd /sys/fs/cgroup && cat {shlex.join(files)} 2>/dev/null").stdout.split()

    if Capability.HARDWARE in machine.capabilities:
        assert machine.run("grep -c ^processor /proc/cpuinfo", check=True).lines == ["1"]
        assert int(machine.run("grep MemTotal /proc/meminfo", check=True).stdout.split()[1]) < 128 << 10
    else:
        assert limit("memory.max", "memory/memory.limit_in_bytes") == [str(128 << 20)]
        assert limit("pids.max", "pids/pids.max") == ["20"]
        quota, period = limit("cpu.max", "cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")
        assert int(quota) == int(period)
    assert machine.run("i=0; while [ $i -lt 40 ]; do tail -f /dev/null & i=$((i+1)); done; wait", timeout=9).rc != 0


def test_a_volume_for_two_machines(provision: Provisioner) -> None:
    volume = provision.volume()
    writer = provision("writer", volumes=[f"{volume}:/data"])
    reader = provision("reader", volumes=[f"{volume}:/data:ro"])
    writer.write("/data/note", "shared")
    assert reader.read("/data/note") == b"shared"
    assert reader.run("echo x >/data/note").rc != 0


def test_a_machine_comes_back_with_its_files(machine: Machine) -> None:
    if Capability.RESTART not in machine.capabilities:
        pytest.skip(f"{machine.system} cannot restart a machine")
    machine.write("/root/note", "kept")
    machine.run("tail -f /dev/null >/dev/null 2>&1 &")
    machine.restart()
    assert machine.read("/root/note") == b"kept"
    assert "tail" not in machine.run("ps").stdout
