"""Runs REXX on a host: through the run that made it, else with an interpreter that the host has."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.module_utils.common.text.converters import to_text
from ansible.plugins.action import ActionBase

_MACHINE = "rexxinfra.rexxjs.machine"
_SPEC = {
    "source": {"type": "str"},
    "script": {"type": "path"},
    "args": {"type": "list", "elements": "str", "default": []},
    "env": {"type": "dict", "default": {}},
    "chdir": {"type": "path"},
    "creates": {"type": "path"},
    "timeout": {"type": "float"},
    "interpreter": {"type": "str"},
}


class ActionModule(ActionBase):  # type: ignore[misc]
    """The action ``rexxinfra.rexxjs.rexxjs``; its options are in the module of this name."""

    _supports_check_mode = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Run the script; the result of the task."""
        result: dict[str, Any] = super().run(tmp, task_vars or {})
        if result.get("skipped"):
            return result
        _, wanted = self.validate_argument_spec(
            _SPEC, mutually_exclusive=[["source", "script"]], required_one_of=[["source", "script"]]
        )
        wanted["env"] = {name: to_text(value) for name, value in wanted["env"].items()}
        if wanted["creates"] and self._remote_file_exists(wanted["creates"]):
            return {**result, "skipped": True, "msg": f"{wanted['creates']} exists"}
        script = self._find_needle("files", wanted["script"]) if wanted["script"] else None
        ours = self._connection.transport == _MACHINE and not wanted["interpreter"]
        if ours and self._connection.become:
            raise AnsibleActionFail(
                "the build of the run runs as the machine's own user; name an interpreter to become another"
            )
        done = self._in_run(wanted, script) if ours else self._on_host(wanted, script)
        result.update(
            done, stdout_lines=done["stdout"].splitlines(), stderr_lines=done["stderr"].splitlines(), changed=True
        )
        if done["rc"]:
            result.update(failed=True, msg=f"the script ended with status {done['rc']}")
        return result

    def _in_run(self, wanted: dict[str, Any], script: str | None) -> dict[str, Any]:
        answer, out, err = self._connection.run_rexx(
            source=wanted["source"],
            script=script,
            arguments=wanted["args"],
            env=wanted["env"],
            cwd=wanted["chdir"],
            timeout=wanted["timeout"],
        )
        return {**answer, "stdout": _text(out), "stderr": _text(err)}

    def _on_host(self, wanted: dict[str, Any], script: str | None) -> dict[str, Any]:
        shell = self._connection._shell
        folder = shell.tmpdir or self._make_tmp_path()
        paths = [shell.join_path(folder, name) for name in ("script.rexx", "environment")]
        source = Path(script).read_text("utf-8", "surrogateescape") if script else wanted["source"]
        exports = (f"export {name}={shlex.quote(value)}\n" for name, value in wanted["env"].items())
        try:
            self._transfer_data(paths[0], source)
            # In a file, because arguments of a process can be seen by all.
            self._transfer_data(paths[1], "".join(exports))
            self._fixup_perms2([folder, *paths])
            limit = ["timeout", f"{wanted['timeout']:g}"] if wanted["timeout"] else []
            command = [*limit, *shlex.split(wanted["interpreter"] or "rexx"), paths[0], *wanted["args"]]
            there = f"cd {shlex.quote(wanted['chdir'])} && " if wanted["chdir"] else ""
            done = self._low_level_execute_command(f". {shlex.quote(paths[1])} && {there}{shlex.join(command)}")
        finally:
            self._remove_tmp_path(folder)
        return {"rc": done["rc"], "exit_value": None, "stdout": done["stdout"], "stderr": done["stderr"]}


def _text(data: bytes) -> str:
    text: str = to_text(data, errors="surrogate_then_replace")
    return text
