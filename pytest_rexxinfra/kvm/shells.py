"""The ways into a machine that its own kit opens: a shell at its ports, and commands that the guest agent starts."""

from __future__ import annotations

from collections.abc import Sequence

from ..channels.request import Jobs
from ..channels.shell import ShellChannel
from ..channels.stream import Stream
from ..deadline import Deadline
from ..errors import ChannelClosed
from .domain import ShellSockets
from .ports import PortStream
from .settling import prelude
from .vm import Vm

_JOBS = "/tmp/.rexx-jobs"
_OPENING = 10.0


def jobs(vm: Vm, user: str | None = None) -> Jobs:
    """Commands by the guest agent."""
    from ..ssh.host import as_user

    user = user or vm.spec.user
    return Jobs(vm.agent, _JOBS, vm.where, as_user(user) if user else (), prelude(vm.spec))


def connected(vm: Vm, sockets: ShellSockets | None) -> PortStream | None:
    """What leads to the shell of a machine that may not run yet; ``None`` when there is none for this process."""
    try:
        return PortStream(sockets, vm.where) if sockets else None
    except ChannelClosed:
        return None


def shell(vm: Vm, stream: PortStream | None, deadline: Deadline) -> ShellChannel | None:
    """The shell at ``stream``, which is closed if none answers there."""
    if stream is None:
        return None

    def another(argv: Sequence[str]) -> Stream:
        return jobs(vm).process(argv)

    try:
        channel = ShellChannel(stream, another, vm.where, deadline.within(_OPENING), prelude(vm.spec))
    except ChannelClosed:
        stream.close()
        return None
    except BaseException:
        stream.close()
        raise
    stream.first = False
    return channel


def open_shell(vm: Vm, deadline: Deadline) -> ShellChannel | None:
    """The shell of a machine that runs: the one that is open already, else a new one, if there is one to be had."""
    ready = vm.take_shell()
    if ready is not None and ready.ended:
        ready.close()
        ready = None
    return ready or shell(vm, connected(vm, vm.site.shell_sockets(vm.machine.lease)), deadline)
