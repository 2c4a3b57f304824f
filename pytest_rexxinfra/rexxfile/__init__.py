"""The Rexxfile: what a machine is made of, a line for each step, and applying one to a machine.

`read_plan` finds every mistake before a machine is touched; `apply` and `preview` take what it returns.
"""

from .apply import apply as apply
from .compile import compile_rexx as compile_rexx
from .parse import read_plan as read_plan
from .plan import Applied as Applied
from .plan import Listener as Listener
from .plan import Plan as Plan
from .plan import Task as Task
from .plan import TaskResult as TaskResult
from .preview import Change as Change
from .preview import preview as preview

__all__ = [
    "Applied",
    "Change",
    "Listener",
    "Plan",
    "Task",
    "TaskResult",
    "apply",
    "compile_rexx",
    "preview",
    "read_plan",
]
