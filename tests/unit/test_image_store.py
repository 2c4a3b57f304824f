"""Images are really built here: what is in them, and that the cache survives what happens to caches."""

from __future__ import annotations

import json
import logging
import os
import shutil
import stat
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_rexxinfra.deadline import Deadline
from pytest_rexxinfra.errors import DeadlineExceeded, ImageError, SystemUnavailable
from pytest_rexxinfra.events import Events, Step
from pytest_rexxinfra.images import ImageStore, Recipe, RootfsImage
from pytest_rexxinfra.images.busybox import is_static
from pytest_rexxinfra.images.debian import _packaged_node
from pytest_rexxinfra.images.recipe import host_arch
from pytest_rexxinfra.images.roots import in_use
from pytest_rexxinfra.images.tarball import EPOCH, Tree
from pytest_rexxinfra.locks import locked
from pytest_rexxinfra.node import NODE_VERSION

from .support import REPOSITORY, run_as_nobody

EXAMPLE = REPOSITORY / "fixtures/images/mini-regina.toml"
# Without node, so that tests which build again and again are done in milliseconds.
TINY = Recipe(name="tiny", kind="busybox", node="none")

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
needs_mmdebstrap = pytest.mark.skipif(shutil.which("mmdebstrap") is None, reason="mmdebstrap is not here")


class Recorder:
    def __init__(self) -> None:
        self.steps: list[Step] = []

    def step_started(self, step: Step) -> None:
        self.steps.append(step)

    def step_ended(self, step: Step) -> None: ...

    @property
    def builds(self) -> int:
        return sum(step.what == "build" for step in self.steps)


@pytest.fixture
def seen() -> Recorder:
    return Recorder()


@pytest.fixture
def store(tmp_path: Path, seen: Recorder) -> ImageStore:
    return ImageStore(tmp_path / "images", events=Events(seen))


@pytest.fixture(scope="session")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> ImageStore:
    """A store of this run alone, so that what is in it was built now."""
    return ImageStore(tmp_path_factory.mktemp("fresh"))


@pytest.fixture(scope="session")
def mini(fresh: ImageStore) -> RootfsImage:
    return fresh.ensure(fresh.recipes()["mini"], Deadline(300))


@pytest.fixture(scope="session")
def debian() -> RootfsImage:
    """Built once per computer: it takes half a minute."""
    store = ImageStore()
    return store.ensure(store.recipes()["debian-12"], Deadline(1200))


