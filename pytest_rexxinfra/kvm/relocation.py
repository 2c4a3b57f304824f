"""A machine of ours at another node: its files and its move, and what is known of it, in one."""

from __future__ import annotations

from contextlib import suppress
from pathlib import PurePosixPath

from ..deadline import Deadline
from ..errors import RexxInfraError, UsageError
from ..model import Resource
from .forwards import forward_all
from .home import Home
from .migration import Migrated, bring_files
from .node import Node
from .nodes import Nodes
from .sites import Sites
from .storage.kvm_storage import KvmStorage
from .vm import Vm

_ANSWERING = 60.0


def relocate(
    vm: Vm, nodes: Nodes, sites: Sites, storage: KvmStorage, to: str | None, deadline: Deadline
) -> tuple[Resource, Migrated]:
    """Let a running machine go on at another node of its target, and at no time be asked where it is not.

    Raises as `Nodes.migrate` does.
    """
    source = vm.node
    begun: list[Home] = []

    def on_target(target: Node) -> None:
        storage.admit(vm.machine, target)
        if nodes.share_storage(source, target):
            return
        if vm.record.snapshots:
            raise UsageError(
                "a machine with snapshots stays on its storage, for they do not go along",
                where=vm.where,
                hint="delete them first: " + ", ".join(each.name for each in vm.record.snapshots),
            )
        home = sites.at(target.uri).home
        bring_files(vm.site.home, home, vm.name, deadline)
        begun.append(home)
        home.create(f"{vm.name}.log", 0)

    with vm.place.move(deadline) as arrive:
        try:
            machine, moved = nodes.migrate(vm.machine, vm.spec, deadline, to=to, on_target=on_target)
        except BaseException:
            for home in begun:
                with suppress(RexxInfraError):
                    home.delete(f"{vm.name}.log")
            raise
        target = nodes.of(machine)
        vm.note(uri=target.uri, node=target.name)
        vm.machine = machine
        arrive(target)
    deadline.within(_ANSWERING).wait_for(vm.agent.answers, "the guest agent at the target")
    for path in moved.copied:
        sites.at(source.uri).home.delete(PurePosixPath(path).name)
    if moved.copied:
        sites.at(source.uri).home.delete(f"{vm.name}.log")
        vm.note(below={})
    forward_all(vm)
    return machine, moved
