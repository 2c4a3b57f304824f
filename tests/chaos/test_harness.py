"""A campaign that cannot fail proves nothing: here everything that it looks for is really there."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from threading import Timer

import pytest

from pytest_rexxinfra.model import Kind, Resource
from pytest_rexxinfra.systems.cgroup import Cgroup

from . import processes, trial
from .census import Census
from .engine import Broken, PrivateEngine
from .ground import Ground
from .libvirt_host import LibvirtHost
from .libvirt_strangers import Domains, begin, domain_xml
from .limit import LIMIT
from .place import Computer
from .plan import KILL, RESTART, Phase, Plan, Victim, plan, plans, strokes
from .podman import PodmanEngine
from .report import table, text
from .strangers import Containers, Folder
from .terrain import TERRAINS, Terrain
from .test_campaign import TOLERATED, too_many_late
from .trial import Outcome, conduct

LABELS = "rexxinfra.run"
DOCKER = TERRAINS["docker"]
_SHORT = 0.6


def on(*terrains: str) -> pytest.MarkDecorator:
    """Run a test on these terrains."""
    return pytest.mark.parametrize("ground", terrains, indirect=True, scope="session")


on_all = on(*TERRAINS)
on_engines = on("docker", "podman")
on_folders = on("docker", "nspawn", "lxc")
on_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts without more ado")


@pytest.fixture
def census(ground: Ground) -> Iterator[Census]:
    """Finds nothing before the test, and nothing after it has cleared."""
    census = ground.census(ground.steady)
    assert list(map(str, census())) == []
    yield census
    assert list(map(str, census.clear())) == []


@pytest.fixture
def folder(ground: Ground) -> Path:
    """Where a machine of the last of the terrain's systems might be."""
    return ground.state / ground.terrain.systems[-1] / "rexx-m1-0123456789ab"


def libvirt_host(ground: Ground) -> LibvirtHost:
    place = ground.steady.place
    assert isinstance(place, LibvirtHost)
    return place


def kinds(census: Census) -> list[str]:
    return sorted({each.kind for each in census()})


def stays(census: Census) -> bool:
    left, took = replace(census, limit=_SHORT).settle()
    return bool(left) and took >= _SHORT


@on_engines
def test_a_container_is_found(census: Census, ground: Ground) -> None:
    engine = ground.steady.engine
    engine.api.create_container(engine.image, ["true"], labels={LABELS: ground.token_of("leak")})
    assert kinds(census) == ["container"]
    assert stays(census)


@on_engines
def test_a_network_and_a_volume_are_found(census: Census, ground: Ground) -> None:
    api = ground.steady.engine.api
    labels = {LABELS: ground.token_of("leak")}
    api.create_network(ground.token_of("leak"), labels=labels)
    api.create_volume(ground.token_of("leak"), labels=labels)
    assert kinds(census) == ["network", "volume"]


@on_engines
def test_what_has_no_label_is_found_in_an_engine_of_our_own(census: Census, ground: Ground) -> None:
    if not ground.steady.place.private:
        pytest.skip("in a shared engine it may be anybody's")
    ground.steady.engine.api.create_volume(ground.token_of("unlabelled"))
    assert kinds(census) == ["volume"]


@on_engines
def test_the_image_of_a_snapshot_is_found(census: Census, ground: Ground) -> None:
    engine = ground.steady.engine
    if not engine.private:
        pytest.skip("in a shared engine it may be anybody's")
    made = engine.api.create_container(engine.image, ["true"])["Id"]
    engine.api.commit(made, "rexxinfra/machine", "0123456789ab.0.snapshot.default")
    assert kinds(census) == ["container", "image"]


