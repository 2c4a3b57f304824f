"""Things in an engine and beside local machines that are none of our business and must stay as they are."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

from docker.errors import APIError, NotFound

from .engine import Engine

_ELSEWHERE = "another-host.example:4711:1234"


class Strangers:
    """A container, a network and a volume without labels of ours, and two machines of another host."""

    def __init__(self, engine: Engine, image: str, state: Path, token: str) -> None:
        self._engine = engine
        api = engine.api
        self.name = f"stranger-{token}"
        self.containers = {
            "a stranger's container": self._container(image, self.name, {}),
            "another host's container": self._container(image, f"{self.name}-abroad", _labels(token)),
        }
        self.network: str = api.create_network(self.name, driver="bridge")["Id"]
        api.create_volume(self.name)
        self.folder = state / "local" / f"rexx-{self.name}"
        (self.folder / "home").mkdir(parents=True)
        record = {
            "name": self.folder.name,
            "labels": _labels(token),
            "isolation": "private directory and process group only",
        }
        (self.folder / "record.json").write_text(json.dumps(record))

    def _container(self, image: str, name: str, labels: dict[str, str]) -> str:
        # Process 1 does not hear a polite signal, and an engine that stops waits for it.
        made: str = self._engine.api.create_container(
            image, ["sleep", "86400"], name=name, labels=labels, stop_signal="SIGKILL"
        )["Id"]
        self._engine.api.start(made)
        return made

    @property
    def ids(self) -> set[str]:
        return {*self.containers.values(), self.network, self.name}

    def complaint(self, *, running: bool = True) -> str | None:
        """What has happened to them, ``None`` for nothing; after a crash of dockerd they need not run."""
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
        if not (self.folder / "record.json").exists():
            return "another host's local machine is gone"
        return None

    def close(self) -> None:
        """Remove them."""
        api: Any = self._engine.api
        for container in self.containers.values():
            _try(api.remove_container, container, force=True, v=True)
        _try(api.remove_network, self.network)
        _try(api.remove_volume, self.name, force=True)
        shutil.rmtree(self.folder, ignore_errors=True)


def _try(remove: Any, *arguments: Any, **more: Any) -> None:
    try:
        remove(*arguments, **more)
    except APIError as error:
        if error.status_code != 404:
            raise


def _labels(token: str) -> dict[str, str]:
    now = time.time()
    return {
        "rexxinfra.kind": "machine",
        "rexxinfra.run": f"abroad-{token}",
        "rexxinfra.lease": "abc123abc123",
        "rexxinfra.owner": _ELSEWHERE,
        "rexxinfra.created": f"{now - 60:.3f}",
        "rexxinfra.expires": f"{now + 86400:.0f}",
    }
