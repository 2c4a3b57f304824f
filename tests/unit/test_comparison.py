"""A script on two interpreters: the differences that are known, and the others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pytest_rexxinfra.errors import UsageError
from pytest_rexxinfra.rexx.comparison import Compared, KnownDifferences
from pytest_rexxinfra.rexx.matrix import Observation
from pytest_rexxinfra.rexx.outcome import Verdict

SAME = {"stdout": "x\n", "stderr": "", "exit": "0"}
STDOUT = ["say.rexx: stdout differs", "    docker:a rexxjs-1: y", "    docker:a regina: x"]
EXIT = ["say.rexx: exit differs", "    docker:a rexxjs-1: 3", "    docker:a regina: 0"]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The file of known differences, with scripts beside it."""
    (tmp_path / "language").mkdir()
    for name in ("say.rexx", "other.rexx", "language/say.rexx"):
        (tmp_path / name).touch()
    return tmp_path / "known.toml"


def known(file: Path, *entries: str) -> KnownDifferences:
    file.write_text("".join(f"[[difference]]\n{each}\n" for each in entries), encoding="utf-8")
    return KnownDifferences.read(file)


def entry(script: str = "say.rexx", reason: str = "SAY adds nothing", **more: object) -> str:
    told = {"script": script, "reason": reason, **more}
    return "\n".join(f"{key} = {value!r}" for key, value in told.items())


def judged(listed: KnownDifferences, file: Path, name: str = "say.rexx", **ours: str) -> Compared:
    """What a script did with our build, compared to a reference that said x and ended with 0."""
    reference = Observation(name, "docker:a", "regina", Verdict.PASSED, facts=SAME)
    own = Observation(name, "docker:a", "rexxjs-1", Verdict.PASSED, facts={**SAME, **ours})
    return listed.judge(file.parent / name, own, reference)


def problem(file: Path, text: str) -> UsageError:
    file.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError) as caught:
        KnownDifferences.read(file)
    return caught.value


def gone(number: int, file: Path, fact: str) -> str:
    return f"{file}, entry {number}: the known difference in {fact} is gone (SAY adds nothing); take it out of the list"


def test_without_a_file_every_difference_counts(file: Path) -> None:
    assert judged(KnownDifferences(), file) == Compared([], [], [])
    assert judged(KnownDifferences(), file, stdout="y\n", exit="3") == Compared([*EXIT, *STDOUT], [], [])


def test_outcome_is_left_to_others(file: Path) -> None:
    reference = Observation("say.rexx", "local", "regina", Verdict.PASSED, facts=SAME)
    failed = Observation("say.rexx", "local", "rexxjs-1", Verdict.FAILED, facts=SAME)
    assert KnownDifferences().judge(file.parent / "say.rexx", failed, reference) == Compared([], [], [])


@pytest.mark.parametrize("what", ["stdout", ["stdout"]])
def test_listed_difference(file: Path, what: object) -> None:
    listed = known(file, entry(what=what))
    assert judged(listed, file, stdout="y\n") == Compared([], ["SAY adds nothing"], [])
    assert judged(listed, file, stdout="y\n", exit="3") == Compared(EXIT, ["SAY adds nothing"], [])


def test_difference_that_is_gone(file: Path) -> None:
    listed = known(file, entry("other.rexx"), entry(what=["stdout", "exit"]))
    assert judged(listed, file) == Compared([], [], [gone(2, file, "stdout"), gone(2, file, "exit")])
    assert judged(listed, file, stdout="y") == Compared([], ["SAY adds nothing"], [gone(2, file, "exit")])


def test_entry_without_facts_is_for_any(file: Path) -> None:
    listed = known(file, entry())
    assert judged(listed, file, stdout="y", exit="3") == Compared([], ["SAY adds nothing"], [])
    assert judged(listed, file, stderr="z") == Compared([], ["SAY adds nothing"], [])
    assert judged(listed, file) == Compared([], [], [gone(1, file, "anything")])