@on("podman")
def test_what_a_container_leaves_on_the_computer_is_found(census: Census, ground: Ground) -> None:
    """A process that has nothing of the run but the place where podman keeps its files, and a mount there."""
    engine = ground.steady.engine
    assert isinstance(engine, PodmanEngine)
    place = engine.folder / "storage" / "forgotten"
    place.mkdir()
    subprocess.run([*engine.words, "mount", "-t", "tmpfs", "none", str(place)], check=True)
    with subprocess.Popen(
        ["sh", "-c", "echo; read -r word", f"{place}/word"],
        env={"PATH": os.environ["PATH"]},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert kinds(census) == ["process", "storage"]
        census.clear()
        assert process.wait(5) < 0


@on_folders
def test_directories_are_found(census: Census, ground: Ground, folder: Path) -> None:
    (folder / "home").mkdir(parents=True)
    assert kinds(census) == ["directory"]
    assert list(map(str, census.clear())) == []
    temporary = Path(ground.environment(ground.steady.place, ground.token_of("leak"))["TMPDIR"])
    (temporary / "forgotten").write_text("x")
    assert kinds(census) == ["directory"]


@on_folders
def test_what_comes_late_is_found(census: Census, folder: Path) -> None:
    assert census() == []
    later = Timer(0.15, folder.mkdir)
    later.start()
    assert stays(census)
    later.join()


@on_all
@pytest.mark.parametrize("session", [False, True])
def test_a_process_is_found(census: Census, ground: Ground, session: bool) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", "import signal; print(flush=True); signal.pause()"],
        env={**os.environ, processes.MARK: ground.token_of("leak")},
        stdout=subprocess.PIPE,
        start_new_session=session,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert [each.id for each in census()] == [str(process.pid)]
        assert stays(census)
        census.clear()
        assert process.wait(5) < 0


@on_root
@on_folders
def test_a_sandbox_is_found(census: Census, folder: Path) -> None:
    """A process that has inherited nothing but has a mount of a machine in a namespace of its own."""
    place = folder / "home"
    place.mkdir(parents=True)
    script = f"mount -t tmpfs none {place}; echo; exec sleep 600"
    with subprocess.Popen(
        ["unshare", "--mount", "sh", "-c", script], env={"PATH": os.environ["PATH"]}, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert kinds(census) == ["directory", "process"]
        census.clear()
        assert process.wait(5) < 0


@on_root
@on_folders
def test_a_mount_is_found(census: Census, folder: Path) -> None:
    place = folder / "home"
    place.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "none", str(place)], check=True)
    assert kinds(census) == ["directory", "mount"]


@on("kvm")
def test_what_a_machine_has_of_libvirt_is_found(census: Census, ground: Ground) -> None:
    """A domain of our labels and one without, with what libvirt makes for them, and a file that it does not know of."""
    host = libvirt_host(ground)
    labels = Resource.lease_for("kvm", Kind.MACHINE, ground.token_of("leak")).labels()
    for name, each in (("rexx-one", labels), ("other", {})):
        begin(host, domain_xml(name, each))
    host.pool.joinpath("rexx-one.qcow2").touch()
    assert kinds(census) == ["domain", "file", "process", "volume"]
    assert stays(census)


@on("kvm")
def test_what_is_defined_only_is_found(census: Census, ground: Ground) -> None:
    host = libvirt_host(ground)
    ask, connection = host.node.ask, host.node.connection
    ask(connection.defineXML, domain_xml("other", {}))
    ask(connection.networkDefineXML, "<network><name>other</name><bridge name='other'/></network>")
    folder = host.pool.with_name("other")
    folder.mkdir()
    pool = f"<pool type='dir'><name>other</name><target><path>{folder}</path></target></pool>"
    ask(connection.storagePoolDefineXML, pool)
    ask(connection.secretDefineXML, "<secret ephemeral='no'><usage type='ceph'><name>other</name></usage></secret>")
    subprocess.run([*host.words, "nft", "add", "table", "inet", "rexxinfra-0123"], check=True)
    assert kinds(census) == ["domain", "file", "network", "pool", "secret", "table"]


@on("kvm")
@pytest.mark.parametrize(
    "names",
    [
        ["template-0a.qcow2", "template-0a.ram", "template-0a.state"],
        ["image-0a.qcow2"],
        ["image-0a.is-0b.of-0c"],
        ["base-0a.qcow2", "base-0a.qcow2.draft,here:1:2:a:b,1"],
    ],
    ids=["template", "image", "name", "draft"],
)
def test_images_that_are_not_whole_are_found(census: Census, ground: Ground, names: list[str]) -> None:
    for name in names:
        libvirt_host(ground).pool.joinpath(name).touch()
    assert {each.text for each in census()} == {*names}


@on("kvm")
def test_a_libvirtd_that_was_hit_is_back_and_nobody_was_hurt(ground: Ground) -> None:
    host = libvirt_host(ground)
    for number in (KILL.signal, RESTART.signal):
        host.hit(number)
        host.start()
        assert ground.complaints(ground.steady) == []
        assert ground.census(ground.steady)() == []


@on("kvm")
@pytest.mark.parametrize("key", ["domain", "domain abroad", "network", "pool"])
def test_a_stranger_on_a_libvirt_host_that_was_hurt_is_noticed(ground: Ground, key: str) -> None:
    strangers = Domains(libvirt_host(ground), ground.token_of("hurt"), bridge="hurt")
    try:
        assert strangers.complaint() is None
        strangers.end(key)
        assert strangers.complaint() is not None
    finally:
        strangers.close()


