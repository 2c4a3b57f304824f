"""Room for large files goes with its process, however that ends."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pytest_rexxinfra.kvm.scratch import scratch, sweep_scratch

_HOLD = """
import sys
from pytest_rexxinfra.kvm.scratch import scratch
with scratch() as folder:
    (folder / "disk").write_bytes(b"large")
    print(folder, flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REXX_CACHE", str(tmp_path))


def test_it_is_there_for_the_block() -> None:
    with scratch() as one, scratch() as other:
        (one / "disk").write_bytes(b"large")
        sweep_scratch()
        assert one.is_dir()
        assert other.is_dir()
        assert one != other
    assert not one.exists()
    assert not other.exists()


def test_that_of_a_killed_process_is_swept() -> None:
    with subprocess.Popen([sys.executable, "-c", _HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        folder = Path(holder.stdout.readline().decode().strip())
        sweep_scratch()
        assert (folder / "disk").exists(), "its process lives"
        holder.kill()
    sweep_scratch()
    assert not folder.exists()
