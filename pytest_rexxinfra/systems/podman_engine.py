"""Where podman answers, and its own API beside the one it shares with docker.

The API: https://docs.podman.io/en/latest/_static/api.html
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import requests.exceptions
from docker import APIClient
from docker.errors import APIError, create_api_error_from_http_exception

from ..deadline import Deadline
from ..errors import DeadlineExceeded, SystemUnavailable, UsageError
from .engine import Engine
from .podman_service import answers, private_service

_PREFIX = "/v4.0.0/libpod"
_NOT_FOUND = 404
_IN_USE = 409
_ITS_ERROR = 500
_MISSING = re.compile(rb"no such (container|pod|network|volume|image)\b(?! interface)")
_INTERFACE_GONE = b"no such network interface"
"""What podman says when an interface of this computer goes while it looks for addresses that are free."""

_LOOKING = 0.5
"""Seconds in which podman knows that a container has ended."""

_CONTROLLERS = {"cpu", "memory", "pids"}


class PodmanEngine(Engine):
    """The podman that its own command would use: root's, or that of an ordinary user."""

    name: ClassVar[str] = "podman"
    install: ClassVar[str] = "apt-get install -y podman netavark aardvark-dns catatonit uidmap slirp4netns"
    permission: ClassVar[str] = "unset CONTAINER_HOST, and podman runs as this user"
    version: ClassVar[str] = "1.41"

    @cached_property
    def endpoint(self) -> Mapping[str, Any]:
        """Where podman listens: ``CONTAINER_HOST``, else the socket of this user, else a service of our own."""
        given = os.environ.get("CONTAINER_HOST")
        if given:
            if given.startswith("ssh:"):
                raise UsageError(
                    f"$CONTAINER_HOST: {given}: only unix: and tcp: are spoken here",
                    where=self.name,
                    hint="forward the socket: ssh -NL /tmp/podman.sock:/run/podman/podman.sock HOST, "
                    "then CONTAINER_HOST=unix:///tmp/podman.sock",
                )
            return {"base_url": given}
        path = _usual_socket()
        if answers(path):
            return {"base_url": f"unix://{path}"}
        service = private_service()
        if service is None:
            raise SystemUnavailable("podman is not on this computer", where=self.name, hint=self.install)
        return {"base_url": service.url}

    @cached_property
    def api(self) -> APIClient:
        client = super().api
        bear_races(client)
        return client

    @property
    def start(self) -> str:
        return f"podman system service --time=0 {self.endpoint['base_url']} &"

    @cached_property
    def facts(self) -> Mapping[str, Any]:
        """What podman says of itself, more than docker's API has words for; it takes its time for that."""
        with self.translated("asking podman about itself"):
            found: Mapping[str, Any] = self.libpod("GET", "/info").json()
        return found

    @property
    def _mine(self) -> bool:
        """Whether it is the podman of this user on this computer."""
        return not os.environ.get("CONTAINER_HOST")

    @property
    def rootless(self) -> bool:
        """Whether it is an ordinary user's podman."""
        return os.geteuid() != 0 if self._mine else bool(self.facts["host"]["security"]["rootless"])

    @property
    def limits(self) -> bool:
        # An ordinary user may not have been given the control groups for that.
        return not self.rootless or set(self.facts["host"]["cgroupControllers"] or ()) >= _CONTROLLERS

    @cached_property
    def here(self) -> bool:
        return self._mine or super().here

    @property
    def memory(self) -> int:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if self.here else super().memory

    def may_enter(self) -> bool:
        return super().may_enter() or self.rootless

    def enter_network(self, pid: int) -> Sequence[str]:
        if os.geteuid() == 0:
            return super().enter_network(pid)
        return ["nsenter", "--target", str(pid), "--user", "--preserve-credentials", "--net", "--"]

    def remove(self, container: str) -> None:
        # By docker's API podman would first ask the container to end, for ten seconds.
        options = {"force": "true", "volumes": "true", "timeout": "0"}
        self.libpod("DELETE", f"/containers/{container}", params=options)

    def import_image(self, archive: Path, name: str, changes: Sequence[str]) -> None:
        # By docker's API podman leaves a copy of the archive in its temporary directory.
        with archive.open("rb") as file:
            self.libpod("POST", "/images/import", params={"reference": name, "changes": list(changes)}, data=file)

    def forget_image(self, name: str) -> None:
        # Forced, podman would remove the containers too.
        try:
            self.api.remove_image(name)
        except APIError as error:
            if error.status_code != _IN_USE:
                raise
            tags = self.api.inspect_image(name)["RepoTags"]
            for tag in (each for each in tags if each == name or each.endswith(f"/{name}")):
                repository, _, version = tag.rpartition(":")
                self.libpod("POST", f"/images/{name}/untag", params={"repo": repository, "tag": version})

    def ping(self) -> str:
        """Version of the podman that answers."""
        with self.translated("asking podman for its version"):
            return str(self.libpod("GET", "/_ping").headers.get("Libpod-Api-Version", "unknown"))

    def libpod(self, method: str, path: str, **options: Any) -> requests.Response:
        """One request to podman's own API; refusals are docker-py's errors, as those of its own requests are."""
        options.setdefault("timeout", self.api.timeout)
        response: requests.Response = self.api.request(method, f"{self.api.base_url}{_PREFIX}{path}", **options)
        try:
            response.raise_for_status()
        except requests.exceptions.HTTPError as error:
            raise create_api_error_from_http_exception(error) from error
        return response


def bear_races(client: APIClient) -> None:
    """Let a client take what podman answers about things that end or are removed while it looks at them."""
    client.hooks["response"] += [_asked_again, _what_is_gone]


def _asked_again(response: requests.Response, **options: Any) -> requests.Response:
    """The answer to a request that podman failed at because something ended while it looked, made again."""

    asked = False

    def answered() -> bool:
        nonlocal response, asked
        if asked:
            _ = response.content  # the connection is free when it has been read
            response = response.connection.send(request, **options)
        asked = True
        return response.status_code != _ITS_ERROR

    request = response.request
    changed_nothing = request.method == "GET" or (
        request.path_url.endswith("/networks/create") and _INTERFACE_GONE in response.content
    )
    if changed_nothing:
        with suppress(DeadlineExceeded):
            Deadline(_LOOKING).wait_for(answered, "podman to answer")
    return response


def _what_is_gone(response: requests.Response, **_: Any) -> None:
    """Call what podman does not find "not found": while that is being removed, podman calls it an error of its own."""
    if response.status_code == _ITS_ERROR and _MISSING.search(response.content):
        response.status_code = _NOT_FOUND


def _usual_socket() -> Path:
    """The socket of a service that the init system starts when somebody connects."""
    user = os.geteuid()
    runtime = os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{user}"
    return Path("/run" if user == 0 else runtime, "podman/podman.sock")