@on("nspawn", "lxc")
def test_a_control_group_is_found(census: Census, ground: Ground) -> None:
    lease = Resource.lease_for(ground.terrain.name, Kind.MACHINE, ground.token_of("leak"), "m1")
    ground.ledger.intend(lease)
    ground.ledger.closed([lease.lease])
    Cgroup.named(lease.name).make()
    assert set(kinds(census)) == {"control group"}


@on("podman", "nspawn", "lxc", "kvm")
def test_a_network_interface_is_found(census: Census, ground: Ground) -> None:
    words = [*ground.steady.place.words, "ip", "link", "add"]
    subprocess.run([*words, "rx0123456789ab", "type", "veth", "peer", "name", "forgotten"], check=True)
    assert set(kinds(census)) == {"interface"}
    assert stays(census)


@on_all
def test_a_neighbour_that_was_hurt_is_noticed(ground: Ground, census: Census) -> None:
    second = ground.new_neighbour("second")
    assert second.complaint() is None
    assert census() == []
    victim = second.made[ground.terrain.systems[0]]
    assert ground.command(ground.steady.place, "rm", "rm", victim).returncode == 0
    assert second.complaint() is not None
    assert ground.complaints(ground.steady) == []


@on_engines
def test_a_stranger_in_an_engine_that_was_hurt_is_noticed(ground: Ground) -> None:
    api = ground.steady.engine.api
    strangers = Containers(ground.steady.engine, ground.token_of("hurt"))
    try:
        assert strangers.complaint() is None
        for container in strangers.containers.values():
            api.kill(container)
        assert strangers.complaint() is not None
        assert strangers.complaint(running=False) is None
        api.remove_volume(strangers.name)
        assert strangers.complaint(running=False) is not None
    finally:
        strangers.close()


@on_folders
@pytest.mark.parametrize("file", [False, True])
def test_a_stranger_with_a_folder_that_was_hurt_is_noticed(ground: Ground, file: bool) -> None:
    stranger = Folder(ground.state, ground.terrain.systems[-1], ground.token_of("hurt"))
    try:
        assert stranger.complaint() is None
        if file:
            (stranger.folder / "record.json").unlink()
        else:
            stranger.process.kill()
            stranger.process.wait()
        assert stranger.complaint() is not None
    finally:
        stranger.close()