def run_in(root: Path, *command: str) -> str:
    # Nothing may be written into a directory that is shared, Python's byte code included.
    env = {"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(["chroot", root, *command], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def members(tar: Path) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(tar) as archive:
        return {member.name: member for member in archive}


def read(tar: Path, name: str) -> bytes:
    with tarfile.open(tar) as archive:
        file = archive.extractfile(name)
        assert file is not None
        return file.read()


def leftovers(store: ImageStore) -> list[Path]:
    return list(store.root.glob(".tmp-*"))


@needs_root
def test_mini_runs_a_shell_and_node(fresh: ImageStore, mini: RootfsImage) -> None:
    root = fresh.rootfs(mini)
    assert run_in(root, "/bin/sh", "-c", "echo $((6*7))") == "42"
    assert run_in(root, "node", "-e", "console.log(6*7)") == "42"
    assert run_in(root, "node", "--version") == f"v{NODE_VERSION}" == f"v{mini.node}"
    assert run_in(root, "/bin/sh", "-c", "echo hello | base64 | base64 -d") == "hello"
    assert run_in(root, "setsid", "env", "A=1", "/bin/sh", "-c", "echo $A") == "1"
    assert run_in(root, "/bin/sh", "-c", "tar -cf - /etc | tar -tf - | grep -c hostname") == "1"
    lookup = "require('dns').lookup('localhost', (e, a) => console.log(e || a))"
    assert run_in(root, "node", "-e", lookup) in ("127.0.0.1", "::1")


def test_mini_describes_itself(mini: RootfsImage) -> None:
    assert (mini.name, mini.arch, mini.node) == ("mini", host_arch(), NODE_VERSION)
    assert mini.size == mini.tar.stat().st_size < 250e6
    assert len(mini.digest) == len(mini.key) == 64
    names = members(mini.tar)
    for name in ("etc/passwd", "etc/group", "etc/hosts", "etc/nsswitch.conf", "etc/os-release", "bin/sh"):
        assert name in names
    assert read(mini.tar, "etc/hostname") == b"mini\n"
    assert stat.S_IMODE(names["tmp"].mode) == 0o1777
    assert {(each.uid, each.gid) for each in names.values()} == {(0, 0)}
    assert list(names)[1:] == sorted(list(names)[1:])
    assert not [name for name in names if name.startswith("dev/")]


def test_the_same_recipe_gives_the_same_bytes(store: ImageStore, mini: RootfsImage) -> None:
    again = store.ensure(store.recipes()["mini"], Deadline(300))
    assert again.tar != mini.tar
    assert (again.digest, again.key) == (mini.digest, mini.key)


@needs_root
def test_a_users_recipe_with_packages_env_and_files(fresh: ImageStore) -> None:
    recipe = fresh.find(str(EXAMPLE))
    assert recipe is not None
    root = fresh.rootfs(fresh.ensure(recipe, Deadline(300)))
    assert run_in(root, "answer") == "42"
    assert run_in(root, "/bin/sh", "-lc", "echo $REGINA_LANG") == "en"
    assert (root / "etc/environment").read_text().endswith("REGINA_LANG=en\n")
    assert (root / "etc/motd").read_text() == "A machine for REXX.\n"


def test_the_second_time_it_comes_from_the_cache(store: ImageStore, seen: Recorder) -> None:
    first = store.ensure(TINY, Deadline(60))
    before = len(seen.steps)
    assert store.ensure(TINY, Deadline(60)) == first
    assert store.list() == (first,)
    assert len(seen.steps) == before
    assert {step.where for step in seen.steps} == {"image:tiny"}


def test_another_recipe_of_the_same_name_is_another_image(store: ImageStore) -> None:
    first = store.ensure(TINY, Deadline(60))
    second = store.ensure(replace(TINY, env=(("A", "1"),)), Deadline(60))
    assert first.key != second.key
    assert set(store.list()) == {first, second}
    assert set(store.remove("tiny")) == {first, second}
    assert store.list() == ()
    assert [path.name for path in store.root.iterdir()] == [".locks"]


def test_three_processes_build_it_once(store: ImageStore) -> None:
    script = (
        "import sys; from pathlib import Path\n"
        "from pytest_rexxinfra.deadline import Deadline; from pytest_rexxinfra.events import Events\n"
        "from pytest_rexxinfra.images import ImageStore\n"
        "class Show:\n"
        "    def step_started(self, step): print(step.what)\n"
        "    def step_ended(self, step): pass\n"
        "store = ImageStore(Path(sys.argv[1]), events=Events(Show()))\n"
        "image = store.ensure(store.recipes()['mini'], Deadline(120))\n"
        "print(image.digest, store.rootfs(image))\n"
    )
    command = [sys.executable, "-c", script, str(store.root)]
    processes = [subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    output = "".join(process.communicate()[0] for process in processes)
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert output.count("build\n") == 1
    assert output.count("unpack\n") == 1
    (image,) = store.list()
    assert output.count(f"{image.digest} {store.rootfs(image)}\n") == 3


@pytest.mark.parametrize("damage", ["metadata", "no metadata", "fields", "short tar", "no tar", "bytes"])
def test_a_damaged_image_is_built_again(
    store: ImageStore, seen: Recorder, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    first = store.ensure(TINY, Deadline(60))
    store.rootfs(first)
    metadata = first.tar.with_name("image.json")
    if damage == "metadata":
        metadata.write_text('{"name": "ti')
    elif damage == "no metadata":
        metadata.unlink()
    elif damage == "fields":
        fields = json.loads(metadata.read_text())
        del fields["digest"]
        metadata.write_text(json.dumps(fields))
    elif damage == "short tar":
        os.truncate(first.tar, 1000)
    elif damage == "no tar":
        first.tar.unlink()
    else:
        with first.tar.open("r+b") as file:
            file.seek(5000)
            file.write(b"changed")
    with caplog.at_level(logging.WARNING):
        again = store.ensure(TINY, Deadline(60))
    assert "damaged in the cache and built again" in caplog.text
    assert seen.builds == 2
    assert again.digest == first.digest
    assert members(again.tar)
    assert store.list() == (again,)
    assert (store.rootfs(again) / "bin/busybox").is_file()
    assert leftovers(store) == []


def test_a_tar_that_was_only_touched_is_not_built_again(store: ImageStore, seen: Recorder) -> None:
    first = store.ensure(TINY, Deadline(60))
    os.utime(first.tar, (1, 1))
    assert store.ensure(TINY, Deadline(60)) == first
    assert seen.builds == 1
    before = len(seen.steps)
    assert store.ensure(TINY, Deadline(60)) == first
    assert len(seen.steps) == before


def test_what_killed_builds_left_is_removed_by_the_next(store: ImageStore) -> None:
    own, other, live = (store.root / f".tmp-{key}-left" for key in (TINY.key(host_arch()), "0" * 64, "1" * 64))
    for path in (own, other, live):
        (path / "work").mkdir(parents=True)
    with locked(store.root / ".locks" / ("1" * 64), deadline=Deadline(5), what="a live build"):
        store.ensure(TINY, Deadline(60))
    assert leftovers(store) == [live]


@needs_root
def test_the_directory_of_an_image_is_shared_and_has_its_owners(store: ImageStore) -> None:
    image = store.ensure(TINY, Deadline(60))
    root = store.rootfs(image)
    assert store.rootfs(image) == root
    assert stat.S_IMODE((root / "tmp").stat().st_mode) == 0o1777
    assert stat.S_IMODE((root / "etc/shadow").stat().st_mode) == 0o640
    assert (root / "bin/sh").lstat().st_uid == 0
    store.remove("tiny")
    with pytest.raises(ImageError, match="was removed") as caught:
        store.rootfs(image)
    assert caught.value.hint


def test_what_a_machine_runs_on_outlives_its_image(store: ImageStore, tmp_path: Path) -> None:
    file = tmp_path / "file"

    def commit(text: str) -> Path:
        file.write_text(text)

        def pack(tar: Path) -> None:
            with tarfile.open(tar, "w") as archive:
                archive.add(file, file.name)

        image = store.commit("it", pack, Deadline(30))
        return store.rootfs(image) / file.name

    old = commit("old")
    with in_use(old.parent) as descriptor:
        machine = subprocess.Popen(["cat"], stdin=subprocess.PIPE, pass_fds=[descriptor])
    try:
        new = commit("new")
        assert (old.read_text(), new.read_text()) == ("old", "new")
        newer = commit("newer")
        assert (old.exists(), new.exists(), newer.exists()) == (True, False, True)
        store.remove("it")
        assert (old.exists(), newer.exists()) == (True, False)
    finally:
        machine.communicate()
    store.remove("it")
    assert not old.parent.exists()
    with pytest.raises(ImageError, match="was removed"), in_use(old.parent):
        pass


@needs_root
def test_an_image_in_which_something_is_mounted_is_not_removed(store: ImageStore) -> None:
    image = store.ensure(TINY, Deadline(60))
    place = store.rootfs(image) / "mnt"
    mount = subprocess.run(["mount", "-t", "tmpfs", "tmpfs", place], capture_output=True, check=False)
    if mount.returncode:
        pytest.skip("this root may not mount")
    try:
        with pytest.raises(ImageError, match="is mounted in it"):
            store.remove("tiny")
        assert store.list() == (image,)
    finally:
        subprocess.run(["umount", place], check=True)
    assert store.remove("tiny") == (image,)


@needs_root
def test_an_ordinary_user_builds_and_unpacks_mini_alike(mini: RootfsImage) -> None:
    with tempfile.TemporaryDirectory() as folder:
        output = run_as_nobody(
            Path(folder),
            "from pytest_rexxinfra.deadline import Deadline\n"
            "from pytest_rexxinfra.images import ImageStore\n"
            "store = ImageStore()\n"
            "image = store.ensure(store.recipes()['mini'], Deadline(300))\n"
            "print(image.digest, store.rootfs(image))\n",
        )
        digest, root = output.split()
        assert digest == mini.digest
        assert Path(root, "bin/busybox").owner() == "nobody"
        assert run_in(Path(root), "node", "-e", "console.log(6*7)") == "42"


@pytest.fixture
def path_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PATH of links to everything but the tools that a test takes out of this directory."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for each in os.environ["PATH"].split(os.pathsep):
        for program in Path(each).iterdir() if Path(each).is_dir() else ():
            link = folder / program.name
            if not link.is_symlink():
                link.symlink_to(program)
    monkeypatch.setenv("PATH", str(folder))
    return folder


def test_without_busybox_it_comes_from_the_distribution(store: ImageStore, path_without: Path) -> None:
    if not (path_without / "apt-get").exists():
        pytest.skip("there is no apt-get here")
    (path_without / "busybox").unlink(missing_ok=True)
    image = store.ensure(TINY, Deadline(120))
    assert members(image.tar)["bin/busybox"].size > 100_000


def test_without_busybox_and_apt_the_error_says_what_to_do(store: ImageStore, path_without: Path) -> None:
    for name in ("busybox", "apt-get"):
        (path_without / name).unlink(missing_ok=True)
    with pytest.raises(SystemUnavailable, match=r"apt-get is not on this computer[^$]*static busybox into PATH"):
        store.ensure(TINY, Deadline(60))
    assert leftovers(store) == []
    assert store.list() == ()


def test_without_mmdebstrap_the_error_has_the_command_that_installs_it(store: ImageStore, path_without: Path) -> None:
    (path_without / "mmdebstrap").unlink(missing_ok=True)
    with pytest.raises(ImageError, match="needs mmdebstrap") as caught:
        store.ensure(store.recipes()["debian-12"], Deadline(60))
    assert caught.value.hint == "sudo apt-get install --yes mmdebstrap"
    assert caught.value.where == "image:debian-12"
    assert leftovers(store) == []


@needs_mmdebstrap
def test_a_build_that_takes_too_long_is_ended_and_leaves_nothing(store: ImageStore) -> None:
    recipe = Recipe(name="late", kind="mmdebstrap", suite="bookworm", node="none")
    with pytest.raises(DeadlineExceeded, match="mmdebstrap did not end within"):
        store.ensure(recipe, Deadline(2))
    assert leftovers(store) == []
    assert store.list() == ()


@needs_mmdebstrap
@needs_root
def test_a_killed_build_leaves_no_process_and_no_mount(store: ImageStore) -> None:
    script = (
        "import sys; from pathlib import Path\n"
        "from pytest_rexxinfra.deadline import Deadline\n"
        "from pytest_rexxinfra.images import ImageStore, Recipe\n"
        "recipe = Recipe(name='killed', kind='mmdebstrap', suite='bookworm', node='none')\n"
        "ImageStore(Path(sys.argv[1])).ensure(recipe, Deadline(120))\n"
    )

    def in_use() -> list[str]:
        commands = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()]
        return [str(command) for command in commands if str(store.root).encode() in command]

    build = subprocess.Popen([sys.executable, "-c", script, str(store.root)], cwd=REPOSITORY)
    try:
        unpacked = "a half-made root file system"
        Deadline(60).wait_for(lambda: list(store.root.glob(".tmp-*/work/mmdebstrap.*/usr/bin/dpkg")), unpacked)
    finally:
        build.kill()
        build.wait()
    Deadline(10).wait_for(lambda: not in_use(), "the end of mmdebstrap")
    assert str(store.root) not in Path("/proc/self/mountinfo").read_text()
    assert leftovers(store)
    store.ensure(TINY, Deadline(60))
    assert leftovers(store) == []


@needs_mmdebstrap
def test_a_release_that_does_not_exist_gives_the_words_of_mmdebstrap(store: ImageStore) -> None:
    recipe = Recipe(name="none", kind="mmdebstrap", suite="bookworm", mirror="http://127.0.0.1:9/debian", node="none")
    with pytest.raises(ImageError, match="mmdebstrap cannot make bookworm") as caught:
        store.ensure(recipe, Deadline(120))
    assert "127.0.0.1" in (caught.value.output or "")
    assert caught.value.hint
    assert leftovers(store) == []


@needs_mmdebstrap
def test_debian_has_what_a_machine_needs_and_nothing_of_the_builder(debian: RootfsImage) -> None:
    names = members(debian.tar)
    for name in ("usr/sbin/sshd", "usr/bin/python3", "usr/bin/systemctl", "usr/local/bin/node", "usr/bin/ps"):
        assert name in names
    assert read(debian.tar, "etc/machine-id") == b""
    assert read(debian.tar, "etc/hostname") == b"debian-12\n"
    assert "etc/resolv.conf" not in names
    assert not [name for name in names if name.startswith(("etc/ssh/ssh_host_", "dev/", "run/"))]
    assert not [name for name in names if name.startswith("var/lib/apt/lists/")]
    assert not [name for name in names if name.endswith(".deb")]
    assert max(member.mtime for member in names.values()) <= EPOCH
    assert debian.node == NODE_VERSION
    assert debian.size < 500e6


@needs_mmdebstrap
@needs_root
def test_debian_runs_node_python_and_a_shell(debian: RootfsImage) -> None:
    root = ImageStore().rootfs(debian)
    assert run_in(root, "node", "-e", "console.log(6*7)") == "42"
    assert run_in(root, "python3", "-c", "import shutil, http.client; print(6*7)") == "42"
    assert run_in(root, "sh", "-c", "type systemctl sshd ip ps >&2 && echo all") == "all"
    assert (root / "etc/systemd/system/ssh.service.d/host-keys.conf").is_file()


def test_a_tree_follows_the_links_of_what_is_there(tmp_path: Path) -> None:
    tree = Tree()
    tree.file("/bin/tool", b"1", 0o755)
    tree.file("/opt/new/data", b"2")
    tree.directory("usr")
    target = tmp_path / "out.tar"
    with tarfile.open(target, "w") as archive:
        tree.append_to(archive, {"usr": None, "usr/bin": None, "bin": "usr/bin"})
    assert list(members(target)) == ["usr/bin/tool", "opt", "opt/new", "opt/new/data"]


def test_a_program_with_a_loader_is_not_static() -> None:
    assert not is_static(Path(shutil.which("env") or "/usr/bin/env").resolve())
    assert not is_static(Path(__file__))


def test_the_version_of_a_packaged_node_is_found() -> None:
    status = "Package: adduser\nVersion: 3.1\n\nPackage: nodejs\nStatus: x\nVersion: 1:18.20.4+dfsg-1~deb12u1\n"
    assert _packaged_node(status) == "18.20.4"
    assert _packaged_node("Package: adduser\nVersion: 3.1\n") is None
