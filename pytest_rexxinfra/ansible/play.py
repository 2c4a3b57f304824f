"""Playing a playbook on machines of a run."""

from __future__ import annotations

import shlex
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..deadline import Deadline
from ..errors import CommandFailed, CommandTimeout, UsageError
from ..events import Step
from . import process
from .bridge import Bridge
from .inventory import Groups, hosts_of, inventory
from .playbook import Playbook, as_json, written
from .python import Surroundings, surroundings
from .recorder import Recorder
from .result import AnsibleResult, TaskResult

if TYPE_CHECKING:
    from ..machine import Machine

TIMEOUT = 600.0
"""Seconds that a play may take, unless it is given others."""

_LOOKED_AT_ONCE = 16
_POLL = 0.5
"""Seconds after which ansible-runner looks whether it is to end."""


def play(
    machines: Sequence[Machine],
    playbook: Playbook,
    *,
    groups: Groups | None = None,
    extra_vars: Mapping[str, Any] | None = None,
    vault_password_file: str | Path | None = None,
    check_idempotent: bool = False,
    tags: str | Sequence[str] = (),
    skip_tags: str | Sequence[str] = (),
    timeout: float | None = None,
    verbosity: int = 0,
) -> AnsibleResult:
    """Play a playbook (a path, YAML text, one play or a list of plays as data) on machines of any systems at once.

    A machine's name in the inventory is its own; ``groups`` has machines by the name of a group. ``timeout`` is in
    seconds, for everything. With ``check_idempotent`` the playbook is played a second time, in which nothing may
    change; the result is that of the first time.

    Raises `UsageError` for what cannot be played, `CommandFailed` with what failed, where and why, also for a second
    time that changed something, and `CommandTimeout` naming what was running.
    """
    process.check_installed()
    if timeout is not None and not timeout > 0:
        raise UsageError(f"timeout: {timeout!r} is not a number of seconds above 0")
    hosts = hosts_of(machines)
    deadline = Deadline(timeout or TIMEOUT)
    with tempfile.TemporaryDirectory(prefix="rexx-ansible-", ignore_cleanup_errors=True) as private:
        folder = Path(private)
        path = written(playbook, folder / "project")
        with Bridge(folder / "bridge", hosts, deadline) as bridge, _step(machines, f"ansible {path.name}") as step:
            with ThreadPoolExecutor(_LOOKED_AT_ONCE) as pool:
                around = dict(zip(hosts, pool.map(surroundings, hosts.values()), strict=True))
            files = {
                "inventory/hosts.json": as_json("groups", inventory(hosts, groups or {}, bridge.path, around)),
                "env/extravars": as_json("extra_vars", dict(extra_vars or {})),
                "env/settings": as_json("settings", {"pexpect_timeout": _POLL}),
            }
            for name, text in files.items():
                _write(folder / name, text)
            options = [*_option("--tags", tags), *_option("--skip-tags", skip_tags)]
            player = _Player(folder, path, hosts, around, bridge, step, deadline, options, verbosity)
            player.vault_password_file = _existing(vault_password_file)
            first = player.play("first")
            if check_idempotent:
                player.unchanged(player.play("second"))
            return first


@dataclass
class _Player:
    folder: Path
    playbook: Path
    hosts: Mapping[str, Machine]
    around: Mapping[str, Surroundings]
    bridge: Bridge
    step: Step
    deadline: Deadline
    options: Sequence[str]
    verbosity: int
    vault_password_file: Path | None = None

    def play(self, ident: str) -> AnsibleResult:
        """Play once."""
        recorder = Recorder(self._reached, self._place)
        self.bridge.tasks = recorder.names
        started = time.monotonic()
        status, noise = process.run(
            self.folder,
            self.playbook,
            ident=ident,
            options=shlex.join(self.options),
            verbosity=self.verbosity,
            vault_password_file=self.vault_password_file,
            deadline=self.deadline,
            on_event=recorder.take,
            pid=lambda: recorder.pid,
        )
        # A playbook that is no file of the user's has a path that means nothing to them.
        printed = f"{recorder.stdout}\n{noise}".strip().replace(f"{self.playbook.parent}/", "")
        if status is None:
            doing = "; ".join(f"task {task!r} on {self._where(host)}" for host, task in recorder.running.items())
            raise CommandTimeout(
                f"the play was not done after {self.deadline.seconds:g} s and was ended, in {doing or 'its beginning'}",
                command=self._command,
                output=printed,
                hint="give it more time with timeout=…",
            )
        result = recorder.result(status, time.monotonic() - started)
        if not result.ok:
            raise self._failed(result, printed)
        if not result.stats:
            raise UsageError(
                f"no play of {self.playbook.name} is for any of {', '.join(self.hosts)}",
                hint="write hosts: all, the name of a machine, or that of one of groups=",
            )
        return result

    def unchanged(self, again: AnsibleResult) -> None:
        """Raises `CommandFailed` for a second time that changed something."""
        if again.changes:
            changes = "".join(f"\n  {self._told(each, 'changed')}" for each in again.changes)
            raise CommandFailed(
                f"the playbook is not idempotent, played again it changed something:{changes}",
                command=self._command,
                hint="creates:, changed_when: or a module that looks first make a task say what it really changed",
            )

    @property
    def _command(self) -> str:
        return f"ansible-playbook {self.playbook.name}"

    def _failed(self, result: AnsibleResult, printed: str) -> CommandFailed:
        failures = result.failures
        if not failures:
            return CommandFailed(
                f"ansible-playbook ended with status {result.rc}", command=self._command, output=printed
            )
        machines = {self._where(each.host) for each in failures}
        hints = filter(None, (self.around[each.host].hint(each) for each in failures if each.host in self.around))
        return CommandFailed(
            "\n".join(self._told(each, "failed") for each in failures),
            command=self._command,
            output="\n".join(filter(None, (each.output for each in failures))),
            where=machines.pop() if len(machines) == 1 else None,
            hint=next(hints, None),
        )

    def _told(self, task: TaskResult, outcome: str) -> str:
        outcome = task.outcome if task.outcome == "unreachable" else outcome
        why = f": {task.message}" if task.message and outcome != "changed" else ""
        place = f" ({task.place})" if task.place else ""
        return f"task {task.task!r} {outcome} on {self._where(task.host)}{place}{why}"

    def _place(self, text: str) -> str:
        """A place in the playbook for a reader; data has none."""
        inside = text.removeprefix(f"{self.folder}/project/")
        return "" if inside != text and inside.startswith("playbook.json:") else inside

    def _where(self, host: str) -> str:
        # A task may have been for a host that is none of ours, such as localhost.
        return self.hosts[host].where if host in self.hosts else host

    def _reached(self, task: str) -> None:
        self.step.note = task


def _step(machines: Sequence[Machine], what: str) -> AbstractContextManager[Step]:
    if len(machines) == 1:
        return machines[0].step(what)
    return machines[0].events.step(", ".join(machine.where for machine in machines), what)


def _option(name: str, words: str | Sequence[str]) -> list[str]:
    text = words if isinstance(words, str) else ",".join(words)
    return [f"{name}={text}"] if text else []


def _existing(path: str | Path | None) -> Path | None:
    if path is None:
        return None
    found = Path(path).expanduser().absolute()
    if not found.is_file():
        raise UsageError(f"the vault password file {path} does not exist", hint=f"it was looked for at {found}")
    return found


def _write(path: Path, text: str) -> None:
    """Make a file that nobody else can read."""
    path.parent.mkdir(mode=0o700, exist_ok=True)
    path.touch(mode=0o600)
    path.write_text(text)
