"""A machine's life: it is stopped and started, boots again, pauses, and has its power cut."""

from __future__ import annotations

from contextlib import suppress

from ..deadline import Deadline
from ..errors import DeadlineExceeded, RexxInfraError
from ..model import Phase, Power
from .forwards import forward_all
from .node import LibvirtError
from .settling import await_up, settle
from .vm import Vm

_GRACE = 10.0
_BOOTED_GRACE = 25.0
"""Seconds for a system to shut down, ours or one that was booted, before its power is cut."""
_POLL = 0.1


def stop(vm: Vm, deadline: Deadline) -> None:
    """Let its system shut down; one that has not after some seconds has its power cut."""
    vm.want(Power.STOPPED)
    _end(vm, "poweroff", deadline)

    def ended() -> bool:
        return vm.found().phase is Phase.STOPPED

    try:
        grace = _BOOTED_GRACE if vm.spec.boot or vm.record.cloud else _GRACE
        deadline.within(grace).wait_for(ended, "the machine to end", longest=_POLL)
    except DeadlineExceeded:
        cut(vm)


def cut(vm: Vm) -> None:
    """Cut its power, if it is on."""
    try:
        vm.node.ask(vm.domain.destroy)
    except LibvirtError:
        if vm.runs:
            raise


def start(vm: Vm, deadline: Deadline) -> None:
    """Start a stopped machine, and let it be what it was for."""
    vm.node.ask(vm.domain.create)
    be_again(vm, deadline)
    vm.want(Power.RUNNING)


def be_again(vm: Vm, deadline: Deadline) -> None:
    """Let a machine that boots once more be what it was before."""
    await_up(vm, deadline)
    settle(vm, deadline)
    forward_all(vm)


def reboot(vm: Vm, deadline: Deadline) -> None:
    """Let its system shut down and boot again."""
    before = vm.boot_id(deadline)
    _end(vm, "reboot", deadline)
    vm.again(before, deadline)
    be_again(vm, deadline)


def power_cycle(vm: Vm, deadline: Deadline) -> None:
    """Boot it again without letting its system shut down, as its reset button does."""
    before = vm.boot_id(deadline)
    vm.node.ask(vm.domain.reset, 0)
    vm.again(before, deadline)
    be_again(vm, deadline)


def pause(vm: Vm) -> None:
    """Let its processors stand still."""
    vm.want(Power.PAUSED)
    vm.node.ask(vm.domain.suspend)


def resume(vm: Vm) -> None:
    vm.node.ask(vm.domain.resume)
    vm.want(Power.RUNNING)


def _end(vm: Vm, how: str, deadline: Deadline) -> None:
    with suppress(RexxInfraError):
        vm.agent.start(f"exec /run/rexxinfra/end {how}", deadline)
