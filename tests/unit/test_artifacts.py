"""Artifacts: names, patterns, bounds, and machines that give them something bad."""

from __future__ import annotations

import io
import tarfile
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO, cast

import pytest

from pytest_rexxinfra import Capability, Machine, Spec
from pytest_rexxinfra.artifacts import Artifacts, Glob, directory_name
from pytest_rexxinfra.channels.channel import CommandOutput
from pytest_rexxinfra.deadline import Deadline
from pytest_rexxinfra.errors import MachineDied, UsageError
from pytest_rexxinfra.rexx.runtime import RexxResult, ScriptRun
from pytest_rexxinfra.transcript import Transcript

TEST = "tests/test_it.py::test_it"


class FakeMachine:
    """Has what `Artifacts` asks of a machine: a transcript, a log, and answers to `fetch`."""

    def __init__(self, listing: Sequence[str] = (), archive: bytes = b"", stderr: bytes = b"", **spec: Any) -> None:
        self.name = "web"
        self.spec = Spec(**spec)
        self.capabilities = frozenset({Capability.LOGS})
        self.transcript = Transcript()
        self.log: str | Exception = ""
        self.users: list[str | None] = []
        self.sent = b""
        self._answers = iter(["".join(f"{path}\0" for path in listing).encode(), archive])
        self._stderr = stderr

    def logs(self) -> str:
        if isinstance(self.log, Exception):
            raise self.log
        return self.log

    def fetch(
        self,
        command: str,
        target: BinaryIO,
        deadline: Deadline,
        *,
        shown: str,
        stdin: bytes = b"",
        user: str | None = None,
    ) -> CommandOutput:
        self.users.append(user)
        self.sent += stdin
        target.write(next(self._answers))
        return CommandOutput(0, b"", self._stderr)

    def ran(self, command: str) -> None:
        with self.transcript.recording(command) as ending:
            ending.tell(0, b"", b"")

    @property
    def real(self) -> Machine:
        return cast(Machine, self)


def member(
    name: str, data: bytes = b"data", kind: bytes = tarfile.REGTYPE, link: str = ""
) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode = kind, link, 0o777
    info.size = len(data) if kind == tarfile.REGTYPE else 0
    return info, data


