"""The way from a worker of Ansible to the run that made its machines."""

from __future__ import annotations

import json
from multiprocessing.connection import Client, Connection
from typing import Any

from ansible.errors import AnsibleConnectionFailure, AnsibleError


class Bridge:
    """A connection to the socket of a run, made at the first request for one ``machine``."""

    def __init__(self, path: str, machine: str) -> None:
        # Texts of Ansible may be of a kind of their own, which `Client` does not take for a path.
        self._path = str(path)
        self._machine = machine
        self._connection: Connection | None = None

    def ask(self, do: str, data: bytes = b"", **what: Any) -> tuple[dict[str, Any], bytes, bytes]:
        """Let the run do something in the machine; gives what came of it, and both streams.

        Raises `AnsibleConnectionFailure` when the machine, or the run itself, cannot be reached any more.
        """
        request = json.dumps({"do": do, "machine": self._machine, **what}).encode()
        try:
            if self._connection is None:
                self._connection = Client(self._path)
            self._connection.send_bytes(request)
            self._connection.send_bytes(data)
            head, out, err = (self._connection.recv_bytes() for _ in range(3))
        except (OSError, EOFError) as error:
            raise AnsibleConnectionFailure(f"the run that made {self._machine} does not answer: {error!r}") from error
        answer = json.loads(head)
        if answer.get("unreachable"):
            raise AnsibleConnectionFailure(answer["error"])
        if "error" in answer:
            raise AnsibleError(answer["error"])
        return answer, out, err

    def close(self) -> None:
        """Hang up, which ends what is still going on in the machine."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
