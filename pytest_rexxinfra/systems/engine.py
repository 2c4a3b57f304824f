"""A container engine that speaks docker's API: the connection, and what its refusals mean."""

from __future__ import annotations

import os
import shutil
import socket
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import requests.exceptions
from docker import APIClient
from docker.errors import APIError, DockerException, ImageNotFound

from ..deadline import Deadline
from ..errors import ProvisionError, SystemUnavailable

_PERMISSION = ("Permission denied", "PermissionError")
_ABSENT = ("FileNotFoundError", "Connection refused", "ConnectionRefusedError")


class Engine(ABC):
    """The connection to an engine. Errors of docker-py become errors of ours at `translated`."""

    name: ClassVar[str]
    install: ClassVar[str]
    """The command that puts the engine on this computer."""
    permission: ClassVar[str]
    """What helps who may not use the engine's socket."""
    version: ClassVar[str] = "auto"
    """Of docker's API; to find it out, docker-py asks the engine."""

    @property
    @abstractmethod
    def endpoint(self) -> Mapping[str, Any]:
        """Where the engine is, as arguments of docker-py's client; without ``base_url`` at its usual place."""

    @property
    @abstractmethod
    def start(self) -> str:
        """The command that makes an engine answer where none does."""

    @cached_property
    def api(self) -> APIClient:
        """Client of the engine that the environment names."""
        try:
            client = APIClient(version=self.version, timeout=60, **self.endpoint)
        except (DockerException, requests.exceptions.RequestException) as error:
            raise self.unavailable(error) from error
        if str(client.base_url).startswith("http+docker:"):
            # Looking for a proxy in the environment takes requests longer than asking the socket.
            client.trust_env = False
        return client

    @cached_property
    def info(self) -> Mapping[str, Any]:
        """What the engine says of itself and its computer."""
        with self.translated("asking the engine about itself"):
            found: Mapping[str, Any] = self.api.info()
        return found

    @property
    def limits(self) -> bool:
        """Whether it can bound, count and hold up what a container does."""
        return True

    @property
    def memory(self) -> int:
        """What the engine's computer has, in bytes."""
        return int(self.info["MemTotal"])

    @cached_property
    def here(self) -> bool:
        """Whether the engine's containers are processes of this computer that can be seen from here."""
        local = str(self.api.base_url).startswith("http+docker:")
        kernel = os.uname().release
        return local and (self.info["Name"], self.info["KernelVersion"]) == (socket.gethostname(), kernel)

    def enter_network(self, pid: int) -> Sequence[str]:
        """The words before a command of this computer that let it run in the network of a container's process."""
        return ["nsenter", "--target", str(pid), "--net", "--"]

    @property
    def enters_networks(self) -> bool:
        """Whether `enter_network` works here and for this user."""
        return shutil.which("nsenter") is not None and self.here and self.may_enter()

    def may_enter(self) -> bool:
        """Whether this user may enter namespaces of the engine's containers."""
        return os.geteuid() == 0

    @contextmanager
    def patient(self, deadline: Deadline) -> Iterator[None]:
        """Let a request of the block take as long as the deadline allows."""
        usual = self.api.timeout
        self.api.timeout = deadline.remaining()
        try:
            yield
        finally:
            self.api.timeout = usual

    @contextmanager
    def translated(self, doing: str, name: str | None = None) -> Iterator[None]:
        """Turn the engine's refusals into errors that say what was being done, and to what."""
        try:
            yield
        except APIError as error:
            raise ProvisionError(
                f"{doing}: {explanation(error)}",
                where=f"{self.name}:{name}" if name else self.name,
                hint=_hint(explanation(error)),
            ) from error
        except (DockerException, requests.exceptions.RequestException) as error:
            raise self.unavailable(error) from error

    def unavailable(self, error: Exception) -> SystemUnavailable:
        """Why the engine cannot be used, with the command that helps."""
        text = explanation(error)
        host = self.endpoint.get("base_url", "unix:///var/run/docker.sock")
        if any(sign in text for sign in _PERMISSION):
            reason, hint = f"no permission for the {self.name} socket ({host})", self.permission
        elif any(sign in text for sign in _ABSENT):
            reason, hint = f"no {self.name} engine answers at {host}", self.start
        else:
            reason, hint = f"the {self.name} engine at {host} cannot be used: {text}", self.install
        return SystemUnavailable(reason, where=self.name, hint=hint)

    def remove(self, container: str) -> None:
        """Kill a container and remove it with its own volumes; raises docker-py's errors."""
        self.api.remove_container(container, force=True, v=True)

    def import_image(self, archive: Path, name: str, changes: Sequence[str]) -> None:
        """Make an image from the archive of a root file system; ``changes`` are lines of a Dockerfile."""
        self.api.import_image_from_file(str(archive), name, changes=list(changes))

    def forget_image(self, name: str) -> None:
        """Remove an image, or only its name while a container uses it; raises docker-py's errors."""
        self.api.remove_image(name, force=True)

    def image_id(self, name: str) -> str | None:
        """Id of an image that the engine has, else ``None``."""
        with self.translated(f"looking for image {name}"):
            try:
                found: str = self.api.inspect_image(name)["Id"]
            except ImageNotFound:
                return None
        return found


def explanation(error: Exception) -> str:
    """What the engine said, without docker-py's wrapping."""
    return str(getattr(error, "explanation", None) or error)


def _hint(text: str) -> str | None:
    known = {
        "catatonit": "apt-get install -y catatonit",
        "no such file or directory: unknown": "the image must have /bin/sh, or give the machine a command",
        "executable file not found": "the image must have /bin/sh, or give the machine a command",
        "port is already allocated": "another process has the port; ask for ports=[N] without a fixed host port",
        "inimum memory limit": "give the machine at least 6m of memory",
    }
    return next((hint for sign, hint in known.items() if sign in text), None)
