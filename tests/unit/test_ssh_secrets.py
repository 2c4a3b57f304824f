"""Where secrets come from: the environment, whoever was told to ask, the terminal, nobody."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from collections.abc import Iterator

import pytest

from pytest_rexxinfra.ssh import secrets
from pytest_rexxinfra.ssh.secrets import PASSWORD, Secrets

WANTED = "password of me@web"


@pytest.fixture(autouse=True)
def _forgetful(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nobody has been asked yet, nobody sits at a terminal, and nothing is in the environment."""
    for name in (PASSWORD, "CI", "PYTEST_XDIST_WORKER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Secrets, "ask", None)
    secrets._ANSWERS.clear()
    yield
    secrets._ANSWERS.clear()


def test_environment_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Secrets, "ask", lambda wanted: pytest.fail("nobody is to be asked"))
    for given in ("s3cret", ""):
        monkeypatch.setenv(PASSWORD, given)
        assert Secrets.get(PASSWORD, WANTED) == given


def test_each_is_asked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def ask(wanted: str) -> str | None:
        asked.append(wanted)
        return None if wanted.endswith("nobody") else f"that of {wanted}"

    monkeypatch.setattr(Secrets, "ask", ask)
    for _ in range(2):
        assert Secrets.get(PASSWORD, WANTED) == f"that of {WANTED}"
        assert Secrets.get(PASSWORD, "password of nobody") is None
    assert asked == [WANTED, "password of nobody"]


ASK = f"""
from pytest_rexxinfra.ssh.secrets import PASSWORD, Secrets
print(f"answer={{Secrets.get(PASSWORD, {WANTED!r})}}.", flush=True)
"""


@pytest.mark.parametrize("name", ["CI", "PYTEST_XDIST_WORKER", None])
def test_only_who_sits_at_a_terminal_is_asked(name: str | None) -> None:
    """A process with a terminal of its own, at which the answer is typed."""
    pid, terminal = pty.fork()
    if pid == 0:
        # This process has threads, of which the copy has none: only another program may run in that.
        os.execve(sys.executable, [sys.executable, "-c", ASK], {**os.environ, **({name: "true"} if name else {})})
    said = b""
    try:
        while b"answer=" not in said or not said.endswith(b".\r\n"):
            if b": " in said and b"typed" not in said:
                os.write(terminal, b"typed\n")
                said += b"(typed)"
            said += os.read(terminal, 1024)
    except OSError:
        pass
    finally:
        os.close(terminal)
        os.waitpid(pid, 0)
    assert (b"answer=typed." in said) is (name is None), said
    assert (WANTED.encode() in said) is (name is None), said


def test_without_a_terminal_nobody_knows() -> None:
    said = subprocess.run(
        [sys.executable, "-c", ASK], check=True, capture_output=True, text=True, start_new_session=True
    )
    assert said.stdout == "answer=None.\n"
