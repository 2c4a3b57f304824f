"""Docker, and every engine that its own variables and contexts name."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from functools import cached_property
from typing import Any, ClassVar

from docker.context import ContextAPI
from docker.utils import kwargs_from_env

from ..errors import UsageError
from ..model import Spec
from .base import Surroundings
from .container_engine import EngineDriver
from .engine import Engine

_NAMESPACES = "REXX_DOCKER_NAMESPACES"


class DockerEngine(Engine):
    """The engine that the docker command would use."""

    name: ClassVar[str] = "docker"
    install: ClassVar[str] = "apt-get install -y docker.io && service docker start"
    permission: ClassVar[str] = "sudo usermod -aG docker $USER, then log in again"

    @cached_property
    def endpoint(self) -> Mapping[str, Any]:
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

    @property
    def start(self) -> str:
        return self.install if shutil.which("dockerd") is None else "service docker start"


class DockerDriver(EngineDriver):
    """Containers of a docker engine."""

    name: ClassVar[str] = "docker"
    summary: ClassVar[str] = "containers of a docker engine"
    hands_on_namespaces: ClassVar[bool] = True

    def __init__(self, around: Surroundings) -> None:
        super().__init__(around, DockerEngine())

    def _can_hand_on(self, spec: Spec) -> bool:
        return super()._can_hand_on(spec) and os.environ.get(_NAMESPACES) != "own"
