"""What a driver declares it does; what it does not declare it refuses, and never skips in silence."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_rexxinfra import Capability, Lab, Machine, Spec
from pytest_rexxinfra.deadline import Deadline
from pytest_rexxinfra.errors import MachineDied, Unsupported, UsageError
from pytest_rexxinfra.model import Phase, Volume

from .conftest import Lacks, Way


def test_hostname(lacks: Lacks, make: Callable[..., Machine]) -> None:
    if lacks(Capability.HOSTNAME):
        return
    assert make(hostname="chosen").run("cat /proc/sys/kernel/hostname").lines == ["chosen"]


def test_image(way: Way, lacks: Lacks, make: Callable[..., Machine]) -> None:
    if lacks(Capability.IMAGES):
        return
    machine = make(image=way.image)
    assert ("busybox" in machine.run("ls -l /bin/ls").stdout) is (way.image == "mini")
    assert machine.run("node -e 'console.log(6*7)'").lines == ["42"]


def test_limits(way: Way, lacks: Lacks, make: Callable[..., Machine]) -> None:
    if lacks(Capability.LIMITS):
        return
    machine = make(memory=way.memory, pids=30)
    # While the kernel ends one process, it may choose another one too: that is to be no other than these.
    eater = "echo 1000 >/proc/self/oom_score_adj; head -c 300000000 /dev/zero | tail -c 250000000 | wc -c"
    assert "250000000" not in machine.run(eater).stdout
    forks = machine.run("for i in 1 2 3 4 5 6 7 8 9 10; do for j in 1 2 3 4 5; do sleep 2 & done; done")
    assert "fork" in forks.stderr.lower()


def test_main_process_and_logs(lacks: Lacks, make: Callable[..., Machine]) -> None:
    if lacks(Capability.MAIN_PROCESS):
        return
    machine = make(command="echo main started; echo a warning >&2; exec sleep 1000")
    Deadline(10).wait_for(lambda: "a warning" in machine.logs(), "the main process to speak")
    assert "main started" in machine.logs()


def test_logs_and_health_that_were_not_asked_for(shared: Machine, can: frozenset[Capability]) -> None:
    if Capability.LOGS not in can or not shared.spec.boot:
        with pytest.raises(UsageError if Capability.LOGS in can else Unsupported):
            shared.logs()
    with pytest.raises(UsageError if Capability.HEALTH in can else Unsupported):
        shared.wait_healthy()


def test_network_none(lacks: Lacks, make: Callable[..., Machine]) -> None:
    if lacks(Capability.NETWORK_NONE):
        return
    interfaces = make(network="none").run("cat /proc/net/dev").lines[2:]
    assert [line.split(":")[0].strip() for line in interfaces] == ["lo"]


def test_network_by_name(lab: Lab, lacks: Lacks) -> None:
    if lacks(Capability.NETWORKS):
        return
    network = lab.network()
    web = lab.provision(spec=Spec.of(network=network), name="web")
    client = lab.provision(spec=Spec.of(network=network), name="client")
    alone = lab.provision(name="alone")
    try:
        look = ["node", "-e", "require('dns').lookup('web', error => process.exit(error ? 1 : 0))"]
        assert client.run(look).ok
        assert not alone.run(look).ok
    finally:
        lab.destroy(web, client, alone)
        lab.remove(network)
    assert network not in [each.name for each in web.driver.list()]


def test_ports(lacks: Lacks, make: Callable[..., Machine]) -> None:
    if lacks(Capability.PORTS):
        return
    serve = "require('http').createServer((q, r) => r.end('served')).listen(8080)"
    machine = make(ports=[8080], command=["node", "-e", serve])
    host, port = machine.wait_for_port(8080)
    from urllib.request import urlopen

    with urlopen(f"http://{host}:{port}/", timeout=10) as answer:
        assert answer.read() == b"served"
    with pytest.raises(UsageError, match="9090"):
        machine.address(9090)


def test_restart_keeps_files(lacks: Lacks, make: Callable[..., Machine], mark: str) -> None:
    if lacks(Capability.RESTART):
        return
    machine = make()
    machine.write("/root/kept", "yes")
    machine.run(f"sleep {mark} & echo")
    machine.stop()
    assert machine.status.phase is Phase.STOPPED
    with pytest.raises(MachineDied):
        machine.run("true")
    machine.start()
    assert machine.read("/root/kept") == b"yes"
    assert mark not in machine.run("cat /proc/[0-9]*/cmdline | tr '\\0' ' '").stdout


def test_users(lacks: Lacks, make: Callable[..., Machine]) -> None:
    if lacks(Capability.USERS):
        return
    machine = make()
    assert machine.run("id -u", user="root").lines == ["0"]
    assert machine.run("id -u", user="nobody").lines == ["65534"]
    machine.write(f"{machine.scratch}/file", "makes the directory root's")
    large = machine.run("wc -c; id -u", stdin=b"x" * 3_000_000, user="nobody")
    assert (large.lines, large.stderr) == (["3000000", "65534"], "")
    assert make(user="nobody").run("id -u").lines == ["65534"]


def test_volumes(lab: Lab, lacks: Lacks, request: pytest.FixtureRequest, public_path: Path) -> None:
    if lacks(Capability.VOLUMES):
        return
    (public_path / "given").write_text("from outside")
    name = lab.volume()
    request.addfinalizer(lambda: lab.remove(name))
    make: Callable[..., Machine] = request.getfixturevalue("make")
    machine = make(volumes=[f"{public_path}:/outside:ro", f"{name}:/data"])
    assert machine.read("/outside/given") == b"from outside"
    assert not machine.run("echo x >/outside/given").ok
    machine.write("/data/file", "shared")
    assert make(volumes=[f"{name}:/data"]).read("/data/file") == b"shared"


@pytest.mark.parametrize("place", ["/tmp/given", "/run/given", "/var/run/deep/given", "/srv/it: here", "/dev/given"])
def test_volume_where_a_system_has_places_of_its_own(
    lacks: Lacks, make: Callable[..., Machine], public_path: Path, place: str
) -> None:
    if lacks(Capability.VOLUMES):
        return
    public_path.chmod(0o777)
    (public_path / "file").write_text("from outside")
    machine = make(volumes=[Volume(str(public_path), place)])
    assert machine.read(f"{place}/file") == b"from outside"
    machine.write(f"{place}/new", "from inside")
    assert (public_path / "new").read_text() == "from inside"


def test_volume_that_is_a_file_and_is_no_part_of_the_machine(
    lacks: Lacks, make: Callable[..., Machine], public_path: Path, mark: str
) -> None:
    if lacks(Capability.VOLUMES):
        return
    for name in ("given", "fixed"):
        (public_path / name).write_text(name)
        (public_path / name).chmod(0o666)
    machine = make(volumes=[f"{public_path}/given:/etc/given", f"{public_path}/fixed:/srv/fixed:ro"])
    assert machine.run("cat /etc/given /srv/fixed; echo changed >/etc/given", check=True).stdout == "givenfixed"
    assert not machine.run("echo changed >/srv/fixed").ok
    assert (public_path / "given").read_text() == "changed\n"
    if lacks(Capability.COMMIT):
        return
    image = machine.commit(f"rexxinfra-test:{mark}")
    try:
        assert make(image=image).run("cat /etc/given /srv/fixed").stdout == ""
    finally:
        machine.driver.remove_image(image)


def test_health(lacks: Lacks, make: Callable[..., Machine]) -> None:
    if lacks(Capability.HEALTH):
        return
    machine = make(command="sleep 0.7; touch /tmp/up; exec sleep 1000", health="test -e /tmp/up")
    machine.wait_healthy()
    assert machine.run("ls /tmp/up").ok
    from pytest_rexxinfra.model import Health

    sick = make(command="exec sleep 1000", health=Health("echo the symptom; false", interval=0.1, retries=2))
    started = time.monotonic()
    with pytest.raises(MachineDied, match="the symptom"):
        sick.wait_healthy(timeout=60)
    assert time.monotonic() - started < 30


def test_commit(way: Way, lacks: Lacks, make: Callable[..., Machine]) -> None:
    if lacks(Capability.COMMIT):
        return
    machine = make()
    machine.write("/root/state", "saved")
    image = machine.commit(f"rexxinfra/conformance-{way.name}:commit")
    try:
        assert make(image=image).read("/root/state") == b"saved"
    finally:
        machine.driver.remove_image(image)


def test_image_is_replaced_and_removed_under_a_machine(way: Way, lacks: Lacks, make: Callable[..., Machine]) -> None:
    if lacks(Capability.COMMIT) or way.wishes.get("boot"):
        return
    source, name = make(), f"rexxinfra/conformance-{way.name}:replaced"
    source.write("/root/state", "old")
    image = source.commit(name)
    try:
        machine = make(image=image)
        source.write("/root/state", "new")
        image = source.commit(name)
        assert make(image=image).read("/root/state") == b"new"
    finally:
        source.driver.remove_image(image)
    assert machine.read("/root/state") == b"old"
    machine.stop()
    machine.start()
    assert machine.read("/root/state") == b"old"


def test_bake_costs_the_next_machine_nothing(lab: Lab, lacks: Lacks) -> None:
    if lacks(Capability.BAKE):
        return
    first = lab.provision(build=lab.build)
    second = lab.provision(build=lab.build)
    try:
        assert first.spec.baked == second.spec.baked
        assert second.run(["ls", "/opt/rexxinfra/builds"]).ok
    finally:
        lab.destroy(first, second)