def archive(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w", errors="surrogateescape") as tar:
        for info, content in members:
            tar.addfile(info, io.BytesIO(content))
    return data.getvalue()


def tree(root: Path) -> set[str]:
    """Every file and link below the one directory of the one test in ``root``."""
    if not root.exists():
        return set()
    (test,) = root.iterdir()
    return {str(path.relative_to(test)) for path in test.rglob("*") if path.is_symlink() or path.is_file()}


GLOBS = [
    ("/var/log/syslog", ["/var/log/syslog"], ["/var/log/syslog.1", "/var/log", "/a/var/log/syslog"]),
    ("/var/log/", ["/var/log"], ["/var/log/x", "/var/logs"]),
    ("//var//./log", ["/var/log"], ["/var/log/x"]),
    ("/tmp/*.txt", ["/tmp/a.txt", "/tmp/.txt", "/tmp/.hidden.txt", "/tmp/a b\n.txt"], ["/tmp/a/b.txt", "/tmp/a.txt~"]),
    ("/tmp/*", ["/tmp/a", "/tmp/.a", "/tmp/*"], ["/tmp", "/tmp/a/b"]),
    ("/*/*.log", ["/a/b.log"], ["/b.log", "/a/b/c.log"]),
    ("/t?p/x", ["/tmp/x", "/t\udcffp/x"], ["/tp/x", "/t/p/x", "/tmmp/x"]),
    ("/t/[a-c]x", ["/t/ax", "/t/cx"], ["/t/dx", "/t/x", "/t/[a-c]x"]),
    ("/t/[!a-c]x", ["/t/dx"], ["/t/ax", "/t//x", "/t/x"]),
    ("/t/[*]", ["/t/*"], ["/t/a"]),
    ("/t/[", ["/t/["], ["/t/a"]),
    ("/t/a+(b).$", ["/t/a+(b).$"], ["/t/aab.$", "/t/a+(b)x$"]),
    ("/t/a\\*", ["/t/a\\b"], ["/t/a*"]),
    ("/**", ["/a", "/a/b/c", "/.a"], ["/"]),
    ("/", ["/a", "/a/b"], []),
    ("/var/log/**", ["/var/log/a", "/var/log/a/b/c", "/var/log/.a/b"], ["/var/log", "/var/logs/a"]),
    ("/var/**/x.log", ["/var/x.log", "/var/a/x.log", "/var/a/b/x.log"], ["/x.log", "/var/ax.log", "/var/a/x.log/b"]),
    ("/**/a/**/b", ["/a/b", "/x/a/b", "/a/x/y/b", "/a/a/b/b"], ["/a", "/b", "/b/a", "/a/b/c"]),
    ("/a/**/**", ["/a/b", "/a/b/c"], ["/a"]),
    ("/a/x**y", ["/a/xy", "/a/x1y"], ["/a/x/y"]),
    ("/-x/'\"$`;&", ["/-x/'\"$`;&"], ["/-x/"]),
]


@pytest.mark.parametrize(("pattern", "meant", "others"), GLOBS, ids=[case[0] for case in GLOBS])
def test_pattern(pattern: str, meant: list[str], others: list[str]) -> None:
    glob = Glob(pattern)
    assert [path for path in meant if not glob.matches(path)] == []
    assert [path for path in others if glob.matches(path)] == []


@pytest.mark.parametrize("wrong", ["", "relative/*", "~/x", "*", "/a\0b", "/a/../b", 3, None])
def test_wrong_pattern(wrong: Any, tmp_path: Path) -> None:
    machine = FakeMachine()
    machine.ran("ls")
    with pytest.raises(UsageError, match=r"@pytest\.mark\.collect: "):
        Artifacts(tmp_path / "root").collect(machine.real, TEST, ["/fine", wrong])
    assert not (tmp_path / "root").exists()


NODE_IDS = [
    "tests/test_a.py::test_b",
    "tests/test_a.py::test-b",
    "tests/test_a.py::test_b[x/y]",
    "tests/test_a.py::test_b[x-y]",
    "tests/test_a.py::test_b[x\\y]",
    "tests/test_a.py::test_b[é]",
    "tests/test_a.py::test_b[è]",
    "tests/test_a.py::TEST_b",
    "tests/test_a.py::test_b[..]",
    "tests/test_a.py::test_b[../../..]",
    "tests/test_a.py::test_b[\udcff\ud800]",
    "tests/test_a.py::test_b[\udcfe\ud800]",
    "tests/test_a.py::test_b[\0\n]",
    "tests/test_a.py::test_b[" + "x" * 3000 + "]",
    "tests/test_a.py::test_b[" + "x" * 3001 + "]",
    "..",
    ".",
    "/",
    "",
]


def test_directory_names() -> None:
    names = [directory_name(test) for test in NODE_IDS]
    assert len({name.lower() for name in names}) == len(NODE_IDS)
    for name in names:
        assert name.isascii()
        assert name.isprintable()
        assert not set(name) & set(' /\\:*?"<>|[]')
        assert name[0] not in ".-"
        assert len(name) <= 120
    assert names[2].startswith("tests-test_a.py-test_b-x-y-")
    assert "test_b" in directory_name("deep/" * 100 + "test_a.py::test_b")


@pytest.mark.parametrize("test", NODE_IDS)
def test_everything_stays_inside(tmp_path: Path, test: str) -> None:
    machine = FakeMachine()
    machine.ran("ls")
    (file,) = Artifacts(tmp_path / "root").collect(machine.real, test)
    assert file.resolve().relative_to(tmp_path / "root").parts[1:] == ("web", "transcript.txt")


def test_nothing_is_made_of_nothing(tmp_path: Path) -> None:
    machine = FakeMachine(command=("server",))
    machine.ran("earlier")
    found = Artifacts(tmp_path / "root").collect(machine.real, TEST, ["/no/*.such"], machine.transcript.mark())
    assert found == []
    assert found.notes == ["files: nothing matches /no/*.such"]
    assert not (tmp_path / "root").exists()


def test_no_match_is_said_beside_what_there_is(tmp_path: Path) -> None:
    machine = FakeMachine()
    machine.ran("ls")
    transcript, problems = Artifacts(tmp_path).collect(machine.real, TEST, ["/no/*.such"])
    assert "$ ls" in transcript.read_text()
    assert problems.read_text() == "files: nothing matches /no/*.such\n"


def test_only_the_part_of_the_test(tmp_path: Path) -> None:
    machine = FakeMachine()
    machine.ran("mine not")
    mark = machine.transcript.mark()
    machine.ran("mine")
    (file,) = Artifacts(tmp_path).collect(machine.real, TEST, since=mark)
    assert "$ mine\n" in file.read_text()
    assert "not" not in file.read_text()


def test_each_collection_has_its_own_directory(tmp_path: Path) -> None:
    machine = FakeMachine()
    machine.ran("ls")
    for _ in range(3):
        Artifacts(tmp_path).collect(machine.real, TEST)
    assert tree(tmp_path) == {f"{name}/transcript.txt" for name in ("web", "web-2", "web-3")}


def test_logs_of_the_main_process(tmp_path: Path) -> None:
    machine = FakeMachine(command=("server",))
    machine.log = "started\n"
    (file,) = Artifacts(tmp_path).collect(machine.real, TEST)
    assert (file.name, file.read_text()) == ("logs.txt", "started\n")


def test_no_logs_without_a_main_process(tmp_path: Path) -> None:
    machine = FakeMachine()
    machine.log = "not of this machine"
    assert Artifacts(tmp_path).collect(machine.real, TEST) == []


@pytest.mark.parametrize("failure", [MachineDied("it is gone"), OSError("broken pipe"), ZeroDivisionError()])
def test_what_cannot_be_had_is_a_note(tmp_path: Path, failure: Exception) -> None:
    machine = FakeMachine(command=("server",))
    machine.log = failure
    machine.ran("ls")
    found = Artifacts(tmp_path).collect(machine.real, TEST)
    assert [path.name for path in found] == ["transcript.txt", "problems.txt"]
    assert found.notes == [f"logs: {getattr(failure, 'message', str(failure)) or 'ZeroDivisionError'}"]
    assert found[-1].read_text().splitlines() == found.notes


def test_nowhere_to_write(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    machine = FakeMachine()
    machine.ran("ls")
    found = Artifacts(tmp_path / "file").collect(machine.real, TEST)
    assert found == []
    assert found.notes[0].startswith("transcript: ")
    assert found.notes[-1].startswith("problems.txt: ")


def test_the_time_is_over(tmp_path: Path) -> None:
    machine = FakeMachine(["/x"])
    machine.ran("ls")
    found = Artifacts(tmp_path).collect(machine.real, TEST, ["/x"], deadline=Deadline(0))
    assert found.notes == ["looking for files: collecting files: not done after 0 s"]
    assert machine.users == []


def result(name: str) -> RexxResult:
    return RexxResult(name, 0, b"printed topsecret", b"", 0.1, "fake:web", f"SAY '{name}'", "build", "fake:web")


def test_scripts(tmp_path: Path) -> None:
    machine = FakeMachine()
    machine.transcript.hide(["topsecret"])
    runs = deque(
        [
            ScriptRun(1, "old.rexx", "SAY 'old'", result("old")),
            ScriptRun(2, "script.rexx", "SAY 'caf\udce9'", result("new")),
            ScriptRun(3, "../odd näme.cmd", "LOOP", None, "CommandTimeout: too late"),
        ]
    )
    cast(Any, machine).rexx = SimpleNamespace(runs=runs)
    Artifacts(tmp_path).collect(machine.real, TEST, since=1)
    scripts = {
        f"web/scripts/{name}" for name in ("01-script.rexx", "01-script.txt", "02-odd-n-me.rexx", "02-odd-n-me.txt")
    }
    assert tree(tmp_path) == scripts
    folder = next(tmp_path.iterdir()) / "web/scripts"
    assert (folder / "01-script.rexx").read_bytes() == b"SAY 'caf\xe9'"
    assert (folder / "01-script.txt").read_text() == result("new").report().replace("topsecret", "*********") + "\n"
    assert (folder / "02-odd-n-me.txt").read_text().startswith("CommandTimeout: too late\n")


def test_more_scripts_than_are_kept(tmp_path: Path) -> None:
    machine = FakeMachine()
    runs = deque((ScriptRun(number, "x", "SAY", result("x")) for number in range(1, 9)), maxlen=5)
    cast(Any, machine).rexx = SimpleNamespace(runs=runs)
    assert Artifacts(tmp_path).collect(machine.real, TEST).notes == ["scripts: only the last 5 runs are kept"]


def test_hidden_values_in_nothing_that_we_write(tmp_path: Path) -> None:
    machine = FakeMachine(stderr=b"tar: topsecret: no", command=("server",))
    machine.transcript.hide(["topsecret"])
    machine.log = "topsecret in the log"
    machine.ran("curl -u topsecret")
    found = Artifacts(tmp_path).collect(machine.real, TEST, ["/x"])
    assert [path.name for path in found] == ["transcript.txt", "logs.txt", "problems.txt"]
    for path in found:
        assert "topsecret" not in path.read_text()
        assert "*********" in path.read_text()
    assert not any("topsecret" in note for note in found.notes)


def test_files(tmp_path: Path) -> None:
    data = archive(member("./var/a", b"A"), member("./var/caf\udce9", b"E"), member("./var/new\nline", b"N"))
    machine = FakeMachine(["/var", "/var/a", "/var/b"], data)
    found = Artifacts(tmp_path).collect(machine.real, TEST, ["/var/*"])
    assert tree(tmp_path) == {"web/files/var/a", "web/files/var/caf\\xe9", "web/files/var/new\nline"}
    assert [path.read_bytes() for path in found] == [b"A", b"E", b"N"]
    assert found.notes == []
    assert machine.users == [None, None]
    assert machine.sent == b"./var/a\0./var/b\0"


def test_what_is_in_a_chosen_directory_is_not_asked_for_again(tmp_path: Path) -> None:
    machine = FakeMachine(["/a", "/a/b", "/a/b/c", "/ab"], archive(member("./a/b/c")))
    Artifacts(tmp_path).collect(machine.real, TEST, ["/a/**", "/a/b", "/a?"])
    assert machine.sent == b"./a/b\0./ab\0"


def test_files_can_be_read_here_whatever_their_mode_was(tmp_path: Path) -> None:
    info, data = member("./locked")
    info.mode = 0o4000
    (path,) = Artifacts(tmp_path).collect(FakeMachine(["/locked"], archive((info, data))).real, TEST, ["/locked"])
    assert path.stat().st_mode & 0o7777 == 0o600


def test_several_archives_in_a_row(tmp_path: Path) -> None:
    data = archive(member("./a")) + archive(member("./b")) + archive(member("./c"))
    Artifacts(tmp_path).collect(FakeMachine(["/a"], data).real, TEST, ["/*"])
    assert tree(tmp_path) == {"web/files/a", "web/files/b", "web/files/c"}


def test_looked_for_as_root_when_the_machine_has_another_user(tmp_path: Path) -> None:
    machine = FakeMachine(["/a"], archive(member("./a")), user="nobody")
    Artifacts(tmp_path).collect(machine.real, TEST, ["/a"])
    assert machine.users == ["root", "root"]


EVIL = {
    "above": [member("../out")],
    "absolute": [member("/out")],
    "through a link": [member("link", kind=tarfile.SYMTYPE, link=".."), member("link/out")],
    "hard link above": [member("hard", kind=tarfile.LNKTYPE, link="../../../../theirs")],
    "hard link to a link": [
        member("link", kind=tarfile.SYMTYPE, link="../../../../theirs"),
        member("hard", kind=tarfile.LNKTYPE, link="link"),
    ],
    "link above": [member("link", kind=tarfile.SYMTYPE, link="../../../../theirs")],
    "absolute link": [member("link", kind=tarfile.SYMTYPE, link="/etc/passwd")],
    "link over links": [
        member("a/b/up", kind=tarfile.SYMTYPE, link="../.."),
        member("a/b/c", kind=tarfile.SYMTYPE, link="up/../../../../theirs"),
    ],
    "dangling link": [member("link", kind=tarfile.SYMTYPE, link="nothing")],
    "link to itself": [member("link", kind=tarfile.SYMTYPE, link="link")],
    "device": [member("null", kind=tarfile.CHRTYPE)],
    "pipe": [member("pipe", kind=tarfile.FIFOTYPE)],
}


@pytest.mark.parametrize("members", EVIL.values(), ids=EVIL.keys())
def test_nothing_lies_or_leads_outside(tmp_path: Path, members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    theirs = tmp_path / "theirs"
    theirs.write_text("untouched")
    theirs.chmod(0o640)
    machine = FakeMachine(["/x"], archive(*members, member("./fine")))
    found = Artifacts(tmp_path / "root").collect(machine.real, TEST, ["/x"])
    (files,) = (tmp_path / "root").glob("*/web/files")
    assert (files / "fine") in found
    assert {path.name for path in files.rglob("*") if not path.is_dir()} == {"fine"}
    assert all(path.resolve().is_relative_to(files) for path in files.rglob("*"))
    assert (theirs.read_text(), theirs.stat().st_mode & 0o777) == ("untouched", 0o640)
    assert {path.name for path in tmp_path.iterdir()} == {"theirs", "root"}


def test_links_among_the_files_stay(tmp_path: Path) -> None:
    data = archive(
        member("./log/app-1"),
        member("./log/current", kind=tarfile.SYMTYPE, link="app-1"),
        member("./log/same", kind=tarfile.LNKTYPE, link="./log/app-1"),
    )
    found = Artifacts(tmp_path).collect(FakeMachine(["/log"], data).real, TEST, ["/log"])
    assert found.notes == []
    assert [path.read_bytes() for path in found] == [b"data"] * 3


def test_not_too_large(tmp_path: Path) -> None:
    data = archive(member("./a", b"a" * 600), member("./b", b"b" * 600), member("./c", b"c" * 300))
    artifacts = Artifacts(tmp_path, size_limit=1000)
    found = artifacts.collect(FakeMachine(["/a"], data).real, TEST, ["/a"])
    assert tree(tmp_path) == {"web/files/a", "web/files/c", "web/problems.txt"}
    assert found.notes == ["files: 1 left out as too much, from /b on"]


def test_a_size_that_is_only_claimed(tmp_path: Path) -> None:
    info, data = member("./bomb")
    info.pax_headers = {"GNU.sparse.map": "0,4", "GNU.sparse.size": str(1 << 40)}
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(info, io.BytesIO(data))
    found = Artifacts(tmp_path).collect(FakeMachine(["/bomb"], out.getvalue()).real, TEST, ["/bomb"])
    assert found.notes == ["files: 1 left out as too much, from /bomb on"]
    assert tree(tmp_path) == {"web/problems.txt"}


def test_not_too_many(tmp_path: Path) -> None:
    data = archive(*(member(f"./{number}") for number in range(9)))
    found = Artifacts(tmp_path, count_limit=4).collect(FakeMachine(["/1"], data).real, TEST, ["/**"])
    assert [path.name for path in found] == ["0", "1", "2", "3", "problems.txt"]
    assert found.notes == ["files: 5 left out as too much, from /4 on"]


def test_too_many_matches(tmp_path: Path) -> None:
    machine = FakeMachine([f"/{number}" for number in range(9)], archive(member("./0")))
    found = Artifacts(tmp_path, count_limit=4).collect(machine.real, TEST, ["/**"])
    assert found.notes == ["files: of 9 matches, those after the first 4 are left out"]
    assert machine.sent == b"./0\0./1\0./2\0./3\0"


def test_texts_are_part_of_the_bound(tmp_path: Path) -> None:
    machine = FakeMachine(["/a"], archive(member("./a", b"a" * 600)), command=("server",))
    machine.log = "".join(f"{number}\n" for number in range(1000))
    log, problems = Artifacts(tmp_path, size_limit=1000).collect(machine.real, TEST, ["/a"])
    assert len(log.read_bytes()) == 1000
    assert log.read_text().endswith("998\n999\n")
    assert "logs.txt: its first 2890 of 3890 bytes are left out" in problems.read_text()
    assert "files: 1 left out as too much, from /a on" in problems.read_text()


@pytest.mark.parametrize("length", [20_000, 60_000])
def test_archive_that_is_cut_off(tmp_path: Path, length: int) -> None:
    data = archive(member("./a", b"a" * 300), member("./b", b"b" * 100_000))
    found = Artifacts(tmp_path).collect(FakeMachine(["/a"], data[:length]).real, TEST, ["/a"])
    assert [path.name for path in found] == ["a", "b", "problems.txt"]
    assert found[0].read_bytes() == b"a" * 300
    assert 0 < found[1].stat().st_size < length
    assert found.notes[0] == "files: /b: unexpected end of data"


def test_what_is_no_archive(tmp_path: Path) -> None:
    found = Artifacts(tmp_path).collect(FakeMachine(["/a"], b"sh: tar: not found\n" * 100).real, TEST, ["/a"])
    assert found == []
