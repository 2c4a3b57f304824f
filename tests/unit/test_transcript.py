"""Transcripts: complete, bounded, and without the values of environment variables."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest

from pytest_rexxinfra import transcript
from pytest_rexxinfra.errors import CommandTimeout
from pytest_rexxinfra.transcript import TEXT_KEPT, Entry, Transcript, render


def told(
    script: Transcript, command: str, rc: int = 0, stdout: bytes = b"", stderr: bytes = b"", user: str | None = None
) -> None:
    with script.recording(command, user) as ending:
        ending.tell(rc, stdout, stderr)


def only(script: Transcript) -> Entry:
    (entry,) = script.since()
    return entry


def test_command_with_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([100.0, 100.25])
    times = SimpleNamespace(time=lambda: 1_700_000_000.5, monotonic=lambda: next(clock))
    monkeypatch.setattr("pytest_rexxinfra.transcript.time", times)
    script = Transcript()
    told(script, "make\nit", 3, "schön\n".encode(), b"\xff", user="nobody")
    entry = only(script)
    assert (entry.number, entry.started, entry.duration) == (1, 1_700_000_000.5, 0.25)
    assert (entry.command, entry.user, entry.rc, entry.error) == ("make\nit", "nobody", 3, None)
    assert (entry.stdout.size, entry.stdout.tail) == (7, "schön\n")
    assert (entry.stderr.size, entry.stderr.tail) == (1, "\N{REPLACEMENT CHARACTER}")
    title, *rest = render([entry]).splitlines()
    assert ".500+" in title or ".500-" in title
    assert title.endswith("0.250 s, as nobody: status 3")
    assert rest == [
        "  $ make",
        "  it",
        "  stdout, 7 bytes:",
        "    schön",
        "  stderr, 1 bytes:",
        "    \N{REPLACEMENT CHARACTER}",
    ]


def test_command_that_an_error_ended() -> None:
    script = Transcript()
    with pytest.raises(CommandTimeout), script.recording("sleep 9"):
        raise CommandTimeout("not done after 1 s", command="sleep 9", output="so far\n", hint="wait")
    entry = only(script)
    assert (entry.rc, entry.error) == (None, "CommandTimeout: not done after 1 s")
    assert (entry.stdout.size, entry.stdout.tail) == (7, "so far\n")
    assert "CommandTimeout" in str(entry).splitlines()[0]


@pytest.mark.parametrize("failure", [KeyboardInterrupt(), ZeroDivisionError(), OSError("gone")])
def test_command_that_something_else_ended(failure: BaseException) -> None:
    script = Transcript()
    with pytest.raises(type(failure)), script.recording("sleep 9"):
        raise failure
    assert only(script).error == ": ".join(filter(None, [type(failure).__name__, str(failure)]))


def test_what_went_elsewhere_has_a_size() -> None:
    script = Transcript()
    with script.recording("get /large") as ending:
        ending.tell(0, b"", b"", stdout_size=5_000_000)
    assert str(only(script)).splitlines()[1:] == ["  $ get /large", "  stdout, 5000000 bytes"]


def test_long_texts_are_cut() -> None:
    script = Transcript()
    told(script, "x" * 5000, 0, b"-" * 5000 + "é".encode() * TEXT_KEPT)
    entry = only(script)
    assert entry.command == "x" * TEXT_KEPT + f"… ({5000 - TEXT_KEPT} more characters)"
    assert (entry.stdout.size, entry.stdout.tail) == (5000 + 2 * TEXT_KEPT, "é" * TEXT_KEPT)
    assert f"stdout, {5000 + 2 * TEXT_KEPT} bytes, the last {TEXT_KEPT} characters:" in str(entry)


def test_only_so_many_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transcript, "ENTRIES_KEPT", 5)
    script = Transcript()
    told(script, "before")
    mark = script.mark()
    for number in range(8):
        told(script, f"run {number}")
    kept = script.since(mark)
    assert [entry.command for entry in kept] == [f"run {number}" for number in range(3, 8)]
    assert script.dropped == 4
    assert render(kept, mark).startswith("(the first 3 are not kept any more)\n\n#5 ")
    assert render(kept).startswith("#5 ")
    assert render(kept[2:], kept[1].number).startswith("#7 ")


def test_nothing_to_render() -> None:
    assert render([], 0) == ""


def test_each_mark_gives_what_came_after() -> None:
    script = Transcript()
    assert script.mark() == 0
    told(script, "one")
    first = script.mark()
    told(script, "two")
    told(script, "three")
    assert [entry.command for entry in script.since(first)] == ["two", "three"]
    assert script.since(script.mark()) == []
    assert len(script.since()) == 3


def test_repeated_commands_are_one_entry() -> None:
    script = Transcript()
    for _ in range(40):
        told(script, "test -e /tmp/up", 1)
    told(script, "test -e /tmp/up", 0)
    waiting, done = script.since()
    assert (waiting.times, waiting.rc, done.times, done.rc) == (40, 1, 1, 0)
    assert ", 40 times: status 1" in str(waiting)


@pytest.mark.parametrize(
    "other",
    [
        {"command": "ls -l"},
        {"rc": 1},
        {"stdout": b"other"},
        {"stderr": b"other"},
        {"user": "nobody"},
    ],
)
def test_what_differs_is_not_repeated(other: dict[str, object]) -> None:
    script = Transcript()
    told(script, "ls")
    told(script, **{"command": "ls", **other})  # type: ignore[arg-type]
    assert len(script.since()) == 2


def test_repeated_after_a_mark_is_after_the_mark() -> None:
    script = Transcript()
    told(script, "ls")
    mark = script.mark()
    told(script, "ls")
    told(script, "ls")
    assert [entry.times for entry in script.since()] == [1, 2]
    assert [entry.times for entry in script.since(mark)] == [2]


def test_cleared_is_like_new() -> None:
    script = Transcript()
    script.hide(["secret"])
    told(script, "ls")
    script.mark()
    script.clear()
    assert (script.since(), script.dropped, script.mark()) == ([], 0, 0)
    told(script, "ls secret")
    assert (only(script).number, only(script).command) == (1, "ls ******")
    assert render(script.since(), 0).startswith("#1 ")


def test_hidden_values_are_nowhere() -> None:
    script = Transcript()
    script.hide(["hunter22", "first line\nsecond line"])
    told(script, "curl -u hunter22 x", 0, b"got hunter22\n", b"no first line but\nsecond line\n")
    with pytest.raises(CommandTimeout), script.recording("next"):
        raise CommandTimeout("hunter22 is late", output="hunter22")
    text = render(script.since())
    assert not any(value in text for value in ("hunter22", "first line", "second line"))
    assert "curl -u ******** x" in text


def test_the_longer_of_two_hidden_values_goes_first() -> None:
    script = Transcript()
    script.hide(["pass"])
    script.hide(["password"])
    assert script.masked("a password, a pass") == "a ********, a ****"


def test_values_too_short_to_hide_anything() -> None:
    script = Transcript()
    script.hide(["", "1", "on", "red"])
    assert script.masked("1 red lamp is on") == "1 red lamp is on"


@pytest.mark.parametrize("gap", range(TEXT_KEPT - 7, TEXT_KEPT + 2))
def test_hidden_across_a_cut(gap: int) -> None:
    script = Transcript()
    script.hide(["sécret"])
    told(script, "-" * gap + "sécret" + "-" * 100, 0, ("-" * 9000 + "sécret" + "." * gap).encode())
    entry = only(script)
    assert not set(entry.command.partition("…")[0]) & set("sécret")
    assert not set(entry.stdout.tail) & set("sécret")
    assert len(entry.stdout.tail) == TEXT_KEPT


def test_many_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transcript, "ENTRIES_KEPT", 300)
    script = Transcript()
    start = threading.Barrier(8)

    def work(name: int) -> None:
        start.wait()
        for number in range(100):
            script.hide([f"value {name} {number}"])
            told(script, f"{name} {number}")
            script.since(script.mark())

    threads = [threading.Thread(target=work, args=(name,)) for name in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [entry.number for entry in script.since()] == list(range(501, 801))
    assert script.dropped == 500
