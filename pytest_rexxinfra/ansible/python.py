"""The Python of a machine, which Ansible's modules need: where it is, and what it lacks."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..machine import Machine
    from .result import TaskResult

_NEEDED = ("http.client", "json", "pwd", "shutil", "subprocess", "tempfile", "zipfile")
"""Modules that Ansible's own most used modules import, and that a minimal Python may lack."""

_LOOK = rf"""
id -un
for python in /usr/bin/python3 "$(command -v python3)" /usr/libexec/platform-python; do
  "$python" -c 'import sys
lacking = []
for name in "{" ".join(_NEEDED)}".split():
    try:
        __import__(name)
    except ImportError:
        lacking.append(name)
print(sys.executable)
print(" ".join(lacking))' 2>/dev/null && break
done
"""

_ABOUT_PYTHON = re.compile(r"python|No module named|interpreter", re.IGNORECASE)


@dataclass(frozen=True)
class Surroundings:
    """What a machine has for Ansible: its user, a Python that runs, and the modules that this one lacks."""

    user: str
    python: str | None
    lacking: tuple[str, ...] = ()

    def hint(self, failure: TaskResult) -> str | None:
        """What to do about a failure, if it may be Python that is missing."""
        complete = self.python and not self.lacking
        if complete or not _ABOUT_PYTHON.search(f"{failure.message}\n{failure.output}"):
            return None
        told = f"its Python lacks {', '.join(self.lacking)}" if self.python else "there is no Python in it"
        return (
            f"{told}, and most of Ansible's modules need Python: take an image that has it, such as debian-12, or "
            "install it first (raw: apt-get install -y python3); with gather_facts: false, the actions raw, script and "
            "rexxinfra.rexxjs.rexxjs need none"
        )


def surroundings(machine: Machine) -> Surroundings:
    """Look what a machine has for Ansible; one short command."""
    result, _ = machine.run_reporting(_LOOK, shown="ansible: look for Python", action="ansible")
    user, *found = [*result.lines, "", "", ""][:3]
    return Surroundings(user, found[0] or None, tuple(found[1].split()))
