"""Commands by requests: what starts a script, what asks after it, what reads files."""

from __future__ import annotations

import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_rexxinfra.channels.request import Answer, Jobs, RequestChannel
from pytest_rexxinfra.channels.stream import drain
from pytest_rexxinfra.deadline import Deadline
from pytest_rexxinfra.errors import ChannelClosed, CommandTimeout


class ProcessRequests:
    """Requests that this computer answers itself; counts them."""

    brief = 4096

    def __init__(self) -> None:
        self.jobs: dict[str, tuple[subprocess.Popen[bytes], list[Path]]] = {}
        self.asked: list[str] = []
        self.folder = tempfile.TemporaryDirectory()

    def start(self, script: str, deadline: Deadline) -> str:
        self.asked.append("start")
        job = str(len(self.jobs))
        texts = [Path(self.folder.name, f"{job}.{each}") for each in ("script", "out", "err")]
        texts[0].write_text(script)
        with texts[0].open("rb") as source, texts[1].open("wb") as out, texts[2].open("wb") as err:
            self.jobs[job] = subprocess.Popen(["/bin/sh"], stdin=source, stdout=out, stderr=err), texts
        return job

    def answer(self, job: str, deadline: Deadline) -> Answer | None:
        self.asked.append("answer")
        process, texts = self.jobs[job]
        status = process.poll()
        if status is None:
            return None
        return Answer(status % 256, texts[1].read_bytes(), texts[2].read_bytes())

    def read(self, path: str, offset: int, size: int, deadline: Deadline) -> bytes:
        self.asked.append("read")
        if not Path(path).exists():
            return b""
        with Path(path).open("rb") as file:
            file.seek(offset)
            return file.read(size)

    def append(self, path: str, data: bytes, deadline: Deadline) -> None:
        self.asked.append("append")
        with Path(path).open("ab") as file:
            file.write(data)


def wait_until_gone(words: str) -> None:
    Deadline(5).wait_for(
        lambda: words not in subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True).stdout, words
    )


@pytest.fixture
def requests() -> Iterator[ProcessRequests]:
    requests = ProcessRequests()
    yield requests
    requests.folder.cleanup()


@pytest.fixture
def channel(requests: ProcessRequests, tmp_path: Path) -> RequestChannel:
    return RequestChannel(Jobs(requests, str(tmp_path), "a machine"))


def test_both_streams_status_and_report(channel: RequestChannel) -> None:
    output = channel.run("echo out; echo err >&2; exit 7", after="echo it was", deadline=Deadline(10))
    assert (output.rc, output.stdout, output.stderr, output.report) == (7, b"out\n", b"err\n", b"it was")


def test_commands_stand_alone(channel: RequestChannel) -> None:
    channel.run("cd /; x=1; exit 3", deadline=Deadline(10))
    assert channel.run('echo "$PWD$x"', deadline=Deadline(10)).stdout.decode().strip() == str(Path.cwd())


def test_quick_command_is_two_requests_and_the_waiting(requests: ProcessRequests, channel: RequestChannel) -> None:
    channel.run("true", deadline=Deadline(10))
    assert requests.asked[0] == "start"
    assert {*requests.asked[1:]} == {"answer"}


@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 4097, 3 << 20])
def test_binary_input_and_output_of_any_size(channel: RequestChannel, size: int) -> None:
    data = os.urandom(size)
    output = channel.run("tee /dev/stderr", stdin=data, deadline=Deadline(30))
    assert (output.rc, output.stdout == data, output.stderr == data) == (0, True, True)


def test_output_comes_while_the_command_runs(channel: RequestChannel) -> None:
    seen: list[tuple[float, bytes]] = []
    started = time.monotonic()
    channel.run(
        "echo one; sleep 1; echo two",
        deadline=Deadline(10),
        on_output=lambda which, data: seen.append((time.monotonic() - started, data)),
    )
    assert b"".join(data for _, data in seen) == b"one\ntwo\n"
    assert seen[0][0] < 0.9 < seen[-1][0]


def test_output_that_is_not_kept(channel: RequestChannel) -> None:
    size = 0

    def receive(which: int, data: bytes) -> None:
        nonlocal size
        size += len(data)

    output = channel.run("head -c 5000000 /dev/zero", deadline=Deadline(10), on_output=receive, keep=False)
    assert (output.stdout, size) == (b"", 5000000)


def test_timeout_kills_the_command_and_tells_its_output(channel: RequestChannel) -> None:
    with pytest.raises(CommandTimeout, match="killed in the machine") as caught:
        channel.run("echo before; echo $$ >&2; sleep 4371 & sleep 4371", deadline=Deadline(0.5))
    assert "before" in str(caught.value.output)
    wait_until_gone("sleep 4371")
    assert channel.run("echo on", deadline=Deadline(10)).stdout == b"on\n"


def test_interrupt_gives_the_status(channel: RequestChannel) -> None:
    threading.Timer(0.3, channel.interrupt).start()
    output = channel.run("echo before; sleep 4372; echo after", deadline=Deadline(10))
    assert (output.rc, output.stdout) == (137, b"before\n")


def test_job_in_the_background_holds_nobody_up(channel: RequestChannel) -> None:
    started = time.monotonic()
    assert channel.run("sleep 5 & echo on", deadline=Deadline(10)).stdout == b"on\n"
    assert time.monotonic() - started < 4


def test_runner_that_is_killed(requests: ProcessRequests, channel: RequestChannel) -> None:
    threading.Timer(0.3, lambda: requests.jobs["0"][0].kill()).start()
    with pytest.raises(ChannelClosed, match="its outcome is unknown"):
        channel.run("sleep 1", deadline=Deadline(10))


def test_files_of_commands_go(requests: ProcessRequests, tmp_path: Path) -> None:
    folder = tmp_path / "jobs"
    channel = RequestChannel(Jobs(requests, str(folder), "a machine"))
    for number in range(5):
        channel.run(f"echo {number}", stdin=b"in", deadline=Deadline(10))
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {each.stem.rpartition("-")[2] for each in folder.iterdir()} == {"5"}


def test_process_with_words_and_input(requests: ProcessRequests, tmp_path: Path) -> None:
    stream = Jobs(requests, str(tmp_path), "a machine").process(["cat", "-", "/no such"])
    rc, stdout, stderr = drain(stream, b"x" * 3_000_000, Deadline(10), "cat")
    stream.close()
    assert (rc, len(stdout)) == (1, 3_000_000)
    assert b"/no such" in stderr


def test_stream_that_is_closed_early_ends_its_process(requests: ProcessRequests, tmp_path: Path) -> None:
    stream = Jobs(requests, str(tmp_path), "a machine").process(["sleep", "4373"])
    stream.close_input()
    stream.close()
    wait_until_gone("sleep 4373")


def test_other_user(requests: ProcessRequests, tmp_path: Path) -> None:
    channel = RequestChannel(Jobs(requests, str(tmp_path), "a machine", ["env", "WHO=me"]))
    assert channel.run("echo $WHO", deadline=Deadline(10)).stdout == b"me\n"
