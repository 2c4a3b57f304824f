"""Builds with a name: what is kept, what is referred to, and what happens when the list is damaged."""

from __future__ import annotations

import json
import multiprocessing
import tarfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

from pytest_rexxinfra.errors import BuildError, UsageError
from pytest_rexxinfra.rexx import named
from pytest_rexxinfra.rexx.builds import resolve

BINARY = """#!/bin/sh
case "$1" in
  --help) echo "RexxJS stand-in $0" ;;
  --stdin) cat >/dev/null; echo x ;;
esac
"""


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("REXX_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("REXX_BUILD", raising=False)
    return tmp_path / "cache" / "builds"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    program = tmp_path / "work" / "RexxJS" / "core" / "src" / "cli.js"
    program.parent.mkdir(parents=True)
    program.write_text("console.log('made up');\n")
    return tmp_path / "work" / "RexxJS"


@pytest.fixture
def binary(tmp_path: Path) -> Path:
    path = tmp_path / "rexx-linux"
    path.write_text(BINARY)
    path.chmod(0o755)
    return path


def _pack(checkout: Path) -> Path:
    path = checkout.parent / "rexxjs.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        archive.add(checkout, "RexxJS-main")
    return path


def _add_many(name: str, text: str, count: int) -> None:
    for number in range(count):
        named.add(f"{name}-{number}", text)


def test_checkout_is_kept_by_reference(checkout: Path) -> None:
    before = named.add("mine", str(checkout))
    (checkout / "core/src/cli.js").write_text("console.log('changed');\n")
    after = resolve("mine")
    assert after.root == before.root == checkout
    assert after.digest != before.digest
    assert "mine" in after.label
    (entry,) = named.list_()
    assert (entry.name, entry.kind, entry.in_cache) == ("mine", "checkout", False)


def test_relative_path_is_kept_as_absolute(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named.add("mine", "./RexxJS", cwd=checkout.parent)
    monkeypatch.chdir("/")
    assert resolve("mine").root == checkout


def test_binary_outlives_its_original(binary: Path) -> None:
    before = named.add("static", str(binary))
    binary.unlink()
    after = resolve("static")
    assert after.digest == before.digest
    assert after.label == "RexxJS binary static"
    assert (after.root / after.entry).read_text() == BINARY
    assert named.list_()[0].in_cache


def test_archive_outlives_its_original(checkout: Path) -> None:
    archive = _pack(checkout)
    plain = resolve(str(checkout))
    named.add("packed", str(archive))
    archive.unlink()
    after = resolve("packed")
    assert after.digest == plain.digest
    assert after.files() == ["core/src/cli.js"]


def test_same_name_is_replaced(checkout: Path, binary: Path) -> None:
    named.add("it", str(checkout))
    named.add("it", str(binary))
    assert [entry.kind for entry in named.list_()] == ["binary"]


def test_auto_takes_the_newest_or_the_default(checkout: Path, binary: Path, tmp_path: Path) -> None:
    named.add("one", str(checkout))
    named.add("two", str(binary))
    assert resolve(None, cwd=tmp_path).label == "RexxJS binary two"
    named.add("one", str(checkout), default=True)
    named.add("three", str(binary))
    assert resolve("auto", cwd=tmp_path).kind == "checkout"
    named.add("three", str(binary), default=True)
    assert [entry.name for entry in named.list_() if entry.default] == ["three"]


def test_name_comes_before_file_of_the_same_name(checkout: Path, binary: Path) -> None:
    named.add("RexxJS", str(binary))
    assert resolve("RexxJS", cwd=checkout.parent).kind == "binary"
    assert resolve("./RexxJS", cwd=checkout.parent).kind == "checkout"


@pytest.mark.parametrize("name", ["", "a/b", "a b", "auto", "Regina", "..", "-x", "github:a"])
def test_unusable_names(name: str, checkout: Path) -> None:
    with pytest.raises(UsageError, match="cannot be the name of a build"):
        named.add(name, str(checkout))
    assert named.list_() == []


def test_what_is_no_build_gets_no_name(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="does not exist"):
        named.add("mine", str(tmp_path / "nowhere"))
    assert named.list_() == []


def test_remove(checkout: Path) -> None:
    named.add("nightly", str(checkout))
    with pytest.raises(UsageError, match="no build named nigthly") as caught:
        named.remove("nigthly")
    assert caught.value.hint == "did you mean nightly?"
    named.remove("nightly")
    assert named.list_() == []
    with pytest.raises(UsageError, match="no build named nightly"):
        named.remove("nightly")


def test_vanished_checkout_is_named(checkout: Path) -> None:
    named.add("mine", str(checkout))
    (checkout / "core/src/cli.js").unlink()
    with pytest.raises(BuildError, match="the build named mine is gone") as caught:
        resolve("mine")
    assert str(checkout / "core/src/cli.js") in caught.value.message


def test_misspelt_name_is_suggested(checkout: Path, tmp_path: Path) -> None:
    named.add("nightly", str(checkout))
    with pytest.raises(BuildError) as caught:
        resolve("nightyl", cwd=tmp_path)
    assert caught.value.hint == "did you mean nightly?"


@pytest.mark.parametrize("content", ["{", "[]", '{"builds": [{"name": "x"}]}', '{"version": 1}'])
def test_damaged_list_is_moved_aside(content: str, cache: Path, checkout: Path) -> None:
    cache.mkdir(parents=True)
    (cache / "named.json").write_text(content)
    with pytest.warns(RuntimeWarning, match="named builds was damaged"):
        assert named.list_() == []
    (aside,) = cache.glob("named.json.damaged-*")
    assert aside.read_text() == content
    named.add("mine", str(checkout))
    assert json.loads((cache / "named.json").read_text())["builds"][0]["name"] == "mine"


def test_four_processes_lose_no_entry(checkout: Path) -> None:
    with ProcessPoolExecutor(4, mp_context=multiprocessing.get_context("spawn")) as pool:
        for job in [pool.submit(_add_many, f"p{number}", str(checkout), 5) for number in range(4)]:
            job.result(timeout=60)
    assert len(named.list_()) == 20
