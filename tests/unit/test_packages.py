"""Packages without root, and the two helpers below them: running a tool, holding a lock."""

from __future__ import annotations

import os
import shutil
import threading
import time
from pathlib import Path

import pytest

from pytest_rexxinfra.deadline import Deadline
from pytest_rexxinfra.errors import CommandFailed, DeadlineExceeded, SystemUnavailable, UsageError
from pytest_rexxinfra.events import Events
from pytest_rexxinfra.locks import locked
from pytest_rexxinfra.packages import unpack_packages
from pytest_rexxinfra.tools import run_tool

from .support import run_as_nobody

needs_apt = pytest.mark.skipif(shutil.which("apt-get") is None, reason="there is no apt-get here")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def unpack(into: Path, *names: str) -> dict[str, str]:
    return unpack_packages(names, into, events=Events(), deadline=Deadline(120), where="test")


@pytest.fixture
def no_system_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "no lists").mkdir()
    config = tmp_path / "apt.conf"
    config.write_text(f'Dir::State::lists "{tmp_path / "no lists"}";\n')
    monkeypatch.setenv("APT_CONFIG", str(config))


@needs_apt
def test_unpacks_just_the_named_packages(tmp_path: Path, cache: Path) -> None:
    versions = unpack(tmp_path / "root", "regina-rexx", "libregina3")
    assert set(versions) == {"regina-rexx", "libregina3"}
    assert all(version[0].isdigit() for version in versions.values())
    assert (tmp_path / "root/usr/bin/regina").is_file()
    assert not list((tmp_path / "root").rglob("libc.so.6"))


@needs_apt
@pytest.mark.usefixtures("no_system_lists")
def test_keeps_private_lists_for_a_day_when_the_system_has_none(tmp_path: Path, cache: Path) -> None:
    unpack(tmp_path / "root", "busybox-static")
    stamp = cache / "apt/sources"
    first = stamp.stat().st_mtime_ns
    unpack(tmp_path / "root", "busybox-static")
    assert stamp.stat().st_mtime_ns == first
    yesterday = time.time() - 25 * 3600
    os.utime(stamp, (yesterday, yesterday))
    unpack(tmp_path / "root", "busybox-static")
    assert stamp.stat().st_mtime_ns > first


@needs_apt
@pytest.mark.usefixtures("no_system_lists")
def test_lists_made_for_other_sources_are_fetched_again(tmp_path: Path, cache: Path) -> None:
    unpack(tmp_path / "root", "busybox-static")
    stamp = cache / "apt/sources"
    right = stamp.read_text()
    stamp.write_text("other sources")
    unpack(tmp_path / "root", "busybox-static")
    assert stamp.read_text() == right


@needs_apt
@needs_root
def test_an_ordinary_user_without_a_home_gets_packages(public_folder: Path) -> None:
    output = run_as_nobody(
        public_folder,
        "from pathlib import Path\n"
        "from pytest_rexxinfra.deadline import Deadline; from pytest_rexxinfra.events import Events\n"
        "from pytest_rexxinfra.packages import unpack_packages as unpack\n"
        "names, into = ['busybox-static'], Path('root')\n"
        "print(unpack(names, into, events=Events(), deadline=Deadline(120), where='test'))\n",
    )
    assert "'busybox-static': '1:" in output
    (program,) = (path for path in (public_folder / "root").rglob("bin/busybox"))
    assert program.owner() == "nobody"


@needs_apt
def test_a_package_that_does_not_exist_gives_the_words_of_apt(tmp_path: Path, cache: Path) -> None:
    with pytest.raises(CommandFailed) as caught:
        unpack(tmp_path / "root", "no-such-package-anywhere")
    assert "Unable to locate package no-such-package-anywhere" in str(caught.value)
    assert caught.value.hint
    assert caught.value.where == "test"


@pytest.mark.parametrize("name", ["--option", "two words", "", "UPPER", "a/b"])
def test_something_that_is_no_package_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="not the name of a package"):
        unpack(tmp_path, name)


def test_without_apt_the_error_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SystemUnavailable, match="apt-get and dpkg-deb is not on this computer") as caught:
        unpack(tmp_path / "root", "busybox-static")
    assert caught.value.hint
    assert not (tmp_path / "root").exists()


def test_run_tool_returns_the_output_and_sets_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GONE", "1")
    out = run_tool(["env"], deadline=Deadline(10), where="test", env={"GONE": None, "NEW": "2"})
    assert "NEW=2\n" in out
    assert "GONE=" not in out


def test_run_tool_keeps_the_output_of_a_failure() -> None:
    with pytest.raises(CommandFailed, match="status 3") as caught:
        run_tool(["sh", "-c", "echo out; echo err >&2; exit 3"], deadline=Deadline(10), where="test", hint="h")
    assert caught.value.output == "out\nerr"
    assert caught.value.hint == "h"


def test_run_tool_ends_the_whole_process_group_with_the_deadline() -> None:
    started = time.monotonic()
    with pytest.raises(DeadlineExceeded, match=r"did not end within 0\.5 s") as caught:
        run_tool(["sh", "-c", "echo begun; sleep 77 & wait"], deadline=Deadline(0.5), where="test")
    assert time.monotonic() - started < 5
    assert caught.value.output == "begun"


def test_run_tool_says_which_program_is_missing() -> None:
    with pytest.raises(SystemUnavailable, match="no-such-program is not on this computer"):
        run_tool(["no-such-program"], deadline=Deadline(10), where="test")


def test_a_lock_is_held_by_one_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "deep/lock"
    with (
        locked(path, deadline=Deadline(5), what="the thing"),
        pytest.raises(DeadlineExceeded, match="holds the thing"),
        locked(path, deadline=Deadline(0.1), what="the thing"),
    ):
        pass
    with locked(path, deadline=Deadline(5), what="the thing"):
        pass


def test_a_lock_is_got_as_soon_as_it_is_free(tmp_path: Path) -> None:
    path, order = tmp_path / "lock", list[str]()
    got = threading.Event()

    def first() -> None:
        with locked(path, deadline=Deadline(5), what="the thing"):
            got.set()
            assert not second_done.wait(0.2)
            order.append("first")

    second_done = threading.Event()
    thread = threading.Thread(target=first)
    thread.start()
    assert got.wait(5)
    with locked(path, deadline=Deadline(5), what="the thing"):
        order.append("second")
        second_done.set()
    thread.join()
    assert order == ["first", "second"]
