"""What is done to a machine whenever it has begun to run, so that it is the one that it is to be, and does its work."""

from __future__ import annotations

import base64
import secrets
import shlex
import time
import uuid
from collections.abc import Sequence

from ..channels.channel import Channel
from ..deadline import Deadline
from ..errors import ProvisionError
from ..model import Spec
from ..spec_document import HIDDEN
from .domain import disk_sources
from .seeding import await_cloud_init
from .vm import Vm

ENVIRONMENT = "/run/rexxinfra/env"
"""A file in the guest with the variables of the spec, for a shell to read; no process has them in its arguments."""

MAIN_LOG = "/run/rexxinfra/main.log"
"""What the main process prints, in the guest."""

MAIN_ENDED = "rexxinfra: the main process ended with status "
"""What the console says then, followed by the end of `MAIN_LOG`, and `LOG_ENDED`."""

LOG_ENDED = "rexxinfra: end of its log"

_DOING = "making the machine what it is to be"
_FINDING = 30.0

_ENTROPY = 64
"""Bytes: twice the key of the kernel's random number generator."""

_RENEW, _RENEWED = "/run/rexxinfra/renew.ask", "/run/rexxinfra/renew.told"

_READ_ENVIRONMENT = f"[ ! -r {ENVIRONMENT} ] || . {ENVIRONMENT}"

# Whatever the agent starts is in the group, and what that starts.
_LIMIT = """
[ -e /sys/fs/cgroup/cgroup.procs ] || mount -t cgroup2 cgroup2 /sys/fs/cgroup || exit
echo +pids >/sys/fs/cgroup/cgroup.subtree_control
mkdir -p /sys/fs/cgroup/rexxinfra && echo {pids} >/sys/fs/cgroup/rexxinfra/pids.max || exit
read -r agent </run/rexxinfra/agent.pid
for pid in $agent $PPID $$; do echo $pid >/sys/fs/cgroup/rexxinfra/cgroup.procs; done
"""


def await_up(vm: Vm, deadline: Deadline) -> None:
    """Wait until a machine that boots has done so, and can be used."""
    vm.await_agent(deadline)
    if vm.record.cloud:
        await_cloud_init(vm, deadline)
    elif vm.spec.boot:
        vm.await_system(deadline)
    if vm.spec.hardware.disks or vm.spec.hardware.cdroms:
        _await_disks(vm, deadline)


def _await_disks(vm: Vm, deadline: Deadline) -> None:
    """Wait until the kernel has found all disks; not all drivers have when they are loaded."""
    wanted = len(dict(disk_sources(vm.xml())))
    script = f"set -- /sys/block/[shv][dr][a-z0-9]*; [ $# -ge {wanted} ]"

    def there() -> bool:
        return vm.ask(script, deadline, "looking for disks").status == 0

    hint = "does the kernel have the drivers of their buses?"
    deadline.within(_FINDING).wait_for(there, f"all {wanted} disks of {vm.name}", hint=hint)


def settle(vm: Vm, deadline: Deadline, shell: Channel | None = None, *, clone: bool = False) -> None:
    """Give a machine its name, addresses, variables and limits, and begin its work; by its ``shell`` if that is open.

    A ``clone`` has the memory of another machine: it gets new random numbers and the present time, too. Raises
    `ProvisionError`.
    """
    record, spec = vm.record, vm.spec
    words = [word for mac, setting in record.wires if setting for word in (mac, setting)]
    lines = _renewed([mac for mac, _ in record.wires]) if clone else []
    lines += [] if record.cloud else [_named(spec.hostname or vm.name, words)]
    lines += _environment(spec)
    lines += [_LIMIT.format(pids=spec.pids)] if spec.pids else []
    lines += [_main_process(spec)] if spec.command is not None else []
    _run(vm, lines, deadline, shell)


def rehearse(vm: Vm, deadline: Deadline, shell: Channel | None) -> None:
    """Do in a template what `settle` does in its clones, so that their kernels have in memory what that needs."""
    _run(vm, [*_renewed([]), _named("template", [])], deadline, shell)


def _run(vm: Vm, lines: Sequence[str], deadline: Deadline, shell: Channel | None) -> None:
    script = "\n".join([*lines, "exit 0\n"])
    if shell is None:
        vm.checked(script, deadline, _DOING)
        return
    output = shell.run(script, deadline=deadline, shown=_DOING)
    if output.rc:
        said = (output.stdout + output.stderr).decode("utf-8", "replace")
        raise ProvisionError(f"{_DOING} failed with status {output.rc}", output=said, where=vm.where)


def _renewed(addresses: Sequence[str]) -> list[str]:
    """Makes another machine of one with the memory of a template; its first interface gets the first address."""
    interface = f"{_number(addresses[0])} ${{nic##*/}}" if addresses else ""
    return ["for nic in /sys/class/net/e*; do :; done", _renewal(interface)]


def _named(hostname: str, words: Sequence[str]) -> str:
    """Gives the machine its name, an id, and its addresses."""
    return f"set -- {shlex.join([hostname[:64], uuid.uuid4().hex, *words])}\n. /run/rexxinfra/settle"


def renew(vm: Vm, deadline: Deadline) -> None:
    """Give a machine that goes on from an older memory the present time, and random numbers of its own."""
    vm.checked(_renewal(""), deadline, "renewing the clock and the random numbers")


def _renewal(interface: str) -> str:
    request = f"{time.time_ns()} {interface or '0 -'} {secrets.token_hex(_ENTROPY)}"
    return f'echo "{request}" >{_RENEW}; read -r failed <{_RENEWED}; [ "$failed" = 0 ] || exit 1'


def _number(mac: str) -> int:
    """A MAC address as `renewal` takes it."""
    return int.from_bytes(bytes.fromhex(mac.replace(":", "")), "little")


def prelude(spec: Spec) -> str:
    """The shell command before those of the user."""
    return _READ_ENVIRONMENT if spec.env else ""


def _environment(spec: Spec) -> list[str]:
    """Brings the variables into the guest, where they are lost with each boot."""
    known = {name: value for name, value in spec.env.items() if value != HIDDEN}
    if not known:
        return []
    text = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in known.items())
    encoded = base64.b64encode(text.encode("utf-8", "surrogateescape")).decode()
    return [f"(umask 077; echo {encoded} | /run/rexxinfra/busybox base64 -d >{ENVIRONMENT})"]


def _main_process(spec: Spec) -> str:
    """Starts it; when it ends, the machine does, and tells on its console how it was."""
    from ..ssh.host import as_user

    words = [*(as_user(spec.user) if spec.user else ()), *(spec.command or ())]
    process = (
        f"{prelude(spec) or ':'}\n{shlex.join(words)}\n"
        f'{{ echo "{MAIN_ENDED}$?"; tail -c 65536 {MAIN_LOG}; echo "{LOG_ENDED}"; }} >/dev/console\n'
        "b=/run/rexxinfra/busybox; $b sync; exec $b poweroff -f"
    )
    return f"setsid sh -c {shlex.quote(process)} >{MAIN_LOG} 2>&1 </dev/null &"
