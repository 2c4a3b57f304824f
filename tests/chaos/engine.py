"""The docker engines of the campaign: of our own where that is possible, else the one that is there."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import requests.exceptions
from docker import APIClient
from docker.errors import DockerException

from pytest_rexxinfra.systems.engine import Engine as UsersEngine

from . import processes

_START = 40.0
_TICK = 0.02
_PROGRAMS = ("dockerd", "unshare", "nsenter")
_HOLD = """\
read -r pid _ </proc/self/stat
mount -t proc proc /proc
ip link set lo up 2>/dev/null
trap '' CHLD
echo "$pid"
exec cat >/dev/null
"""


class Engine:
    """The engine that the environment names. It is shared with others, so nobody kills it."""

    private = False

    def __init__(self) -> None:
        self.api: Any = UsersEngine().api

    @property
    def environment(self) -> Mapping[str, str]:
        """What an inner run needs to find the engine."""
        return {name: value for name, value in os.environ.items() if name.startswith("DOCKER_")}

    def describe(self) -> str:
        return f"the engine at {self.api.base_url}, shared; dockerd is not hit"

    def close(self) -> None:
        """Let go of the engine."""
        self.api.close()


class PrivateEngine(Engine):
    """A dockerd in network, mount and process namespaces of its own, so that it touches no other one.

    Its bridge and its packet filter are in its network namespace, and everything that it started or mounted
    ends with the namespaces. Those outlive dockerd, which can thus be killed and started again.
    """

    private = True

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._folder.mkdir()
        (folder / "daemon.json").write_text("{}\n")
        self._nsenter: subprocess.Popen[bytes] | None = None
        self._holder = subprocess.Popen(
            ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "/bin/sh", "-c", _HOLD],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        assert self._holder.stdout is not None
        try:
            self._inside = int(self._holder.stdout.readline() or 0)
            if not self._inside:
                raise RuntimeError("there are no namespaces for it")
            self.start()
        except BaseException:
            self.close()
            raise

    @staticmethod
    def obstacle() -> str | None:
        """What there is against an engine of our own, ``None`` for nothing."""
        if os.geteuid() != 0:
            return "this is not root"
        missing = [name for name in _PROGRAMS if not shutil.which(name)]
        return f"there is no {missing[0]}" if missing else None

    @property
    def environment(self) -> Mapping[str, str]:
        return {"DOCKER_HOST": self._url}

    @property
    def _url(self) -> str:
        return f"unix://{self._folder}/docker.sock"

    @property
    def _log(self) -> Path:
        return self._folder / "dockerd.log"

    def describe(self) -> str:
        return f"dockerd {self.api.version()['Version']} of its own in namespaces"

    def start(self) -> None:
        """Start dockerd and wait until it answers; raises `RuntimeError` with its log."""
        for name in ("dockerd.pid", "exec/containerd/containerd.pid", "docker.sock"):
            # dockerd takes a pid that somebody has by now for its old containerd.
            (self._folder / name).unlink(missing_ok=True)
        with self._log.open("ab") as log:
            self._nsenter = subprocess.Popen(
                [
                    *("nsenter", f"--target={self._inside}", "--net", "--mount", "--pid", "dockerd"),
                    f"--config-file={self._folder}/daemon.json",
                    f"--data-root={self._folder}/data",
                    f"--exec-root={self._folder}/exec",
                    f"--pidfile={self._folder}/dockerd.pid",
                    f"--host={self._url}",
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        end = time.monotonic() + _START
        while True:
            with suppress(DockerException, requests.exceptions.RequestException):
                self.api = APIClient(base_url=self._url, version="auto", timeout=20)
                return
            if self._nsenter.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"dockerd does not answer:\n{self.log()}")
            time.sleep(_TICK)

    def hit(self, number: signal.Signals) -> None:
        """Send dockerd a signal and wait for its end."""
        assert self._nsenter is not None
        for pid in processes.children(self._nsenter.pid):
            os.kill(pid, number)
        self._nsenter.wait(_START)
        self.api.close()

    def log(self) -> str:
        """The end of what dockerd said."""
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-15:])

    def close(self) -> None:
        """End dockerd and everything that it started, and remove its files."""
        if self._nsenter is not None and self._nsenter.poll() is None:
            self.hit(signal.SIGTERM)
        assert self._holder.stdin is not None
        self._holder.stdin.close()
        self._holder.wait(_START)
        shutil.rmtree(self._folder, ignore_errors=True)
