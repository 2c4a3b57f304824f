"""A podman of the campaign's own: its storage, its settings and its network are not the user's."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from unittest import mock

import requests
from docker import APIClient
from docker.errors import DockerException

from pytest_rexxinfra.systems.podman_engine import bear_races
from pytest_rexxinfra.systems.podman_settings import settings_file

from . import processes
from .enclosure import Enclosure
from .engine import Engine
from .left import Counts, Left
from .place import links, unlink

_START = 40.0
_TICK = 0.02
_SETUP = "for d in /run/containers/networks /run/podman; do mkdir -p $d && mount -t tmpfs none $d; done"
"""What all podmans of root share: a name server for all networks, which would be in ours, and perhaps a service."""

_STORAGE = """\
[storage]
driver = "overlay"
graphroot = "{folder}/storage"
runroot = "{folder}/run"
"""
_SETTINGS = """\
[network]
network_config_dir = "{folder}/networks"
[engine]
tmp_dir = "{folder}/tmp"
lock_type = "file"
"""


class PodmanEngine(Engine):
    """A service for the campaign itself. The inner runs start services of their own, over the same storage."""

    private = True

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.folder.mkdir()
        (folder / "storage.conf").write_text(_STORAGE.format(folder=folder))
        (folder / "containers.conf").write_text(_SETTINGS.format(folder=folder))
        self._enclosure = Enclosure(setup=_SETUP)
        self._service: subprocess.Popen[bytes] | None = None
        try:
            self._start()
        except BaseException:
            self.close()
            raise

    @staticmethod
    def obstacle() -> str | None:
        return Enclosure.obstacle("podman")

    @property
    def words(self) -> Sequence[str]:  # type: ignore[override]
        return self._enclosure.words("net", "mount")

    @property
    def environment(self) -> Mapping[str, str]:
        return {
            "CONTAINERS_STORAGE_CONF": f"{self.folder}/storage.conf",
            "CONTAINERS_CONF": f"{self.folder}/containers.conf",
        }

    def _start(self) -> None:
        with mock.patch.dict(os.environ, self.environment):
            self._settings = settings_file()
        url = f"unix://{self.folder}/podman.sock"
        log = self.folder / "podman.log"
        with log.open("ab") as file:
            self._service = subprocess.Popen(
                [*self.words, "podman", "system", "service", "--time=0", url],
                env={**os.environ, **self.environment, "CONTAINERS_CONF": str(self._settings)},
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )
        end = time.monotonic() + _START
        while True:
            with suppress(DockerException, requests.exceptions.RequestException):
                self.api = APIClient(base_url=url, version="1.41", timeout=20)
                self.api.ping()
                bear_races(self.api)
                return
            if self._service.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"podman does not answer:\n{self.log()}")
            time.sleep(_TICK)

    def describe(self) -> str:
        return f"podman {self.api.version()['Version']} with storage and network of its own"

    def remains(self, counts: Counts) -> Iterator[Left]:
        yield from super().remains(counts)
        yield from links(self._enclosure.links(), counts)
        for pod in self._libpod("/pods/json").json():
            if counts(pod["Id"], pod["Labels"]):
                yield Left("pod", pod["Id"], f"{pod['Name']} of run {(pod['Labels'] or {}).get('rexxinfra.run')}")
        for point in self._enclosure.mounts(self.folder):
            # Podman keeps its storage mounted on itself.
            if point != f"{self.folder}/storage/overlay" and counts(point, None):
                yield Left("storage", point, point)
        for pid, command in processes.naming(self.folder).items():
            if pid != self._pid and not any(not counts(word, None) for word in command.split()):
                yield Left("process", str(pid), f"{pid}: {command[:250]}")

    def _libpod(self, path: str, method: str = "GET") -> requests.Response:
        found: requests.Response = self.api.request(method, f"{self.api.base_url}/v4.0.0/libpod{path}", timeout=20)
        return found

    @property
    def _pid(self) -> int:
        return self._service.pid if self._service else 0

    def remove(self, left: Left) -> None:
        match left.kind:
            case "interface":
                unlink(self._enclosure.words("net"), left)
            case "storage":
                subprocess.run([*self._enclosure.words("mount"), "umount", "--lazy", left.id], check=False)
            case "pod":
                self._libpod(f"/pods/{left.id}?force=true", "DELETE")
            case _:
                super().remove(left)

    def log(self) -> str:
        return "\n".join((self.folder / "podman.log").read_text(errors="replace").splitlines()[-15:])

    def close(self) -> None:
        if self._service is not None:
            self._service.terminate()
            self._service.wait(_START)
            self._settings.unlink(missing_ok=True)
            self.api.close()
        self._enclosure.close()
        shutil.rmtree(self.folder, ignore_errors=True)
