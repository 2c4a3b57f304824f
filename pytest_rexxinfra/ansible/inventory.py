"""Machines of the run as Ansible's inventory."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UsageError

if TYPE_CHECKING:
    from ..machine import Machine
    from .python import Surroundings

CONNECTION = "rexxinfra.rexxjs.machine"
"""The connection plugin, in the collection beside this file."""

Groups = Mapping[str, Sequence["Machine"]]


def hosts_of(machines: Sequence[Machine]) -> dict[str, Machine]:
    """Machines by the names that they have in the inventory: their own, or where two share one, longer ones.

    Raises `UsageError` for no machine at all, and for one that is named twice.
    """
    if not machines:
        raise UsageError("there are no machines to play on", hint="give at least one")
    if len({machine.resource.lease for machine in machines}) < len(machines):
        raise UsageError("a machine is named twice", hint="give each machine once")
    times = Counter(machine.name for machine in machines)
    return {each.name if times[each.name] == 1 else each.resource.name: each for each in machines}


def inventory(
    hosts: Mapping[str, Machine], groups: Groups, bridge: Path, around: Mapping[str, Surroundings]
) -> dict[str, Any]:
    """The inventory, in the form of Ansible's YAML plugin; ``bridge`` is the socket that leads to the machines.

    Raises `UsageError` for a group whose name Ansible cannot take, or with a machine that is not played on.
    """
    names = {machine.resource.lease: name for name, machine in hosts.items()}
    children: dict[str, Any] = {}
    for group, members in groups.items():
        if not re.fullmatch(r"[A-Za-z_]\w*", group) or group in ("all", "ungrouped") or group in hosts:
            raise UsageError(
                f"group {group!r} is no name of a group",
                hint="letters, digits and '_'; not all, not ungrouped, and not the name of a machine",
            )
        strangers = [each.where for each in members if each.resource.lease not in names]
        if strangers:
            raise UsageError(f"group {group}: {', '.join(strangers)} is none of the machines that are played on")
        children[group] = {"hosts": {names[each.resource.lease]: {} for each in members}}
    return {
        "all": {
            "hosts": {name: _variables(name, machine, around[name]) for name, machine in hosts.items()},
            "vars": {
                "ansible_connection": CONNECTION,
                "ansible_pipelining": True,
                "ansible_rexxinfra_bridge": str(bridge),
            },
            "children": children,
        }
    }


def _variables(name: str, machine: Machine, around: Surroundings) -> dict[str, str]:
    variables = {
        "ansible_remote_tmp": f"{machine.scratch}/ansible",
        "ansible_rexxinfra_login": around.user,
        "ansible_rexxinfra_machine": name,
        "rexxinfra_system": machine.system,
    }
    if around.python and "ANSIBLE_PYTHON_INTERPRETER" not in os.environ:
        variables["ansible_python_interpreter"] = around.python
    return variables
