"""The container engines of the campaign: of our own where that is possible, else the one that is there."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import requests.exceptions
from docker import APIClient
from docker.errors import APIError, DockerException

from pytest_rexxinfra.systems.docker import DockerEngine as UsersEngine

from . import processes
from .enclosure import PROCESSES, Enclosure
from .left import Counts, Left

_START = 40.0
_TICK = 0.02
_RUN = "rexxinfra.run"
_BUILT_IN = ("bridge", "host", "none", "podman")


class Broken(RuntimeError):
    """An engine cannot start any more on what it has on disk, which is a fault of its own.

    Docker 20.10 is so when it was killed while it wrote down a new network (``reservePools`` in its log).
    """


class Engine:
    """A place: the engine that the environment names. It is shared with others, so nobody kills it."""

    private = False
    words: Sequence[str] = ()

    def __init__(self) -> None:
        self.api: Any = UsersEngine().api

    @property
    def environment(self) -> Mapping[str, str]:
        return {name: value for name, value in os.environ.items() if name.startswith("DOCKER_")}

    def describe(self) -> str:
        return f"the engine at {self.api.base_url}, shared; dockerd is not hit"

    @property
    def image(self) -> str:
        """The plain image that all runs share."""
        found: str = self.api.images("rexxinfra/mini")[0]["RepoTags"][0]
        return found

    def remains(self, counts: Counts) -> Iterator[Left]:
        for each in self.api.containers(all=True):
            if counts(each["Id"], each["Labels"]):
                text = f"{' '.join(each['Names'] or ())} ({each['Status']}) of run {each['Labels'].get(_RUN)}"
                yield Left("container", each["Id"], text)
        for each in self.api.networks():
            if each["Name"] not in _BUILT_IN and counts(each["Id"], each["Labels"]):
                yield Left("network", each["Id"], f"{each['Name']} of run {(each['Labels'] or {}).get(_RUN)}")
        for each in self.api.volumes()["Volumes"] or ():
            if counts(each["Name"], each["Labels"]):
                yield Left("volume", each["Name"], f"{each['Name']} of run {(each['Labels'] or {}).get(_RUN)}")
        for image in self.api.images("rexxinfra/machine"):
            for tag in image["RepoTags"] or ():
                if counts(tag, None):
                    yield Left("image", tag, tag)
        for image in self.api.images(filters={"dangling": True}):
            if counts(image["Id"], None):
                yield Left("image", image["Id"], f"{image['Id']} without a name")

    def remove(self, left: Left) -> None:
        with suppress(APIError):
            match left.kind:
                case "container":
                    self.api.remove_container(left.id, force=True, v=True)
                case "network":
                    self.api.remove_network(left.id)
                case "volume":
                    self.api.remove_volume(left.id, force=True)
                case "image":
                    self.api.remove_image(left.id)

    def unbake(self) -> None:
        if self.private:
            for image in self.api.images("rexxinfra/baked"):
                self.api.remove_image(image["RepoTags"][0], force=True)

    def log(self) -> str:
        return ""

    def close(self) -> None:
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
        self._enclosure = Enclosure(*PROCESSES, setup="mount -t proc proc /proc")
        try:
            self.start()
        except BaseException:
            self.close()
            raise

    @staticmethod
    def obstacle() -> str | None:
        """What there is against an engine of our own, ``None`` for nothing."""
        return Enclosure.obstacle("dockerd")

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
        """Start dockerd and wait until it answers; raises `RuntimeError` with its log, or `Broken`."""
        for name in ("dockerd.pid", "exec/containerd/containerd.pid", "docker.sock"):
            # dockerd takes a pid that somebody has by now for its old containerd.
            (self._folder / name).unlink(missing_ok=True)
        with self._log.open("ab") as log:
            self._nsenter = subprocess.Popen(
                [
                    *(*self._enclosure.words("net", "mount", "pid"), "dockerd"),
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
                kind = Broken if "reservePools" in self._log.read_text(errors="replace") else RuntimeError
                raise kind(f"dockerd does not answer:\n{self.log()}")
            time.sleep(_TICK)

    def hit(self, number: signal.Signals) -> None:
        """Send dockerd a signal and wait for its end."""
        assert self._nsenter is not None
        for pid in processes.children(self._nsenter.pid):
            os.kill(pid, number)
        self._nsenter.wait(_START)
        self.api.close()

    def log(self) -> str:
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-15:])

    def close(self) -> None:
        """End dockerd and everything that it started, and remove its files."""
        if self._nsenter is not None and self._nsenter.poll() is None:
            self.hit(signal.SIGTERM)
        self._enclosure.close()
        shutil.rmtree(self._folder, ignore_errors=True)
