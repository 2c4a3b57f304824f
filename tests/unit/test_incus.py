"""What only a real incus can show, beyond what every system has to."""

from __future__ import annotations

import base64
import os
import subprocess
import tarfile
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_rexxinfra import Lab, Machine, Spec
from pytest_rexxinfra.deadline import Deadline
from pytest_rexxinfra.errors import (
    CommandFailed,
    ImageError,
    MachineDied,
    ProvisionError,
    SystemUnavailable,
    UsageError,
)
from pytest_rexxinfra.images import ImageStore
from pytest_rexxinfra.model import Kind, Phase, Resource
from pytest_rexxinfra.policy import GRANTS
from pytest_rexxinfra.settings import Settings
from pytest_rexxinfra.systems.incus import IncusDriver
from pytest_rexxinfra.systems.incus_api import NOT_FOUND, Refused, place
from pytest_rexxinfra.systems.incus_instance import incus_name, instance

SECRET = "hush-8171\n'\"$X "


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    settings = Settings(target="incus", timeout=30)
    with Lab(replace(settings, policy=replace(settings.policy, allow=GRANTS))) as lab:
        try:
            lab.driver("incus")
        except SystemUnavailable as error:
            if {"incus", "all"} & set(os.environ.get("REXX_REQUIRE", "").split(",")):
                raise
            pytest.skip(str(error))
        yield lab
    assert not lab.tally.left


@pytest.fixture
def driver(lab: Lab) -> IncusDriver:
    found = lab.driver("incus")
    assert isinstance(found, IncusDriver)
    return found


@pytest.fixture
def make(lab: Lab, request: pytest.FixtureRequest) -> Callable[..., Machine]:
    def provision(**wishes: object) -> Machine:
        machine = lab.provision(spec=Spec.of(**wishes))
        request.addfinalizer(lambda: lab.destroy(machine))
        return machine

    return provision


class Arguments:
    """Collects the arguments of every process of the computer while the block runs."""

    def __enter__(self) -> Arguments:
        self.seen: set[bytes] = set()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()
        return self

    def _look(self) -> None:
        while not self._over.is_set():
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                with suppress(OSError):
                    self.seen.add(path.read_bytes())

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


def test_secrets_are_in_no_arguments(make: Callable[..., Machine]) -> None:
    with Arguments() as arguments:
        machine = make(env={"HUSH": SECRET}, command='printf %s "$HUSH" >/root/main; exec sleep 1000')
        machine.wait_until("test -s /root/main")
        assert machine.read("/root/main").decode() == SECRET
        assert machine.run('printf %s "$HUSH"').stdout == SECRET
        assert machine.run('printf %s "$HUSH"', user="nobody").stdout == SECRET
        assert machine.run('cat >/dev/null; printf %s "$HUSH"', stdin=b"x" * 2_000_000).stdout == SECRET
    told = b"".join(arguments.seen)
    assert b"forkexec" in told
    assert b"hush-8171" not in told
    assert base64.b64encode(b"hush-8171") not in told


def test_entering(make: Callable[..., Machine]) -> None:
    machine = make(env={"COLOUR": "red"})
    command = machine.driver.enter_command(machine.resource, ["sh", "-c", "echo $COLOUR; exit 3"], terminal=False)
    done = subprocess.run(command, stdout=-1, stdin=subprocess.DEVNULL, check=False)
    assert (done.returncode, done.stdout) == (3, b"red\n")


def test_a_machine_whose_run_died_while_it_was_made(driver: IncusDriver) -> None:
    for _ in range(3):
        lease = Resource.lease_for("incus", Kind.MACHINE, "run", "half")
        source = {"type": "image", "fingerprint": driver.prepare(Spec(), Deadline(300))}
        body = instance(replace(lease, id=incus_name(lease.name)), Spec(), source, driver.surface, None)
        driver.api.begin("POST", "/1.0/instances", body)
        driver.destroy([lease], Deadline(30))
        assert driver.status(lease).phase is Phase.GONE
        assert lease.lease not in [each.lease for each in driver.list()]


