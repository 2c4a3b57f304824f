"""Ansible on machines of a run, through our own way into them: `play`, or ``machine.ansible(…)`` for one."""

from __future__ import annotations

from .play import play as play
from .playbook import Playbook as Playbook
from .result import AnsibleResult as AnsibleResult
from .result import HostStats as HostStats
from .result import TaskResult as TaskResult

__all__ = ["AnsibleResult", "HostStats", "Playbook", "TaskResult", "play"]
