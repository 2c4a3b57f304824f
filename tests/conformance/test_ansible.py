"""A playbook in every way to make a machine, with Python in it or without."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_rexxinfra import Machine
from pytest_rexxinfra.errors import CommandFailed

pytest.importorskip("ansible_runner")

DATA = "grüße ☃\n"


def play(*tasks: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"hosts": "all", "gather_facts": False, "tasks": list(tasks)}]


def test_what_needs_no_python(shared: Machine) -> None:
    result = shared.ansible(
        play(
            {"name": "raw", "raw": "printf 'a\\tb'; echo err >&2; exit 3", "failed_when": False},
            {"name": "rexx", "rexxinfra.rexxjs.rexxjs": {"source": "SAY 'hello'\nEXIT 0"}},
        )
    )
    raw = result.task("raw").returned
    assert (raw["rc"], raw["stdout"], raw["stderr"]) == (3, "a\tb", "err\n")
    assert result.task("rexx").returned["stdout_lines"] == ["hello"]


def test_a_module_runs_or_it_is_said_that_there_is_no_python(shared: Machine) -> None:
    path = f"{shared.scratch}/greeting"
    tasks = play({"name": "copy", "copy": {"content": DATA, "dest": path, "mode": "0600"}})
    if shared.run("[ -x /usr/bin/python3 ]").ok:
        shared.run(["mkdir", "-p", shared.scratch], check=True)
        assert shared.ansible(tasks, check_idempotent=True).changed == 1
        assert shared.read(path).decode() == DATA
    else:
        with pytest.raises(CommandFailed, match="there is no Python in it"):
            shared.ansible(tasks)
