"""Runs that end in the middle of what takes long, and machines that are kept: nothing is left on a libvirt host."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import dedent

import pytest
import yaml

from pytest_rexxinfra.deadline import Deadline
from tests.chaos.left import Left
from tests.chaos.libvirt_host import LibvirtHost

from .conftest import required
from .ground import hosts

_GUARD = 120.0
_GONE = 10.0
"""Seconds for the reaper, with libvirt busy making what a dead run had asked for."""

_CLI = [sys.executable, "-m", "pytest_rexxinfra.cli"]
_TICK = 0.005


class Ground:
    """A place for inner runs, which share a state and a ledger; each runs in a folder of its own."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder = folder
        self.environment = {
            **{name: value for name, value in os.environ.items() if name == "REXX_CACHE" or "REXX_" not in name},
            **environment,
            "REXX_KVM_ACCELERATION": "tcg",
            "REXX_PROVISION_TIMEOUT": "300",
            "REXX_STATE": str(folder / "state"),
            "REXX_LEDGER": str(folder / "ledger"),
        }
        (folder / "state").mkdir(mode=0o700)

    def start(self, text: str, *options: str) -> Going:
        """Run tests, given as text."""
        return Going(self, dedent(text), options)

    def run(self, text: str, *options: str) -> Going:
        """Run tests to the end."""
        going = self.start(text, *options)
        going.process.wait(_GUARD)
        return going

    def command(self, *words: str) -> str:
        """What ``rexxinfra`` prints with these words."""
        done = subprocess.run(
            [*_CLI, *words], env=self.environment, capture_output=True, text=True, timeout=_GUARD, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


class Going:
    """A pytest run in a process group of its own."""

    def __init__(self, ground: Ground, text: str, options: tuple[str, ...]) -> None:
        self._folder = ground.folder / f"run-{time.monotonic_ns()}"
        self._folder.mkdir()
        (self._folder / "test_inner.py").write_text(text)
        (self._folder / "pytest.ini").write_text("[pytest]\n")
        target = ground.environment.get("REXX_TARGET", "kvm")
        usual = (f"--rexx-target={target}", "--rexx-require=kvm", "--rexx-pool=0", "-v", "-p", "no:cacheprovider")
        with (self._folder / "output").open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "pytest", *usual, *options],
                cwd=self._folder,
                env=ground.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    @property
    def said(self) -> str:
        return (self._folder / "output").read_text(errors="replace")

    def await_(self, what: Callable[[], object], name: str) -> None:
        """Wait for something, as long as it goes on."""

        def there() -> bool:
            if self.process.poll() is not None:
                pytest.fail(f"it ended before {name}: {self.said}")
            return bool(what())

        Deadline(_GUARD).wait_for(there, name, first=_TICK, longest=_TICK)

    def signal(self, number: signal.Signals) -> None:
        os.killpg(self.process.pid, number)

    def reapers(self) -> list[int]:
        """The processes that it has started to clean up after it."""
        told = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return [int(pid) for pid in told if b"reaper_process" in Path(f"/proc/{pid}/cmdline").read_bytes()]


