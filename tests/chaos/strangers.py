"""Things beside the machines of the runs that are none of our business and must stay as they are."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Collection
from pathlib import Path
from typing import Any, Protocol

from docker.errors import APIError, NotFound

from pytest_rexxinfra.deadline import Deadline
from pytest_rexxinfra.model import Kind, Owner, Resource, process_start
from pytest_rexxinfra.systems.cgroup import Cgroup

from .engine import Engine

_ELSEWHERE = Owner("another-host.example", 4711, 1234, "0123abcd", "4026531836")


class Strangers(Protocol):
    """Somebody else's things."""

    @property
    def ids(self) -> Collection[str]:
        """What names them in a search."""

    def complaint(self, *, running: bool = True) -> str | None:
        """What has happened to them, ``None`` for nothing; after a crash of the engine they need not run."""

    def close(self) -> None:
        """Remove them."""


class Containers:
    """A container, a network and a volume without labels of ours, and a container of another host."""

    def __init__(self, engine: Engine, token: str) -> None:
        self._engine = engine
        api = engine.api
        self.name = f"stranger-{token}"
        abroad = lease_abroad(Kind.MACHINE, token).labels()
        self.containers = {
            "a stranger's container": self._container(self.name, {}),
            "another host's container": self._container(f"{self.name}-abroad", abroad),
        }
        self.network: str = api.create_network(self.name, driver="bridge")["Id"]
        api.create_volume(self.name)

    def _container(self, name: str, labels: dict[str, str]) -> str:
        # Process 1 does not hear a polite signal, and an engine that stops waits for it.
        made: str = self._engine.api.create_container(
            self._engine.image, ["sleep", "86400"], name=name, labels=labels, stop_signal="SIGKILL"
        )["Id"]
        self._engine.api.start(made)
        return made

    @property
    def ids(self) -> Collection[str]:
        return {*self.containers.values(), self.network, self.name}

    def complaint(self, *, running: bool = True) -> str | None:
        api: Any = self._engine.api
        try:
            for name, container in self.containers.items():
                state = api.inspect_container(container)["State"]
                if running and not state["Running"]:
                    return f"{name} does not run any more"
            api.inspect_network(self.network)
            api.inspect_volume(self.name)
        except NotFound as error:
            return f"of a stranger: {error.explanation}"
        return None

    def close(self) -> None:
        api: Any = self._engine.api
        for container in self.containers.values():
            _try(api.remove_container, container, force=True, v=True)
        _try(api.remove_network, self.network)
        _try(api.remove_volume, self.name, force=True)


class Folder:
    """A machine of another host that uses the same directory, with a process and a control group."""

    def __init__(self, state: Path, system: str, token: str) -> None:
        lease = lease_abroad(Kind.MACHINE, token, system)
        local = system == "local"
        self.folder = state / system / lease.name
        (self.folder / "home").mkdir(parents=True)
        self._group = Cgroup({}) if local else Cgroup.named(lease.name)
        self._group.make()
        self.process = subprocess.Popen([*self._group.joining(), "sleep", "86400"], start_new_session=True)
        record = {
            "name": lease.name,
            "labels": lease.labels(),
            "pid": self.process.pid,
            "started": process_start(self.process.pid),
            **({"isolation": "private directory and process group only"} if local else {"cgroup": self._group.folders}),
        }
        (self.folder / "record.json").write_text(json.dumps(record))

    @property
    def ids(self) -> Collection[str]:
        return {self.folder.name}

    def complaint(self, *, running: bool = True) -> str | None:
        if not (self.folder / "record.json").exists():
            return f"the folder of another host's machine is gone: {self.folder}"
        return None if self.process.poll() is None else "the process of another host's machine has ended"

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self._group.remove(Deadline(10))
        shutil.rmtree(self.folder, ignore_errors=True)


def lease_abroad(kind: Kind, run: str, system: str = "docker") -> Resource:
    """A lease of a run on another computer."""
    return Resource.lease_for(system, kind, f"abroad-{run}", owner=_ELSEWHERE)


def _try(remove: Any, *arguments: Any, **more: Any) -> None:
    try:
        remove(*arguments, **more)
    except APIError as error:
        if error.status_code != 404:
            raise