def test_commands_wait_until_process_1_has_prepared_the_machine(lab: Lab, make: Callable[..., Machine]) -> None:
    slow = make()
    shell = '#!/bin/busybox sh\n[ $$ != 1 ] || sleep 1\nexec /bin/busybox sh "$@"\n'
    slow.run("cat >/bin/slow; chmod 755 /bin/slow; mv /bin/slow /bin/sh; rm /etc/resolv.conf", stdin=shell, check=True)
    image = slow.commit("rexxinfra-test:slow")
    try:
        machine = make(image=image, env={"COLOUR": "red"})
        look = "cat /sys/class/net/lo/operstate; echo $COLOUR${REXXINFRA_WAIT-}; cat /etc/resolv.conf"
        assert machine.run(look, check=True).lines == ["unknown", "red"]
        machine.restart()
        assert machine.run(look, check=True).lines == ["unknown", "red"]
    finally:
        slow.driver.remove_image(image)


def ours(lab: Lab, driver: IncusDriver) -> list[str]:
    return [each.name for each in driver.list() if each.run == lab.run_id]


def test_what_cannot_be_made_leaves_nothing(lab: Lab, driver: IncusDriver) -> None:
    before = ours(lab, driver)
    with pytest.raises(UsageError, match="no volume 'rexx-not-there"):
        lab.provision(spec=Spec.of(volumes=["rexx-not-there-0123456789ab:/data"]))
    with pytest.raises(UsageError, match="no network 'none-such'"):
        lab.provision(spec=Spec.of(network="none-such"))
    assert ours(lab, driver) == before


def test_an_image_without_a_shell(lab: Lab, driver: IncusDriver, tmp_path: Path) -> None:
    (tmp_path / "root/etc").mkdir(parents=True)
    archive = tmp_path / "bare.tar"
    with tarfile.open(archive, "w") as tar:
        tar.add(tmp_path / "root", arcname=".")
    try:
        with pytest.raises(ProvisionError, match=r"ERROR .*/bin/sh") as caught:
            lab.provision(spec=Spec(image=str(archive)))
        assert "/bin/sh" in str(caught.value.hint)
    finally:
        driver.api.run(
            "DELETE", place("images", driver.prepare(Spec(image=str(archive)), Deadline(5))), deadline=Deadline(30)
        )


def test_the_last_words_of_a_main_process(lab: Lab) -> None:
    with pytest.raises((ProvisionError, MachineDied), match="cannot go on"):
        lab.provision(spec=Spec.of(command="echo cannot go on >&2; exit 1")).run("sleep 10")


def test_a_main_process_that_has_no_log_yet(make: Callable[..., Machine]) -> None:
    machine = make(command="sleep 1000")
    machine.wait_until("rm /var/log/rexxinfra-*.log")
    assert machine.logs() == ""


def test_a_paused_machine_says_so_to_new_commands(driver: IncusDriver, make: Callable[..., Machine]) -> None:
    machine = make()
    machine.pause()
    with pytest.raises(UsageError, match="paused"):
        driver.open(machine.resource, ["true"], Deadline(5))
    machine.resume()
    assert machine.run("echo again").lines == ["again"]


def test_a_user_that_is_none(make: Callable[..., Machine]) -> None:
    with pytest.raises(UsageError, match="nobody-at-all"):
        make().run("true", user="nobody-at-all")


def test_a_privileged_machine_is_roots_own(make: Callable[..., Machine]) -> None:
    assert make().run("cat /proc/self/uid_map").lines[0].split()[1] != "0"
    assert make(privileged=True).run("cat /proc/self/uid_map").lines[0].split()[1] == "0"


def test_images_that_incus_has_already(driver: IncusDriver, make: Callable[..., Machine]) -> None:
    fingerprint = driver.prepare(Spec(), Deadline(300))
    assert driver.prepare(Spec(image=fingerprint), Deadline(5)) == fingerprint
    assert make(image=fingerprint[:12]).run("true").ok
    with pytest.raises(ImageError, match="no container image"):
        driver.prepare(Spec(image="no-such"), Deadline(5))


