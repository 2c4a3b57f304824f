"""Machines of a run of pytest-rexxinfra, whatever system they are in."""

from __future__ import annotations

import secrets
from typing import Any

from ansible.errors import AnsibleAuthenticationFailure, AnsibleError
from ansible.module_utils.common.text.converters import to_bytes, to_text
from ansible.plugins.connection import ConnectionBase, ensure_connect
from ansible_collections.rexxinfra.rexxjs.plugins.plugin_utils.bridge import Bridge

DOCUMENTATION = """
name: machine
author: pytest-rexxinfra
short_description: machines of a run of pytest-rexxinfra
description:
  - Runs commands in, and copies files to and from, a machine that a run of pytest-rexxinfra made, through that run.
  - The inventory that such a run gives to Ansible sets every option.
extends_documentation_fragment:
  - connection_pipelining
options:
  bridge:
    description: Socket of the run.
    type: path
    required: true
    vars:
      - name: ansible_rexxinfra_bridge
  machine:
    description: Name of the machine.
    type: str
    required: true
    vars:
      - name: ansible_rexxinfra_machine
  login:
    description: Who commands are run as when nobody is named.
    vars:
      - name: ansible_rexxinfra_login
"""

_SKIP = 'while read -r rexxinfra && [ "$rexxinfra" != {mark} ]; do :; done'
"""Has no single quote, for it goes into words that are in such quotes already, to whatever depth."""


class Connection(ConnectionBase):  # type: ignore[misc]
    """Talks to the run over its socket."""

    transport = "rexxinfra.rexxjs.machine"
    has_pipelining = True
    has_tty = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._connected = False
        self._task = to_text(kwargs.get("task_uuid") or "")

    @property
    def default_user(self) -> str | None:
        """Who commands are run as."""
        user: str | None = self._play_context.remote_user or self.get_option("login")
        return user

    def _connect(self) -> Connection:
        if not self._connected:
            self.bridge = Bridge(self.get_option("bridge"), self.get_option("machine"))
            self._connected = True
        return self

    def exec_command(self, cmd: str, in_data: bytes | None = None, sudoable: bool = True) -> tuple[int, bytes, bytes]:
        """Run a command; its standard input is ``in_data``, after the password for another user if one is needed."""
        super().exec_command(cmd, in_data=in_data, sudoable=sudoable)
        cmd, data = to_text(cmd), in_data or b""
        asking = bool(sudoable and self.become and self.become.success and self.become.expect_prompt())
        if asking:
            # Whether the password is asked for cannot be foreseen, and must not become input of the command.
            mark = secrets.token_hex(16)
            echo = f"echo {self.become.success} ; "
            cmd = cmd.replace(echo, f"{echo}{_SKIP.format(mark=mark)} ; ", 1)
            data = to_bytes(self.become.get_option("become_pass")) + f"\n{mark}\n".encode() + data
        answer, out, err = self.bridge.ask(
            "run", data, command=cmd, task=self._task, user=self._play_context.remote_user
        )
        if asking and to_bytes(self.become.success) not in out:
            said = to_text(err or out, errors="surrogate_then_replace").strip()
            raise AnsibleAuthenticationFailure(f"{self.become.name} to another user failed: {said}")
        return answer["rc"], out, err

    @ensure_connect  # type: ignore[untyped-decorator]
    def put_file(self, in_path: str, out_path: str) -> None:
        """Copy a file of the controller into the machine."""
        super().put_file(in_path, out_path)
        user = self._play_context.remote_user
        answer, _, err = self.bridge.ask("put", source=to_text(in_path), target=to_text(out_path), user=user)
        if answer["rc"]:
            raise AnsibleError(f"{in_path} cannot be copied to {out_path}: {to_text(err)}")

    @ensure_connect  # type: ignore[untyped-decorator]
    def fetch_file(self, in_path: str, out_path: str) -> None:
        """Copy a file of the machine to the controller."""
        super().fetch_file(in_path, out_path)
        self.bridge.ask("get", source=to_text(in_path), target=to_text(out_path))

    @ensure_connect  # type: ignore[untyped-decorator]
    def run_rexx(self, **what: Any) -> tuple[dict[str, Any], bytes, bytes]:
        """Run a script with the build of the run, which is brought into the machine."""
        answer: tuple[dict[str, Any], bytes, bytes] = self.bridge.ask("rexx", **what)
        return answer

    def reset(self) -> None:
        """Nothing of one command stays for the next."""

    def close(self) -> None:
        """Hang up."""
        if self._connected:
            self.bridge.close()
            self._connected = False