@on_all
def test_a_leak_of_a_whole_run_is_reported(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the start of the run to the report, with a suite that leaves a volume and a process."""
    leaky = replace(
        plan(0, "harness", ground.terrain), victim=Victim.CONTROLLER, blow=KILL, phase=Phase.TEST, event=1, delay=0.1
    )
    monkeypatch.setattr(trial, "_LATE", 1)
    outcome = conduct(leaky, ground, "suite_leak.py")
    assert not outcome.ok
    forgotten = {"docker": "volume", "podman": "volume", "kvm": "network"}.get(ground.terrain.name, "directory")
    assert {text.split()[0] for text in outcome.left} >= {"process", forgotten}
    assert "SIGKILL to controller" in str(outcome)
    assert ground.census(ground.steady)() == []
    assert outcome.clean_up >= ground.terrain.limit


@on("docker")
def test_what_goes_after_the_limit_is_late(ground: Ground) -> None:
    hit = replace(plan(0, "harness", DOCKER), victim=Victim.CONTROLLER, blow=KILL, phase=Phase.TEST, event=1, delay=0.1)
    outcome = conduct(hit, ground, "suite_late.py")
    assert outcome.ok, str(outcome)
    assert outcome.late
    assert outcome.clean_up > LIMIT
    assert "left at the limit: process" in outcome.story


def test_few_may_be_late() -> None:
    late = Outcome(plan(0, "x", DOCKER), late=True)
    assert not too_many_late([late])
    assert too_many_late([late] * (TOLERATED + 1))


@on("docker")
def test_another_engine_is_hit_when_one_broke_for_good(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    if ground.obstacle:
        pytest.skip(f"no dockerd of our own to kill: {ground.obstacle}")
    first = ground.mortal
    usual = PrivateEngine.start

    def start(engine: PrivateEngine) -> None:
        if engine is first.place:
            raise Broken("it panics")
        usual(engine)

    monkeypatch.setattr(PrivateEngine, "start", start)
    hit = replace(plan(0, "harness", DOCKER), victim=Victim.DAEMON, blow=KILL, phase=Phase.CREATE, event=1)
    outcome = conduct(hit, ground)
    assert outcome.ok, str(outcome)
    assert ground.mortal is not first


@on("docker")
def test_a_moment_that_never_comes_is_reported(ground: Ground) -> None:
    late = replace(plan(0, "harness", DOCKER), phase=Phase.DEPLOY, event=99)
    outcome = conduct(late, ground, "suite_next.py")
    assert any("missed" in complaint for complaint in outcome.complaints)


def test_a_private_engine_leaves_nothing() -> None:
    obstacle = PrivateEngine.obstacle()
    if obstacle:
        pytest.skip(obstacle)
    with tempfile.TemporaryDirectory() as folder:
        engine = PrivateEngine(Path(folder, "engine"))
        first = engine.api.info()["ID"]
        engine.hit(KILL.signal)
        engine.start()
        assert engine.api.info()["ID"] == first
        engine.close()
        assert list(Path(folder).iterdir()) == []
        assert processes.mounts(Path(folder)) == []
        assert not any(folder in processes.command(int(each.name)) for each in Path("/proc").glob("[0-9]*"))


@pytest.mark.skipif(Computer.obstacle() is not None, reason="there are no namespaces of our own")
def test_a_network_of_our_own_is_no_one_elses(tmp_path: Path) -> None:
    place = Computer(tmp_path / "place")
    try:
        subprocess.run([*place.words, "ip", "link", "add", "rxforgotten", "type", "bridge"], check=True)
        assert [left.id for left in place.remains(lambda _identity, _labels: True)] == ["rxforgotten"]
        assert not Path("/sys/class/net/rxforgotten").exists()
    finally:
        place.close()


@pytest.mark.parametrize("terrain", TERRAINS.values(), ids=list(TERRAINS))
def test_every_combination_comes_equally_often(terrain: Terrain) -> None:
    each_once = len(strokes(terrain))
    all_ = plans("x", terrain, 8 * each_once)
    counts = Counter((each.victim, each.blow, each.workers, each.phase) for each in all_)
    assert set(counts.values()) == {2}
    assert {each.workers for each in all_} == {0, terrain.workers}
    some = Counter(each.phase for each in all_[:each_once])
    assert max(some.values()) - min(some.values()) <= 1


def test_as_many_runs_as_there_are_rounds() -> None:
    counts = {terrain.name: len(plans("x", terrain)) for terrain in TERRAINS.values()}
    assert counts == {"docker": 13, "podman": 12, "nspawn": 12, "lxc": 12, "kvm": 6}


@pytest.mark.parametrize("terrain", TERRAINS.values(), ids=list(TERRAINS))
def test_a_short_campaign_has_something_of_everything(terrain: Terrain) -> None:
    some = plans("x", terrain, 12)
    assert len({each.id for each in some}) == 12
    assert {each.victim for each in some} == {victim for victim, *_ in strokes(terrain)}
    assert {each.workers for each in some} == {0, terrain.workers}
    assert {each.phase for each in some} == set(Phase)


@pytest.mark.parametrize("terrain", TERRAINS.values(), ids=list(TERRAINS))
def test_the_shortest_campaign_hits_everybody(terrain: Terrain) -> None:
    victims = {victim for victim, *_ in strokes(terrain)}
    some = plans("x", terrain, len(victims))
    assert {each.victim for each in some} == victims
    assert {each.phase for each in some} == set(Phase)
    assert (Victim.CONTROLLER, KILL) in {(each.victim, each.blow) for each in some}


def test_only_where_there_is_a_daemon_it_is_hit() -> None:
    hit = [name for name, each in TERRAINS.items() if any(v is Victim.DAEMON for v, *_ in strokes(each))]
    assert hit == ["docker", "kvm"]


def test_a_plan_can_be_repeated_alone() -> None:
    assert plans("x", DOCKER, 50)[17] == plan(17, "x", DOCKER)
    assert plan(17, "x", DOCKER) != plan(17, "y", DOCKER)
    assert plan(17, "x", DOCKER).id == plan(17, "y", DOCKER).id
    assert plan(17, "x", DOCKER).id != plan(17, "x", TERRAINS["podman"]).id


def test_the_table_counts_what_failed() -> None:
    def outcome(number: int, **more: object) -> Outcome:
        made: Plan = plan(number, "x", DOCKER)
        return Outcome(made, **more)  # type: ignore[arg-type]

    outcomes = [outcome(79, clean_up=0.5), outcome(1, clean_up=1.25, left=["container x", "network y"])]
    lines = table(outcomes)
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells[2] == ["controller", "SIGINT", "1", "1", "0", "0", "2", "0", "0", "2", "1", "1.25 s"]
    assert cells[-1][0] == "total"
    assert table([]) == []
    places = {"docker": "an engine", "podman": "another"}
    assert [line for line in text(outcomes, "x", places) if line.startswith(("docker", "podman"))] == [
        "docker: an engine, seed x"
    ]