def test_archives_are_images_of_which_the_newest_stay(
    driver: IncusDriver, make: Callable[..., Machine], tmp_path: Path
) -> None:
    store = ImageStore()
    recipe = store.find("mini")
    assert recipe is not None
    source = store.rootfs(store.ensure(recipe, Deadline(600)))
    made = []
    for number in range(4):
        archive = tmp_path / f"{number}.tar.gz"
        (tmp_path / "number").write_text(str(number))
        with tarfile.open(archive, "w:gz") as tar:
            for name in ("bin", "etc", "sbin", "usr/bin"):
                tar.add(source / name, arcname=name, filter=lambda member: None if "node" in member.name else member)
            tar.add(tmp_path / "number", arcname="number")
        made.append(driver.prepare(Spec(image=str(archive)), Deadline(100)))
    assert make(image=str(tmp_path / "3.tar.gz")).read("/number") == b"3"
    assert driver.api.find(place("images", made[0])) is None
    (tmp_path / "bad.tar").write_text("no archive")
    with pytest.raises(ImageError, match=r"bad\.tar"):
        driver.prepare(Spec(image=str(tmp_path / "bad.tar")), Deadline(100))
    for each in made[1:]:
        driver.api.run("DELETE", place("images", each), deadline=Deadline(30))


def test_a_committed_image_is_replaced(driver: IncusDriver, make: Callable[..., Machine]) -> None:
    machine = make()
    for text in ("one", "two"):
        machine.write("/root/text", text)
        machine.commit("rexxinfra/unit:state")
    try:
        assert make(image="rexxinfra/unit:state").read("/root/text") == b"two"
    finally:
        driver.remove_image("rexxinfra/unit:state")
    driver.remove_image("rexxinfra/unit:state")
    assert machine.snapshots == []


def test_an_image_is_not_mistaken_for_what_was_published_of_its_machines(
    driver: IncusDriver, make: Callable[..., Machine]
) -> None:
    """Published images inherit the properties of the image of their machine."""
    before = driver.prepare(Spec(), Deadline(300))
    machine = make()
    try:
        for number in range(6):
            machine.commit(f"rexxinfra/unit:{number}")
            assert IncusDriver(driver.around).prepare(Spec(), Deadline(300)) == before
    finally:
        for number in range(6):
            driver.remove_image(f"rexxinfra/unit:{number}")


def test_an_image_without_its_alias_is_found_again(driver: IncusDriver) -> None:
    fingerprint = driver.prepare(Spec(), Deadline(300))
    for alias in driver.api.get(place("images", fingerprint))["aliases"]:
        driver.api.run("DELETE", place("images", "aliases", alias["name"]), deadline=Deadline(30))
    for _ in range(2):
        assert IncusDriver(driver.around).prepare(Spec(), Deadline(300)) == fingerprint


def test_many_are_removed_at_once(lab: Lab, driver: IncusDriver) -> None:
    machines = [lab.provision() for _ in range(4)]
    gone = lab.provision()
    driver.destroy([gone.resource], Deadline(30))
    lab.destroy(*machines, gone)
    assert not {each.resource.lease for each in machines} & {each.lease for each in driver.list()}


def test_names_of_a_network_survive_a_restart(lab: Lab, request: pytest.FixtureRequest) -> None:
    network = lab.network()
    request.addfinalizer(lambda: lab.remove(network))
    web = lab.provision(spec=Spec.of(network=network), name="web")
    request.addfinalizer(lambda: lab.destroy(web))
    web.snapshot("early")
    client = lab.provision(spec=Spec.of(network=network), name="client")
    request.addfinalizer(lambda: lab.destroy(client))
    assert web.run("ping -c1 -W2 client", check=True).ok
    web.restore("early")
    assert web.run("ping -c1 -W2 client", check=True).ok
    client.restart()
    assert client.run("ping -c1 -W2 web", check=True).ok
    with pytest.raises(CommandFailed):
        client.run("ping -c1 -W1 192.0.2.1", check=True)


def test_a_network_that_cannot_be_made_leaves_no_wire(driver: IncusDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(method: str, path: str, *_: object, **__: object) -> None:
        raise Refused("not now", NOT_FOUND, f"{method} {path}")

    lease = Resource.lease_for("incus", Kind.NETWORK, "run", "net")
    monkeypatch.setattr(driver.api, "run", refuse)
    with pytest.raises(ProvisionError, match="not now"):
        driver.create_network(lease, Deadline(10))
    assert not Path(f"/sys/class/net/rx{lease.lease}").exists()