@pytest.fixture(scope="module")
def place() -> Iterator[LibvirtHost]:
    obstacle = LibvirtHost.obstacle()
    if obstacle:
        pytest.skip(obstacle)
    with required():
        made = LibvirtHost(Path("leftovers"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def ground(place: LibvirtHost, tmp_path_factory: pytest.TempPathFactory) -> Ground:
    return Ground(tmp_path_factory.mktemp("ground"), dict(place.environment))


def remains(place: LibvirtHost) -> list[Left]:
    return [*place.remains(lambda _identity, _labels: True)]


def records(ground: Ground) -> list[Path]:
    shelves = ("state/kvm", "state/kvm-places", "storage-pools", "storage-disks")
    return [path for shelf in shelves for path in (ground.folder / shelf).glob("*")]


@contextmanager
def nothing_is_left(place: LibvirtHost, ground: Ground) -> Iterator[None]:
    """Nothing was there before the block, and soon nothing is there after it."""

    def nothing() -> bool:
        found[:] = [*map(str, remains(place)), *map(str, records(ground))]
        return not found

    found: list[str] = []
    assert nothing(), found
    yield
    try:
        Deadline(_GONE).wait_for(nothing, "that nothing is left")
    except Exception:
        pytest.fail(f"left: {found}")


def volumes(place: LibvirtHost, pattern: str) -> list[str]:
    return [path.name for path in place.pool.glob(pattern)]


def boots_a_template(place: LibvirtHost) -> bool:
    """Whether one of which something is to be seen already is booting."""
    return any(path.stat().st_size for path in place.pool.glob("*.template.log"))


def needing(memory: str) -> str:
    """A test whose machine has so much memory, and so a template of its own."""
    return f"""
        import pytest

        @pytest.mark.machine(memory="{memory}")
        def test_it(machine):
            assert machine.run("echo there").lines == ["there"]
            assert machine.status.details["made"] == "from memory"
    """


@pytest.mark.parametrize("remedy", ["reaper", "reap", "next run"])
def test_a_run_that_is_killed_while_its_template_boots(place: LibvirtHost, ground: Ground, remedy: str) -> None:
    with nothing_is_left(place, ground):
        going = ground.start(needing("112m"))
        going.await_(lambda: boots_a_template(place), "its template boots")
        if remedy != "reaper":
            for pid in going.reapers():
                os.kill(pid, signal.SIGKILL)
        going.signal(signal.SIGKILL)
        going.process.wait(_GUARD)
        if remedy != "reaper":
            assert {each.kind for each in remains(place)} >= {"domain", "volume", "process"}
        if remedy == "reap":
            assert "removed kvm machine" in ground.command("reap")
        if remedy == "next run":
            assert ground.run("def test_next(machine): assert machine.run('true').ok").process.returncode == 0


def test_a_signal_while_a_template_boots_is_heeded(place: LibvirtHost, ground: Ground) -> None:
    with nothing_is_left(place, ground):
        going = ground.start(needing("114m"))
        going.await_(lambda: boots_a_template(place), "its template boots")
        began = time.monotonic()
        going.signal(signal.SIGINT)
        assert going.process.wait(_GUARD) == pytest.ExitCode.INTERRUPTED, going.said
        assert time.monotonic() - began < 4, going.said
        assert remains(place) == []
        assert "left" not in going.said


def test_a_run_that_is_killed_while_its_machine_is_saved_as_an_image(place: LibvirtHost, ground: Ground) -> None:
    text = """
        def test_it(machine):
            machine.run("head -c 64m /dev/urandom >/root/filler; sync", check=True)
            machine.commit("saved")
    """
    with nothing_is_left(place, ground):
        going = ground.start(text)
        going.await_(lambda: volumes(place, "image-*.qcow2"), "the image is made")
        going.signal(signal.SIGKILL)
        going.process.wait(_GUARD)
        assert any(each.kind == "volume" for each in remains(place))
    assert volumes(place, "image-*") == []


def test_two_runs_that_need_the_same_template_make_one(place: LibvirtHost, ground: Ground) -> None:
    with nothing_is_left(place, ground):
        before = {*volumes(place, "template-*.json")}
        both = [ground.start(needing("116m")) for _ in range(2)]
        for each in both:
            assert each.process.wait(_GUARD) == 0, each.said
        assert len({*volumes(place, "template-*.json")} - before) == 1


def test_what_is_kept_tells_of_its_parts_and_goes_when_it_is_told_to(place: LibvirtHost, ground: Ground) -> None:
    text = """
        def test_it(provision):
            data = provision.storage("dir").create("data", "2m")
            machine = provision("web", network=provision.network())
            machine.attach(data)
            machine.attach("1m")
            provision("good")
            raise AssertionError("it fails")

        def test_good(machine):
            assert machine.run("true").ok
    """
    with nothing_is_left(place, ground):
        going = ground.run(text, "--rexx-keep=failed")
        assert "1 failed, 1 passed" in going.said
        words = re.search(r"kept kvm:web until .*, remove with `rexxinfra rm (.*)`", going.said)
        assert words, going.said
        [web] = [name for name in words[1].split() if name.startswith("rexx-web-")]
        documents = [*yaml.safe_load_all(ground.command("ps", web, "-o", "yaml"))]
        kinds = [each["kind"].lower() for each in documents]
        assert kinds[0] == "machine"
        assert {"disk", "interface"} <= {*kinds}, documents
        assert ground.run("def test_next(machine): assert machine.run('true').ok").process.returncode == 0
        assert ground.command("shell", web, "hostname").strip() == "web"
        ground.command("rm", *[each["name"] for each in json.loads(ground.command("ps", "--json"))])


def test_a_run_that_is_killed_while_a_machine_moves(tmp_path: Path) -> None:
    text = """
        def test_it(machine):
            machine.migrate()
    """
    with hosts("a", "b") as there:
        target = f"kvm://{','.join(f'{host.name}={host.uri}' for host in there)}"
        ground = Ground(tmp_path, {"REXX_TARGET": target})

        def left() -> list[str]:
            found = [path.name for path in (there[0].images / "rexxinfra").glob("rexx-*")]
            return [*found, *(str(pid) for host in there for pid in host.processes("qemu"))]

        going = ground.start(text)
        going.await_(lambda: all(host.processes("qemu") for host in there), "the machine moves")
        going.signal(signal.SIGKILL)
        going.process.wait(_GUARD)
        assert left()
        Deadline(3 * _GONE).wait_for(lambda: not left() and not records(ground), "that nothing is left")
