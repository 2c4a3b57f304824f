"""What text means which build, and what is said when it means none."""

from __future__ import annotations

import io
import multiprocessing
import os
import platform
import shutil
import subprocess
import tarfile
import time
import zipfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

from pytest_rexxinfra.deadline import Deadline
from pytest_rexxinfra.errors import BuildError, SystemUnavailable
from pytest_rexxinfra.events import Events, Step
from pytest_rexxinfra.processor import elf_machine
from pytest_rexxinfra.rexx import named, probe, regina, tree
from pytest_rexxinfra.rexx.builds import PINNED_COMMIT, Build, resolve

BINARY = """#!/bin/sh
case "$1" in
  --help) echo "RexxJS stand-in" ;;
  --stdin) cat >/dev/null; echo x ;;
esac
"""
COMMIT = "0123456789abcdef0123456789abcdef01234567"
needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="git is not on PATH")
needs_regina = pytest.mark.skipif(shutil.which("regina") is None, reason="regina is not on PATH")


class Steps:
    """A listener that keeps what was done."""

    def __init__(self) -> None:
        self.done: list[str] = []

    def step_started(self, step: Step) -> None:
        self.done.append(step.what)

    def step_ended(self, step: Step) -> None: ...


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("REXX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "builds"


def make_checkout(root: Path) -> Path:
    (root / "core" / "src").mkdir(parents=True)
    (root / "core" / "src" / "cli.js").write_text("console.log(require('fs').readFileSync(0, 'utf8'));\n")
    (root / "core" / "src" / "interpreter.js").write_text("module.exports = {};\n")
    (root / "core" / "rexx").write_text("#!/bin/sh\necho RexxJS\n")
    (root / "core" / "rexx").chmod(0o755)
    (root / "README.md").write_text("made up\n")
    return root


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    return make_checkout(tmp_path / "RexxJS")


def git(root: Path, *arguments: str) -> str:
    who = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    command = ["git", *who, "-C", str(root), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def make_repository(root: Path) -> str:
    git(root, "init", "-q", "-b", "main")
    git(root, "add", "-A")
    git(root, "commit", "-q", "-m", "made up")
    return git(root, "rev-parse", "HEAD")


def make_program(path: Path, text: str = BINARY) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def pack(checkout: Path, path: Path) -> Path:
    """An archive of a checkout below one top-level directory, in the format that the name says."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for file in sorted(checkout.rglob("*")):
                archive.write(file, Path("RexxJS-main") / file.relative_to(checkout))
        return path
    mode = {".gz": "w:gz", ".tgz": "w:gz", ".xz": "w:xz", ".bz2": "w:bz2", ".tar": "w"}[path.suffix]
    with tarfile.open(str(path), mode) as tar:  # type: ignore[call-overload]
        tar.add(checkout, "RexxJS-main")
    return path


# checkouts


def test_checkout(checkout: Path) -> None:
    build = resolve(str(checkout))
    assert (build.dialect, build.kind, build.needs_node, build.commit) == ("rexxjs", "checkout", True, None)
    assert build.label == f"RexxJS (checkout {checkout})"
    assert (build.root, build.entry) == (checkout, "core/src/cli.js")
    assert build.files() == ["README.md", "core/rexx", "core/src/cli.js", "core/src/interpreter.js"]
    assert build.command("/opt/rexx") == ["node", "/opt/rexx/core/src/cli.js"]
    assert build.command("/opt/rexx", node="/n/node")[0] == "/n/node"
    assert len(build.digest) == 64


@pytest.mark.parametrize("text", [".", "core", "core/", "./core/src/cli.js", "core/rexx", "../RexxJS"])
def test_checkout_can_be_named_in_many_ways(checkout: Path, text: str) -> None:
    build = resolve(text, cwd=checkout)
    assert (build.root, build.kind) == (checkout, "checkout")


def test_core_copied_away_is_a_checkout_of_its_own(checkout: Path, tmp_path: Path) -> None:
    (checkout / "core").rename(tmp_path / "copy")
    build = resolve(str(tmp_path / "copy"))
    assert (build.root, build.entry) == (tmp_path / "copy", "src/cli.js")


def test_files_built_by_hand_are_listed(checkout: Path) -> None:
    build = Build("x", "rexxjs", "checkout", "0" * 64, checkout, "core/src/cli.js", True)
    assert build.files() == resolve(str(checkout)).files()


def test_what_a_test_run_leaves_is_no_part(checkout: Path) -> None:
    before = resolve(str(checkout))
    (checkout / "test-results.json").write_text("{}")
    (checkout / "core/.rexxt-test-count.tmp").write_text("3")
    after = resolve(str(checkout))
    assert after.digest == before.digest
    assert after.files() == before.files()
    (checkout / "core/results.json").write_text("{}")
    assert resolve(str(checkout)).digest != before.digest


def test_generated_directories_are_no_part(checkout: Path) -> None:
    before = resolve(str(checkout))
    for name in ("node_modules/pkg/index.js", "test-results/a.json", "pkg-build/src/cli.js", ".git/HEAD"):
        (checkout / name).parent.mkdir(parents=True)
        (checkout / name).write_text("x")
    after = resolve(str(checkout))
    assert (after.files(), after.digest) == (before.files(), before.digest)


@pytest.mark.parametrize(
    "change",
    [
        lambda root: (root / "README.md").write_text("made UP\n"),
        lambda root: (root / "README.md").rename(root / "readme.md"),
        lambda root: (root / "README.md").chmod(0o755),
        lambda root: (root / "new").symlink_to("README.md"),
        lambda root: (root / "core/rexx").unlink(),
    ],
    ids=["content of the same size", "name", "executable bit", "link", "removed"],
)
def test_change_gives_a_new_digest(checkout: Path, change: Callable[[Path], object]) -> None:
    before = resolve(str(checkout)).digest
    change(checkout)
    assert resolve(str(checkout)).digest != before


def test_digest_does_not_depend_on_place_or_time(checkout: Path, tmp_path: Path) -> None:
    before = resolve(str(checkout)).digest
    shutil.copytree(checkout, tmp_path / "other" / "x")
    os.utime(tmp_path / "other" / "x" / "README.md", (1, 1))
    assert resolve(str(tmp_path / "other" / "x")).digest == before


def test_unchanged_checkout_is_not_read_again(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pytest_rexxinfra.rexx.store.RACY_NS", 0)
    before = resolve(str(checkout))

    def unwanted(root: Path, entries: object) -> str:
        raise AssertionError("files were read again")

    monkeypatch.setattr(tree, "digest", unwanted)
    assert resolve(str(checkout)) == before


@needs_git
def test_commit_and_changes_are_in_the_label(checkout: Path) -> None:
    (checkout / ".gitignore").write_text("*.log\n")
    commit = make_repository(checkout)
    (checkout / "noise.log").write_text("ignored")
    build = resolve(str(checkout))
    assert (build.commit, build.label) == (commit, f"RexxJS {commit[:7]} (checkout {checkout})")
    assert "noise.log" not in build.files()
    (checkout / "untracked.js").write_text("1")
    changed = resolve(str(checkout))
    assert changed.label == f"RexxJS {commit[:7]}+changes (checkout {checkout})"
    assert "untracked.js" in changed.files()
    assert changed.digest != build.digest


@needs_git
def test_commit_from_packed_refs_detached_head_and_worktree(checkout: Path, tmp_path: Path) -> None:
    commit = make_repository(checkout)
    git(checkout, "pack-refs", "--all")
    assert resolve(str(checkout)).commit == commit
    git(checkout, "worktree", "add", "-q", "-b", "side", str(tmp_path / "side"))
    assert resolve(str(tmp_path / "side")).commit == commit
    git(checkout, "checkout", "-q", "--detach")
    assert resolve(str(checkout)).commit == commit


@needs_git
def test_git_and_plain_copies_have_the_same_digest(checkout: Path, tmp_path: Path) -> None:
    shutil.copytree(checkout, tmp_path / "plain" / "x")
    make_repository(checkout)
    assert resolve(str(checkout)).digest == resolve(str(tmp_path / "plain" / "x")).digest


@needs_git
def test_deleted_but_tracked_file_is_left_out(checkout: Path) -> None:
    make_repository(checkout)
    (checkout / "README.md").unlink()
    build = resolve(str(checkout))
    assert "README.md" not in build.files()
    assert "+changes" in build.label


# what is no build


def test_directory_that_is_no_checkout(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(BuildError, match=r"empty is no REXX build: a checkout has core/src/cli\.js") as caught:
        resolve("empty", cwd=tmp_path)
    assert "a single-file RexxJS binary" in str(caught.value.hint)


def test_missing_path_names_what_is_close(checkout: Path, tmp_path: Path) -> None:
    with pytest.raises(BuildError) as caught:
        resolve("RexJS", cwd=tmp_path)
    assert caught.value.message == f"there is no REXX build RexJS: {tmp_path}/RexJS does not exist"
    assert caught.value.hint == f"did you mean {checkout}?"


def test_missing_parent_names_what_is_close(checkout: Path, tmp_path: Path) -> None:
    with pytest.raises(BuildError) as caught:
        resolve("RexJS/core/src", cwd=tmp_path)
    assert caught.value.hint == f"did you mean {checkout}?"


def test_text_file(tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("hello")
    with pytest.raises(BuildError, match="neither a program nor an archive nor a checkout"):
        resolve("notes", cwd=tmp_path)


def test_file_called_archive_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "rexx.tar.gz").write_text("<html>not found</html>")
    with pytest.raises(BuildError, match="its name is that of an archive, its content is not"):
        resolve("rexx.tar.gz", cwd=tmp_path)


def test_socket_or_device(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(BuildError, match="neither a file nor a directory"):
        resolve("pipe", cwd=tmp_path)


# archives


@pytest.mark.parametrize("ending", [".tar", ".tar.gz", ".tgz", ".tar.xz", ".tar.bz2", ".zip"])
def test_archive_of_a_checkout(checkout: Path, tmp_path: Path, ending: str, cache: Path) -> None:
    archive = pack(checkout, tmp_path / f"rexxjs{ending}")
    build = resolve(str(archive))
    plain = resolve(str(checkout))
    assert build.label == f"RexxJS (archive rexxjs{ending})"
    assert (build.digest, build.files(), build.entry) == (plain.digest, plain.files(), plain.entry)
    assert build.root.is_relative_to(cache)
    assert os.access(build.root / "core/rexx", os.X_OK)


def test_archive_without_top_directory_and_of_core_alone(checkout: Path, tmp_path: Path) -> None:
    for name, where in (("flat", "."), ("core", "core")):
        with tarfile.open(tmp_path / f"{name}.tar", "w") as tar:
            tar.add(checkout / where, where)
        assert resolve(str(tmp_path / f"{name}.tar")).entry == "core/src/cli.js"


def test_archive_says_its_commit(checkout: Path, tmp_path: Path) -> None:
    path = tmp_path / "rexxjs.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT, pax_headers={"comment": COMMIT}) as tar:
        tar.add(checkout, "RexxJS-main")
    assert resolve(str(path)).commit == COMMIT
    assert resolve(str(path)).label == f"RexxJS {COMMIT[:7]} (archive rexxjs.tar)"


def test_archive_of_a_binary(tmp_path: Path) -> None:
    make_program(tmp_path / "dist" / "rexx-linux")
    (tmp_path / "dist" / "LICENSE").write_text("x")
    with tarfile.open(tmp_path / "rexx.tgz", "w:gz") as tar:
        tar.add(tmp_path / "dist", "rexx-1.0")
    build = resolve(str(tmp_path / "rexx.tgz"))
    assert (build.kind, build.entry, build.files()) == ("binary", "rexx", ["rexx"])
    assert build.label == "RexxJS binary rexx-linux (archive rexx.tgz)"


def test_archive_of_something_else(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("a/b", "c")
    with pytest.raises(BuildError, match=r"holds no core/src/cli\.js, and 0 files"):
        resolve(str(tmp_path / "x.zip"))


def _tar_with(*members: tarfile.TarInfo) -> bytes:
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w") as tar:
        for member in members:
            tar.addfile(member, io.BytesIO(b"x" * member.size))
    return whole.getvalue()


def _member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname, member.size = kind, link, 1 if kind == tarfile.REGTYPE else 0
    return member


EVIL_TARS = {
    "parent": [_member("../evil")],
    "deep parent": [_member("a/../../evil")],
    "absolute": [_member("/tmp/evil")],
    "link out": [_member("a", tarfile.SYMTYPE, "../..")],
    "absolute link": [_member("a", tarfile.SYMTYPE, "/etc")],
    "through a link": [_member("d", tarfile.DIRTYPE), _member("a", tarfile.SYMTYPE, "d"), _member("a/b")],
    "hard link": [_member("a", tarfile.LNKTYPE, "../../etc/passwd")],
    "pipe": [_member("a", tarfile.FIFOTYPE)],
    "device": [_member("a", tarfile.CHRTYPE)],
}


@pytest.mark.parametrize("name", EVIL_TARS)
def test_evil_tar_is_refused(name: str, tmp_path: Path, cache: Path) -> None:
    path = tmp_path / "evil.tar"
    path.write_bytes(_tar_with(*EVIL_TARS[name]))
    with pytest.raises(BuildError, match=r"evil\.tar is not unpacked: its member"):
        resolve(str(path))
    assert not list(tmp_path.rglob("evil"))
    assert not list(cache.glob(".*"))


@pytest.mark.parametrize(("name", "link"), [("../evil", ""), ("/evil", ""), ("a", "../../etc")])
def test_evil_zip_is_refused(name: str, link: str, tmp_path: Path) -> None:
    path = tmp_path / "evil.zip"
    with zipfile.ZipFile(path, "w") as archive:
        info = zipfile.ZipInfo(name)
        info.external_attr = (0o120777 if link else 0o100644) << 16
        archive.writestr(info, link)
    with pytest.raises(BuildError, match=r"evil\.zip is not unpacked: its member"):
        resolve(str(path))


@pytest.mark.parametrize("ending", [".tar.gz", ".tar.xz", ".tar.bz2", ".zip"])
def test_damaged_archive(checkout: Path, tmp_path: Path, ending: str, cache: Path) -> None:
    (checkout / "noise").write_bytes(os.urandom(200_000))
    path = pack(checkout, tmp_path / f"cut{ending}")
    path.write_bytes(path.read_bytes()[:100_000])
    with pytest.raises(BuildError, match="cannot unpack") as caught:
        resolve(str(path))
    assert caught.value.hint == "the archive is damaged or incomplete; get it again"
    assert not list(cache.glob(".*"))


def _unpack_count(path: str) -> tuple[str, int]:
    steps = Steps()
    build = resolve(path, events=Events(steps))
    return str(build.root), sum(step.startswith("unpack") for step in steps.done)


def test_four_processes_unpack_once(checkout: Path, tmp_path: Path) -> None:
    path = pack(checkout, tmp_path / "rexxjs.tgz")
    with ProcessPoolExecutor(4, mp_context=multiprocessing.get_context("spawn")) as pool:
        found = list(pool.map(_unpack_count, [str(path)] * 4, timeout=60))
    assert len({root for root, _ in found}) == 1
    assert sum(count for _, count in found) == 1


# binaries


def test_binary(tmp_path: Path, cache: Path) -> None:
    path = make_program(tmp_path / "rexx-linux")
    build = resolve(str(path))
    assert (build.label, build.kind, build.needs_node) == ("RexxJS binary rexx-linux", "binary", False)
    assert build.root.parent == cache
    assert build.files() == ["rexx"]
    assert build.command("/opt/rexx") == ["/opt/rexx/rexx"]
    ran = subprocess.run([*build.command(build.root), "--help"], capture_output=True, text=True, check=True)
    assert ran.stdout == "RexxJS stand-in\n"


def test_binary_is_probed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_program(tmp_path / "rexx")
    first = resolve(str(path))
    monkeypatch.setattr("pytest_rexxinfra.rexx.binary.ask", None)
    assert resolve(str(path)) == first


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("#!/bin/sh\necho hello\n", "its --help does not mention RexxJS"),
        ("#!/bin/sh\n[ $1 = --help ] && echo RexxJS\nexit 3\n", "SAY 'x' over --stdin ended with status 3"),
        ("#!/bin/sh\n[ $1 = --help ] && echo RexxJS || echo y\n", "did not print x"),
        ("#!/bin/sh\n[ $1 = --help ] && echo RexxJS || echo Regina\n", "it is Regina"),
        ("#!/nowhere/sh\n", "does not mention RexxJS"),
    ],
)
def test_program_that_is_no_rexxjs(tmp_path: Path, text: str, why: str, cache: Path) -> None:
    path = make_program(tmp_path / "prog", text)
    with pytest.raises(BuildError, match="prog is no REXX build") as caught:
        resolve(str(path))
    assert why in caught.value.message
    assert caught.value.__cause__ is None
    assert not list(cache.glob(".*"))


def test_binary_that_hangs_is_ended_with_its_children(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "PROBE_SECONDS", 0.3)
    path = make_program(tmp_path / "prog", "#!/bin/sh\n[ $1 = --help ] && echo RexxJS && exit\nsleep 60 & wait\n")
    started = time.monotonic()
    with pytest.raises(BuildError, match=r"it did not end within 0\.3 s"):
        resolve(str(path))
    assert time.monotonic() - started < 5


def test_other_elf_programs(tmp_path: Path) -> None:
    true = shutil.which("true") or "/bin/true"
    with pytest.raises(BuildError, match=r"SAY 'x' over --stdin ended with status \d"):
        resolve(true)
    shutil.copyfile(true, tmp_path / "true")
    with pytest.raises(BuildError, match="it is not executable") as caught:
        resolve("true", cwd=tmp_path)
    assert caught.value.hint == f"chmod +x {tmp_path}/true"


def test_binary_for_another_processor_is_taken_unprobed(tmp_path: Path) -> None:
    path = tmp_path / "rexx-riscv"
    path.write_bytes(b"\x7fELF\x02\x01\x01".ljust(18, b"\0") + b"\xf3\0" + b"\0" * 100)
    path.chmod(0o755)
    assert resolve(str(path)).label == "RexxJS binary rexx-riscv (riscv64)"


# the first that can be found


def nowhere(tmp_path: Path, **more: str) -> dict[str, str]:
    """An environment in which nothing is installed and GitHub refuses."""
    (tmp_path / "bin").mkdir(exist_ok=True)
    path = str(tmp_path / "bin")
    return {"PATH": path, "REXX_GITHUB_URL": "http://127.0.0.1:9", "no_proxy": "127.0.0.1", **more}


@pytest.fixture
def no_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(events: Events, deadline: Deadline) -> Build:
        raise SystemUnavailable("there is no apt here")

    monkeypatch.setattr(regina, "from_packages", refuse)


def test_auto_environment_first(checkout: Path, tmp_path: Path) -> None:
    other = make_checkout(tmp_path / "other")
    environ = nowhere(tmp_path, REXX_BUILD=str(other))
    assert resolve(None, cwd=checkout, environ=environ).root == other


def test_auto_does_not_pass_over_a_wrong_environment(checkout: Path, tmp_path: Path) -> None:
    environ = nowhere(tmp_path, REXX_BUILD="nowhere")
    with pytest.raises(BuildError, match="REXX_BUILD: there is no REXX build nowhere"):
        resolve("auto", cwd=checkout, environ=environ)


@pytest.mark.parametrize("value", ["", "auto"])
def test_auto_checkout_here(checkout: Path, tmp_path: Path, value: str) -> None:
    environ = nowhere(tmp_path, REXX_BUILD=value)
    make_program(tmp_path / "bin" / "rexxjs")
    assert resolve(None, cwd=checkout, environ=environ).root == checkout
    assert resolve(None, cwd=checkout / "core", environ=environ).root == checkout


def test_auto_named_build_before_checkout_here(checkout: Path, tmp_path: Path) -> None:
    other = make_checkout(tmp_path / "other")
    named.add("mine", str(other))
    assert resolve(None, cwd=checkout, environ=nowhere(tmp_path)).root == other


def test_auto_command_on_path(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    environ = nowhere(tmp_path)
    environ["PATH"] += ":/usr/bin:/bin"
    make_program(tmp_path / "bin" / "rexx", BINARY + "# two\n")
    assert resolve(None, cwd=tmp_path / "here", environ=environ).label == "RexxJS binary rexx"
    make_program(tmp_path / "bin" / "rexxjs")
    assert resolve(None, cwd=tmp_path / "here", environ=environ).label == "RexxJS binary rexxjs"


def test_auto_command_that_starts_a_checkout(checkout: Path, tmp_path: Path) -> None:
    environ = nowhere(tmp_path)
    (checkout / "core/src/cli.js").chmod(0o755)
    (tmp_path / "bin" / "rexxjs").symlink_to(checkout / "core/src/cli.js")
    assert resolve(None, cwd=tmp_path, environ=environ).root == checkout


@pytest.mark.usefixtures("no_packages")
def test_auto_lists_what_was_tried(tmp_path: Path) -> None:
    environ = nowhere(tmp_path)
    make_program(tmp_path / "bin" / "rexx", "#!/bin/sh\necho Regina REXX\n")
    (tmp_path / "here").mkdir()
    with pytest.raises(BuildError) as caught:
        resolve(None, cwd=tmp_path / "here", environ=environ)
    lines = caught.value.message.splitlines()
    assert lines[0] == "no REXX interpreter was found; tried, in this order:"
    starts = (
        "REXX_BUILD: not set",
        "named builds: there is none",
        f"a checkout in {tmp_path}/here: neither",
        "rexxjs on PATH: not there",
        f"rexx on PATH: {tmp_path}/bin/rexx is there, but its --help does not mention RexxJS",
        "regina on PATH: not there",
        f"RexxJS {PINNED_COMMIT[:7]} from GitHub: cannot fetch http://127.0.0.1:9/",
        "Regina from the distribution's packages: there is no apt here",
    )
    assert len(lines) == len(starts) + 1
    for line, start in zip(lines[1:], starts, strict=True):
        assert line.startswith(f"  - {start}")
    assert "REXX_BUILD" in str(caught.value.hint)


# regina


@needs_regina
def test_regina_runs_from_anywhere(tmp_path: Path, cache: Path) -> None:
    build = resolve("regina")
    assert (build.dialect, build.kind, build.entry, build.needs_node) == (
        "regina",
        "regina",
        "bin/regina",
        False,
    )
    assert build.label.startswith("Regina 3.")
    assert build.root.parent == cache
    for name in build.files():
        (tmp_path / "deployed" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(build.root / name, tmp_path / "deployed" / name)
    script = tmp_path / "a.rexx"
    script.write_text("SAY 6*7; EXIT 3\n")
    command = [*build.command(tmp_path / "deployed"), str(script)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout) == (3, "42\n")


@needs_regina
def test_regina_is_taken_apart_once(monkeypatch: pytest.MonkeyPatch) -> None:
    first = resolve("regina")
    monkeypatch.setattr(regina, "ask", None)
    assert resolve("regina") == first


@needs_regina
def test_regina_by_path_is_explained() -> None:
    with pytest.raises(BuildError, match="it is Regina") as caught:
        resolve(str(shutil.which("regina")))
    assert "'regina'" in str(caught.value.hint)


def test_regina_from_packages_for_another_processor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which("apt-get") is None:
        pytest.skip("there is no apt-get here")
    foreign = "x86_64" if platform.machine() == "aarch64" else "aarch64"
    monkeypatch.setenv("REXX_CACHE", str(tmp_path / "cache"))
    build = regina.from_packages(Events(), Deadline(300), foreign)
    assert elf_machine(build.root / build.entry) == foreign
    assert build.label.startswith("Regina 3.")
    assert build.label.endswith(f"({foreign})")
    assert (build.root / "lib/libregina.so.3") in [build.root / name for name in build.files()]


@needs_regina
def test_regina_from_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = resolve("regina")
    calls: list[list[str]] = []

    def unpack(
        names: list[str], into: Path, *, events: Events, deadline: Deadline, where: str, arch: str | None
    ) -> dict[str, str]:
        assert arch is None
        calls.append(list(names))
        (into / "usr/bin").mkdir(parents=True)
        (into / "usr/lib/some").mkdir(parents=True)
        shutil.copy(installed.root / "bin/regina", into / "usr/bin/regina")
        shutil.copy(installed.root / "lib/libregina.so.3", into / "usr/lib/some/libregina.so.3.9")
        (into / "usr/lib/some/libregina.so.3").symlink_to("libregina.so.3.9")
        return dict.fromkeys(names, "3.9-1")

    monkeypatch.setattr("pytest_rexxinfra.packages.unpack_packages", unpack)
    environ = nowhere(tmp_path)
    build = resolve("regina", environ=environ)
    assert build.files() == ["bin/regina", "lib/libregina.so.3"]
    assert resolve("regina", environ=environ) == build
    assert calls == [["regina-rexx", "libregina3"]]
