"""What a play gave: a result for each task and host, and the sums of each host."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class TaskResult:
    """What one task did on one host.

    ``outcome`` is ``ok``, ``changed``, ``failed``, ``skipped`` or ``unreachable``; ``ignored`` says that a failure
    did not count. ``place`` is the file and line in the playbook, ``duration`` in seconds. ``returned`` is what the
    module returned, which for a task with ``no_log`` is censored.
    """

    task: str
    host: str
    outcome: str
    message: str = ""
    duration: float = 0.0
    place: str = ""
    action: str = ""
    play: str = ""
    ignored: bool = False
    returned: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def output(self) -> str:
        """Both streams of the module, or of each item of a loop that failed."""
        parts = [self.returned, *(each for each in _items(self.returned) if each.get("failed"))]
        streams = ((name, str(part.get(name) or "").strip()) for part in parts for name in _STREAMS)
        return "\n".join(f"{name}: {text}" for name, text in streams if text)


@dataclass(frozen=True)
class HostStats:
    """How many tasks of a host ended in which way, as Ansible's recap counts them."""

    ok: int = 0
    changed: int = 0
    failed: int = 0
    skipped: int = 0
    unreachable: int = 0
    rescued: int = 0
    ignored: int = 0

    @property
    def good(self) -> bool:
        """Whether every task ended well, or somebody saw to it."""
        return not self.failed and not self.unreachable


@dataclass(frozen=True)
class AnsibleResult:
    """What a play gave: ``stats`` by host, ``rc`` the exit status of ansible-playbook, ``duration`` in seconds."""

    status: str
    rc: int
    tasks: tuple[TaskResult, ...]
    stats: Mapping[str, HostStats]
    stdout: str = field(repr=False)
    duration: float

    @property
    def ok(self) -> bool:
        return self.rc == 0

    @property
    def changed(self) -> int:
        """How many tasks changed something, each host's counted."""
        return len(self.changes)

    @property
    def changes(self) -> list[TaskResult]:
        """The tasks that changed something."""
        return [each for each in self.tasks if each.outcome == "changed"]

    @property
    def failures(self) -> list[TaskResult]:
        """What ended the play on the hosts where it failed: the last failure of each."""
        last = {
            each.host: each
            for each in self.tasks
            if each.outcome in ("failed", "unreachable")
            and not each.ignored
            and not self.stats.get(each.host, _FAILED).good
        }
        return list(last.values())

    def task(self, name: str, host: str | None = None) -> TaskResult:
        """The latest result of a task by its name; raises `KeyError`."""
        for each in reversed(self.tasks):
            if each.task == name and host in (None, each.host):
                return each
        raise KeyError(name)


_STREAMS = ("stdout", "stderr", "module_stdout", "module_stderr")
_FAILED = HostStats(failed=1)


def message(returned: Mapping[str, Any]) -> str:
    """Why a module failed, or what else it had to say; in a loop, of each item that failed."""
    texts = [str(each["msg"]).strip() for each in _items(returned) if each.get("failed") and each.get("msg")]
    own = returned.get("msg") or returned.get("censored") or ""
    return "; ".join([str(own).strip(), *texts]).strip("; ")


def _items(returned: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """What a task returned for each item of its loop, or for each module that it is made of."""
    items = [*(returned.get("results") or ()), *(returned.get("failed_modules") or {}).values()]
    return [each for each in items if isinstance(each, Mapping)]
