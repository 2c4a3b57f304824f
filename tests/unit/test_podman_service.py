"""Where podman is found, and the service of ours that ends with its process."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_rexxinfra.deadline import Deadline
from pytest_rexxinfra.errors import SystemUnavailable
from pytest_rexxinfra.events import Events
from pytest_rexxinfra.lab import make_driver
from pytest_rexxinfra.systems import podman_engine
from pytest_rexxinfra.systems.podman_service import PodmanService, answers

needs_podman = pytest.mark.skipif(
    shutil.which("podman") is None and "podman" not in os.environ.get("REXX_REQUIRE", ""), reason="podman is not here"
)

_SERVE = """
import sys, time
from pytest_rexxinfra.systems.podman_service import PodmanService
service = PodmanService("podman")
print(service.url, flush=True)
time.sleep(60)
"""


@needs_podman
def test_a_killed_process_takes_its_service_along() -> None:
    with subprocess.Popen([sys.executable, "-c", _SERVE], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        socket = Path(process.stdout.readline().strip().removeprefix("unix://"))
        try:
            assert answers(socket)
        finally:
            process.send_signal(signal.SIGKILL)
    Deadline(10).wait_for(lambda: not answers(socket) and not socket.parent.exists(), "the service to end")


@needs_podman
def test_closed_it_leaves_nothing() -> None:
    service = PodmanService("podman")
    socket = Path(service.url.removeprefix("unix://"))
    assert answers(socket)
    service.close()
    assert not socket.parent.exists()


def test_one_that_does_not_start_says_why(tmp_path: Path) -> None:
    program = tmp_path / "podman"
    program.write_text("#!/bin/sh\necho the reason >&2; exit 125\n")
    program.chmod(0o755)
    with pytest.raises(SystemUnavailable, match="the reason"):
        PodmanService(str(program))


def test_without_podman(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CONTAINER_HOST", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(podman_engine, "_usual_socket", lambda: tmp_path / "none.sock")
    found = make_driver("podman", Events()).probe()
    assert not found.usable
    assert "apt-get install" in (found.hint or "")


@pytest.mark.parametrize(
    ("host", "reason"),
    [
        ("tcp://127.0.0.1:9", "no podman engine answers at tcp://127.0.0.1:9"),
        ("unix:///no/such.sock", "no podman engine answers at unix:///no/such.sock"),
        ("ssh://root@elsewhere/run/podman/podman.sock", "only unix: and tcp: are spoken"),
    ],
)
def test_the_engine_that_the_environment_names(host: str, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONTAINER_HOST", host)
    found = make_driver("podman", Events()).probe()
    assert not found.usable
    assert reason in found.reason
    assert found.hint


@needs_podman
def test_doctor_is_told_more_than_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CONTAINER_HOST", raising=False)
    driver = make_driver("podman", Events())
    assert driver.probe().reason.startswith("podman ")
    facts = driver.examine().facts
    assert {"engine", "user", "runtime", "network", "cgroups", "storage"} <= set(facts)
    assert facts["user"] == ("root" if os.geteuid() == 0 else "rootless")
