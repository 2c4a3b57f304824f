"""The REST interface of incus, over its unix socket."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import socket
import time
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ..channels.websocket import WebSocket
from ..deadline import Deadline
from ..errors import DeadlineExceeded, ProvisionError, SystemUnavailable

NOT_FOUND = 404
_FAILED = 400
_DONE = 200
_FAILED = 400
_REQUEST_SECONDS = 60.0
_PLACES = ("/run/incus/unix.socket", "/var/lib/incus/unix.socket")
_INSTALL = "apt-get install -y incus && incus admin init --minimal (Debian 12: from bookworm-backports)"


class Refused(ProvisionError):
    """What incus answered instead of doing as it was told, with the status code that HTTP gives to it."""

    def __init__(self, reason: str, code: int, request: str) -> None:
        super().__init__(reason, command=request, where="incus", hint=_hint(reason))
        self.code = code


class IncusApi:
    """Requests to incusd. Each has a connection of its own, so any number of threads may make some."""

    @cached_property
    def socket_path(self) -> str:
        """``INCUS_SOCKET``, else the socket in ``INCUS_DIR``, else the one that packages use."""
        named = os.environ.get("INCUS_SOCKET")
        folder = os.environ.get("INCUS_DIR")
        if named or folder:
            return named or f"{folder}/unix.socket"
        return next((place for place in _PLACES if Path(place).exists()), _PLACES[-1])

    def get(self, path: str) -> Any:
        """What is at ``path``; raises `Refused` with the code 404 when there is nothing."""
        return self._request("GET", path)["metadata"]

    def find(self, path: str) -> Any | None:
        """What is at ``path``, or ``None``."""
        try:
            return self.get(path)
        except Refused as refusal:
            if refusal.code != NOT_FOUND:
                raise
            return None

    def run(self, method: str, path: str, body: object = None, *, deadline: Deadline) -> Any:
        """Have something done and wait until it is; what an operation leaves behind as its metadata."""
        return self.finished(self._request(method, path, body), f"{method} {path}", deadline)

    def begin(self, method: str, path: str, body: object) -> Mapping[str, Any]:
        """Have something begun; the operation that goes on."""
        operation: Mapping[str, Any] = self._request(method, path, body)["metadata"]
        return operation

    def finished(self, answer: Mapping[str, Any], doing: str, deadline: Deadline) -> Any:
        """The result of an answer, waited for if it is an operation. Raises `Refused`, `DeadlineExceeded`."""
        if answer["type"] != "async":
            return answer["metadata"]
        operation = self.wait(answer["metadata"]["id"], doing, deadline)
        if operation["status_code"] != _DONE:
            raise Refused(operation["err"] or operation["status"], operation["status_code"], doing)
        return operation["metadata"]

    def wait(self, operation: str, doing: str, deadline: Deadline) -> Mapping[str, Any]:
        """An operation when it has ended, however that was."""
        left = deadline.remaining()
        limit = "" if left is None else f"?timeout={int(left) + 1}"
        path, patience = f"/1.0/operations/{operation}", None if left is None else left + 5
        try:
            found: Mapping[str, Any] = self._request("GET", f"{path}/wait{limit}", patience=patience)["metadata"]
        except Refused as refusal:
            if refusal.code != _FAILED:
                raise
            # An operation that failed, as one does whose command ends with status 126 or 127, is told as an error.
            found = self.get(path)
        if found["status_code"] < _DONE:
            raise DeadlineExceeded(f"not done after {deadline.seconds:g} s", command=doing, where="incus")
        return found

    def goes_on(self, path: str) -> bool:
        """Whether an operation is going on with what is at ``path``, or will be."""
        operations = self.get("/1.0/operations?recursion=1").get("running") or []
        return any(path in found for each in operations for found in (each["resources"] or {}).values())

    def websocket(self, operation: str, secret: str) -> WebSocket:
        """One of the web sockets of an operation."""
        connection = self._connect(_REQUEST_SECONDS)
        try:
            return WebSocket(connection, f"/1.0/operations/{operation}/websocket?secret={secret}")
        except OSError as error:
            connection.close()
            raise Refused(str(error), NOT_FOUND, f"GET /1.0/operations/{operation}/websocket") from error

    def raw(self, path: str) -> bytes:
        """What is at ``path``, where that is no JSON."""
        status, data = self._exchange("GET", path, None, {}, _REQUEST_SECONDS)
        if status != _DONE:
            raise Refused(_explanation(data), status, f"GET {path}")
        return data

    def upload(self, path: str, body: Iterable[bytes], headers: Mapping[str, str], deadline: Deadline) -> Any:
        """Send ``body`` and wait for the operation that it starts."""
        answer = self._answer("POST", path, body, headers, deadline.remaining())
        return self.finished(answer, f"POST {path}", deadline)

    def _request(
        self, method: str, path: str, body: object = None, patience: float | None = _REQUEST_SECONDS
    ) -> Mapping[str, Any]:
        data = None if body is None else json.dumps(body).encode()
        return self._answer(method, path, data, {}, patience)

    def _answer(
        self, method: str, path: str, body: Any, headers: Mapping[str, str], patience: float | None
    ) -> Mapping[str, Any]:
        status, data = self._exchange(method, path, body, headers, patience)
        try:
            answer: Mapping[str, Any] = json.loads(data)
        except ValueError as error:
            raise Refused(f"an answer that is no JSON: {data[:200]!r}", status, f"{method} {path}") from error
        if answer["type"] == "error":
            raise Refused(answer["error"], answer["error_code"], f"{method} {path}")
        return answer

    def _exchange(
        self, method: str, path: str, body: Any, headers: Mapping[str, str], patience: float | None
    ) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("localhost", timeout=patience)
        connection.sock = self._connect(patience)
        started = time.monotonic()
        try:
            connection.request(method, path, body, dict(headers))
            answer = connection.getresponse()
            return answer.status, answer.read()
        except TimeoutError as late:
            passed = time.monotonic() - started
            raise DeadlineExceeded(
                f"no answer after {passed:.0f} s", command=f"{method} {path}", where="incus"
            ) from late
        except (OSError, http.client.HTTPException) as error:
            raise self.unavailable(error) from error
        finally:
            connection.close()

    def _connect(self, patience: float | None) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(patience)
        try:
            connection.connect(self.socket_path)
        except OSError as error:
            connection.close()
            raise self.unavailable(error) from error
        return connection

    def unavailable(self, error: Exception) -> SystemUnavailable:
        """Why incus cannot be used, with the command that helps."""
        if isinstance(error, PermissionError):
            reason, hint = "no permission for the incus socket", "sudo usermod -aG incus-admin $USER, then log in again"
        elif isinstance(error, (FileNotFoundError, ConnectionError)):
            reason = "no incus daemon answers"
            hint = "systemctl start incus" if shutil.which("incus") else _INSTALL
        else:
            reason, hint = f"the incus daemon cannot be used ({error!r})", _INSTALL
        return SystemUnavailable(f"{reason} at {self.socket_path}", where="incus", hint=hint)


def place(*parts: str) -> str:
    """The path of something: its collection, its name, and what below it."""
    return "/".join(["/1.0", *(quote(part, safe="") for part in parts)])


def _explanation(data: bytes) -> str:
    try:
        return str(json.loads(data)["error"])
    except (ValueError, KeyError):
        return data.decode("utf-8", "replace")


def _hint(reason: str) -> str | None:
    known = {
        "No root device": "give the default profile a root disk: incus admin init --minimal",
        "forkstart": "the image must have /bin/sh and base64, or an init system and boot=True",
        "idmapping": "the file system of that directory cannot be shown without privileged=True",
        "already in use": "is another machine using that address or port?",
    }
    return next((hint for sign, hint in known.items() if sign in reason), None)
