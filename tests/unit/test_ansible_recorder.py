"""From the events of ansible-runner to a result."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_rexxinfra.ansible.python import Surroundings
from pytest_rexxinfra.ansible.recorder import Recorder
from pytest_rexxinfra.ansible.result import HostStats, TaskResult


def event(kind: str, host: str = "web", task: str = "install", res: Any = None, **more: Any) -> dict[str, Any]:
    data = {"host": host, "task": task, "task_path": "site.yml:4", "task_action": "apt", "duration": 0.5, "res": res}
    return {"event": kind, "event_data": {**data, **more}, "stdout": f"{kind}\r\n"}


def stats(**counts: dict[str, int]) -> dict[str, Any]:
    return {"event": "playbook_on_stats", "event_data": {"processed": {"web": 1, "db": 1}, **counts}}


def recorded(*events: dict[str, Any]) -> Recorder:
    recorder = Recorder()
    for each in events:
        recorder.take(each)
    return recorder


@pytest.mark.parametrize(
    ("kind", "res", "outcome"),
    [
        ("runner_on_ok", {"changed": False}, "ok"),
        ("runner_on_ok", {"changed": True}, "changed"),
        ("runner_on_failed", {"msg": "no", "changed": True}, "failed"),
        ("runner_on_skipped", {"changed": False}, "skipped"),
        ("runner_on_unreachable", {"msg": "gone", "unreachable": True}, "unreachable"),
        ("runner_on_ok", None, "ok"),
    ],
)
def test_outcome_of_a_task(kind: str, res: Any, outcome: str) -> None:
    [task] = recorded(event(kind, res=res)).tasks
    assert (task.host, task.task, task.outcome) == ("web", "install", outcome)
    assert (task.place, task.action, task.duration) == ("site.yml:4", "apt", 0.5)


def test_items_and_other_events_are_no_tasks() -> None:
    recorder = recorded(
        event("runner_item_on_failed", res={"failed": True}), event("runner_retry"), {"event": "verbose"}
    )
    assert recorder.tasks == []


def test_stats_of_each_host() -> None:
    recorder = recorded(stats(ok={"web": 3}, changed={"web": 1}, failures={"db": 2}, dark={"db": 1}))
    assert recorder.stats == {"web": HostStats(ok=3, changed=1), "db": HostStats(failed=2, unreachable=1)}
    assert recorder.stats["web"].good
    assert not recorder.stats["db"].good


def test_message_of_a_loop_is_that_of_its_items() -> None:
    items = [{"failed": True, "msg": "no a"}, {"msg": "fine"}, {"failed": True, "msg": "no b", "stderr": "why"}]
    [task] = recorded(event("runner_on_failed", res={"msg": "Some failed", "results": items})).tasks
    assert task.message == "Some failed; no a; no b"
    assert task.output == "stderr: why"


def test_message_of_a_task_without_log_is_that_it_has_none() -> None:
    [task] = recorded(event("runner_on_failed", res={"censored": "hidden by no_log"})).tasks
    assert (task.message, task.output) == ("hidden by no_log", "")


def test_what_is_running() -> None:
    recorder = recorded(event("runner_on_start"), event("runner_on_start", host="db", task="wait"))
    recorder.take(event("runner_on_ok"))
    assert recorder.running == {"db": "wait"}


def test_failures_are_those_that_nobody_saw_to() -> None:
    recorder = recorded(
        event("runner_on_failed", task="ignored", ignore_errors=True),
        event("runner_on_failed", host="db", task="rescued"),
        event("runner_on_failed", task="last"),
        stats(failures={"web": 1}, rescued={"db": 1}, ok={"db": 1}),
    )
    result = recorder.result(2, 1.0)
    assert [each.task for each in result.failures] == ["last"]
    assert (result.status, result.rc, result.ok) == ("failed", 2, False)


def test_latest_result_of_a_task() -> None:
    events = [event("runner_on_ok", host=host, res={"changed": host == "db"}) for host in ("web", "db")]
    result = recorded(*events).result(0, 1.0)
    assert result.task("install").host == "db"
    assert result.task("install", "web").outcome == "ok"
    assert result.changed == 1
    with pytest.raises(KeyError):
        result.task("remove")


def test_printed_lines_have_plain_ends() -> None:
    assert (
        recorded({"event": "verbose", "stdout": "one\r\ntwo"}, {"event": "verbose", "stdout": ""}).stdout == "one\ntwo"
    )


def test_hint_only_for_a_failure_that_may_be_due_to_python() -> None:
    python = TaskResult("copy", "web", "failed", "No module named 'shutil'")
    other = TaskResult("copy", "web", "failed", "no space left")
    assert "lacks shutil" in str(Surroundings("root", "/usr/bin/python3", ("shutil",)).hint(python))
    assert "no Python in it" in str(Surroundings("root", None).hint(python))
    assert Surroundings("root", None).hint(other) is None
    assert Surroundings("root", "/usr/bin/python3").hint(python) is None
