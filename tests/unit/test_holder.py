"""Process 1 of a sandbox."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from pytest_rexxinfra.deadline import Deadline
from pytest_rexxinfra.errors import ProvisionError
from pytest_rexxinfra.model import process_start
from pytest_rexxinfra.systems.holder import BEGIN_NETWORK, Holder, kill_process
from pytest_rexxinfra.systems.sandbox import HOLD

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root makes pid namespaces without more ado")


@contextmanager
def visitor_that_nobody_reaps(pid: int) -> Iterator[None]:
    """A process in the pid namespace of ``pid`` whose parent, outside of it, is stopped."""
    command = ["nsenter", f"--target={pid}", "--pid", "sh", "-c", "echo; exec sleep 1000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        parent.stdout.readline()
        parent.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            parent.send_signal(signal.SIGCONT)


@pytest.mark.parametrize("size", [10, 300_000])
def test_a_script_of_any_length_holds_until_it_is_killed(size: int) -> None:
    comment = f"# {'grüße ' * (size // 6)}"
    holder = Holder(["env"], f"{BEGIN_NETWORK}\n{comment}\n{HOLD}", Deadline(10))
    assert holder.pid == holder._process.pid
    assert holder.alive
    holder.kill()
    assert not holder.alive


@pytest.mark.parametrize("size", [10, 300_000])
def test_what_a_script_complained_of(size: int) -> None:
    script = f"echo too bad >&2; exit 3\n# {'x' * size}"
    with pytest.raises(ProvisionError, match="could not be set up") as caught:
        Holder(["env"], script, Deadline(10))
    assert "too bad" in str(caught.value)


def test_a_command_that_cannot_start_it() -> None:
    with pytest.raises(ProvisionError) as caught:
        Holder(["env", "no-such-command"], "x" * 300_000, Deadline(10))
    assert "no-such-command" in str(caught.value)


@needs_root
def test_killing_does_not_wait_for_those_who_do_not_reap() -> None:
    holder = Holder(["unshare", "--pid", "--fork", "--mount"], f"{BEGIN_NETWORK}\n{HOLD}", Deadline(10))
    started = process_start(holder.pid)
    with visitor_that_nobody_reaps(holder.pid):
        kill_process(holder.pid, started)
        # Its own end has to wait, which is what makes this a test; unshare does not wait for it.
        assert process_start(holder.pid) == started
        assert holder._process.wait(5) == -signal.SIGKILL
        holder.kill()
        assert process_start(holder.pid) == started
        assert not holder.alive
    Deadline(30).wait_for(lambda: process_start(holder.pid) != started, "its end")
