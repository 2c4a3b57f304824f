"""A container engine that speaks docker's API: where it is, and what its refusals mean."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import requests.exceptions
from docker import APIClient
from docker.context import ContextAPI
from docker.errors import APIError, DockerException, ImageNotFound
from docker.utils import kwargs_from_env

from ..deadline import Deadline
from ..errors import ProvisionError, SystemUnavailable, UsageError

_INSTALL = "apt-get install -y docker.io && service docker start"


class Engine:
    """The connection to an engine. Errors of docker-py become errors of ours at `translated`."""

    name = "docker"

    @cached_property
    def api(self) -> APIClient:
        """Client of the engine that the environment names."""
        try:
            client = APIClient(version="auto", timeout=60, **self._endpoint)
        except (DockerException, requests.exceptions.RequestException) as error:
            raise self.unavailable(error) from error
        if str(client.base_url).startswith("http+docker:"):
            # Looking for a proxy in the environment takes requests longer than asking the socket.
            client.trust_env = False
        return client

    @cached_property
    def _endpoint(self) -> dict[str, Any]:
        """Where the engine is: ``DOCKER_CONTEXT``, else ``DOCKER_HOST`` and its companions, else the current
        context; the docker command has the same order.
        """
        name = os.environ.get("DOCKER_CONTEXT")
        if os.environ.get("DOCKER_HOST") and not name:
            return dict(kwargs_from_env())
        context = ContextAPI.get_context(name) if name else ContextAPI.get_current_context()
        if context is None and name:
            raise UsageError(f"$DOCKER_CONTEXT: there is no context {name!r}", hint="docker context ls")
        if context is None or context.Host is None:
            return {}
        return {"base_url": context.Host, "tls": context.TLSConfig or False}

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
        host = self._endpoint.get("base_url", "unix:///var/run/docker.sock")
        if "Permission denied" in text or "PermissionError" in text:
            return SystemUnavailable(
                f"no permission for the docker socket ({host})",
                where="docker",
                hint="sudo usermod -aG docker $USER, then log in again",
            )
        if "FileNotFoundError" in text or "Connection refused" in text or "ConnectionRefusedError" in text:
            started = shutil.which("dockerd") is not None
            return SystemUnavailable(
                f"no docker engine answers at {host}",
                where="docker",
                hint="service docker start" if started else _INSTALL,
            )
        return SystemUnavailable(f"the docker engine at {host} cannot be used: {text}", where="docker", hint=_INSTALL)

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
        "no such file or directory: unknown": "the image must have /bin/sh, or give the machine a command",
        "executable file not found": "the image must have /bin/sh, or give the machine a command",
        "port is already allocated": "another process has the port; ask for ports=[N] without a fixed host port",
        "inimum memory limit": "give the machine at least 6m of memory",
    }
    return next((hint for sign, hint in known.items() if sign in text), None)