def test_two_entries_for_one_script(file: Path) -> None:
    listed = known(file, entry(what="stdout", reason="one"), entry(what="exit", reason="two"))
    assert judged(listed, file, stdout="y", exit="3") == Compared([], ["one", "two"], [])


@pytest.mark.parametrize(
    ("more", "applies"),
    [
        ({"build": "rexxjs*"}, True),
        ({"build": "rexxjs"}, False),
        ({"build": "regina"}, False),
        ({"target": "docker*"}, True),
        ({"target": "docker:?"}, True),
        ({"target": "local"}, False),
        ({"build": "rexxjs*", "target": "local"}, False),
    ],
)
def test_builds_and_targets(file: Path, more: dict[str, Any], applies: bool) -> None:
    compared = judged(known(file, entry(**more)), file, stdout="y\n")
    assert compared == (Compared([], ["SAY adds nothing"], []) if applies else Compared(STDOUT, [], []))


@pytest.mark.parametrize(
    ("pattern", "name", "applies"),
    [
        ("s?y.rexx", "say.rexx", True),
        ("*.rexx", "other.rexx", True),
        ("language/*", "language/say.rexx", True),
        ("language/say.rexx", "say.rexx", False),
        ("say.rexx", "language/say.rexx", False),
    ],
)
def test_scripts(file: Path, pattern: str, name: str, applies: bool) -> None:
    compared = judged(known(file, entry(pattern)), file, name, stdout="y\n")
    assert bool(compared.reasons) == applies
    assert bool(compared.unlisted) != applies


def test_empty_file_lists_nothing(file: Path) -> None:
    assert judged(known(file), file, exit="3") == Compared(EXIT, [], [])


@pytest.mark.parametrize(
    ("wrong", "part"),
    [
        ("reason = 'why'", "it names no script"),
        ("script = 3\nreason = 'why'", "it names no script"),
        ("script = 'say.rexx'", "it has no reason"),
        ("script = 'say.rexx'\nreason = ' '", "it has no reason"),
        (entry(facts="stdout", os="linux"), "unknown facts, os"),
        (entry(what="output"), "what is ['output']"),
        (entry(what=["stdout", 3]), "what is ['stdout', 3]"),
        (entry(what=[["stdout"]]), "what is [['stdout']]"),
        (entry(what=[]), "what is []"),
        (entry(what=3), "what is 3"),
        (entry("gone.rexx"), "there is no script gone.rexx beside "),
        (entry("no*.rexx"), "there is no script no*.rexx beside "),
        (entry("/say.rexx"), "there is no script /say.rexx beside "),
        (entry(""), "there is no script  beside "),
    ],
)
def test_wrong_entry_is_named(file: Path, wrong: str, part: str) -> None:
    text = f"[[difference]]\n{entry()}\n[[difference]]\n{wrong}\n"
    assert problem(file, text).message.startswith(f"{file}, entry 2: {part}")


def test_hints_say_what_is_right(file: Path) -> None:
    start = "[[difference]]\n"
    assert problem(file, start).hint == 'script = "name.rexx"'
    assert problem(file, start + entry(os="x")).hint == "it can have: build, reason, script, target, what"
    assert problem(file, start + "script = 'say.rexx'").hint == 'reason = "why say.rexx differs"'
    assert problem(file, start + entry(what="x")).hint == "some of stdout, stderr, exit"


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("difference = ", " is not TOML: Invalid value"),
        ("[difference]\nscript = 'say.rexx'\n", ": it has entries [[difference]] and nothing else"),
        ("[[differences]]\nscript = 'say.rexx'\n", ": it has entries [[difference]] and nothing else"),
        ("difference = 3", ": it has entries [[difference]] and nothing else"),
        ("difference = [3]", ", entry 1: it names no script"),
    ],
)
def test_wrong_file_is_named(file: Path, text: str, part: str) -> None:
    assert problem(file, text).message.startswith(f"{file}{part}")


def test_file_that_cannot_be_read(file: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read: No such file or directory"):
        KnownDifferences.read(file)
    file.write_bytes(b"\xff")
    with pytest.raises(UsageError, match="is not TOML: 'utf-8' codec can't decode"):
        KnownDifferences.read(file)
