"""From the events of ansible-runner to a result."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

from .result import AnsibleResult, HostStats, TaskResult, message

_OUTCOMES = {
    "runner_on_ok": "ok",
    "runner_on_failed": "failed",
    "runner_on_skipped": "skipped",
    "runner_on_unreachable": "unreachable",
}
_COUNTERS = {"failed": "failures", "unreachable": "dark"}
"""Counters of Ansible's that have other names than ours."""


class Recorder:
    """Takes the events of one play as they come.

    Their fields: https://ansible.readthedocs.io/projects/runner/en/stable/intro/#runner-artifact-job-events-host-and-playbook-events.
    ``on_task`` gets the name of each task that begins, ``place`` makes a place in the playbook one for a reader.
    """

    def __init__(
        self, on_task: Callable[[str], None] = lambda name: None, place: Callable[[str], str] = lambda text: text
    ) -> None:
        self.tasks: list[TaskResult] = []
        self.names: dict[str, str] = {}
        """Names of the tasks that have begun, by their ids."""
        self.running: dict[str, str] = {}
        """What each host is doing."""
        self.pid: int | None = None
        """The process of ansible-playbook, once it plays."""
        self.stats: dict[str, HostStats] = {}
        self._on_task = on_task
        self._place = place
        self._stdout: list[str] = []

    @property
    def stdout(self) -> str:
        """What ansible-playbook has printed so far."""
        return "\n".join(self._stdout)

    def take(self, event: Mapping[str, Any]) -> None:
        """Note one event."""
        kind, data = str(event.get("event", "")), event.get("event_data") or {}
        if event.get("stdout"):
            self._stdout.append(str(event["stdout"]).replace("\r\n", "\n"))
        if kind == "playbook_on_start":
            self.pid = event.get("pid")
        elif kind in ("playbook_on_task_start", "playbook_on_handler_task_start"):
            self.names[str(data.get("task_uuid"))] = str(data.get("task"))
            self._on_task(str(data.get("task")))
        elif kind == "runner_on_start":
            self.running[str(data.get("host"))] = str(data.get("task"))
        elif kind in _OUTCOMES:
            self._ended(_OUTCOMES[kind], data)
        elif kind == "playbook_on_stats":
            self.stats = {host: _counted(data, host) for host in data.get("processed") or ()}

    def _ended(self, outcome: str, data: Mapping[str, Any]) -> None:
        returned = data.get("res") or {}
        if outcome == "ok" and returned.get("changed"):
            outcome = "changed"
        self.running.pop(str(data.get("host")), None)
        self.tasks.append(
            TaskResult(
                task=str(data.get("task")),
                host=str(data.get("host")),
                outcome=outcome,
                message=message(returned),
                duration=float(data.get("duration") or 0.0),
                place=self._place(str(data.get("task_path") or "")),
                action=str(data.get("task_action") or ""),
                play=str(data.get("play") or ""),
                ignored=bool(data.get("ignore_errors") or data.get("ignore_unreachable")),
                returned=returned,
            )
        )

    def result(self, rc: int, duration: float) -> AnsibleResult:
        """Everything so far as the result of a play that has ended."""
        status = "successful" if rc == 0 else "failed"
        return AnsibleResult(status, rc, tuple(self.tasks), dict(self.stats), self.stdout, duration)


def _counted(data: Mapping[str, Any], host: str) -> HostStats:
    names = [each.name for each in fields(HostStats)]
    return HostStats(**{name: int((data.get(_COUNTERS.get(name, name)) or {}).get(host, 0)) for name in names})
