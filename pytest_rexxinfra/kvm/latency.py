"""Delay of what leaves a machine, set in the guest, whose kernel can do it where the host's cannot."""

from __future__ import annotations

import shlex

from ..deadline import Deadline
from ..errors import Unsupported
from .vm import Vm

_PLACE = "/run/rexxinfra/netem"
_MODULE = f"{_PLACE}/sch_netem.ko"
_TC = f"{_PLACE}/ld.so --library-path {_PLACE} {_PLACE}/tc"


def delay(vm: Vm, seconds: float, jitter: float, deadline: Deadline) -> None:
    """Delay what leaves each interface by ``seconds``, more or less by ``jitter`` seconds; 0 ends it.

    Raises `Unsupported` for a guest whose kernel has no netem (tc-netem(8)).
    """
    _bring(vm, deadline)
    times = shlex.join(f"{each * 1000:g}ms" for each in (seconds, jitter))
    script = f"""
[ -d /sys/module/sch_netem ] || /run/rexxinfra/busybox insmod {_MODULE} 2>/dev/null || modprobe sch_netem 2>/dev/null
for each in /sys/class/net/*; do
  nic=${{each##*/}}
  [ "$nic" = lo ] || {_TC} qdisc replace dev "$nic" root netem delay {times} || exit
done
"""
    answer = vm.ask(script, deadline, "delaying what leaves the machine")
    if answer.status:
        said = (answer.stdout + answer.stderr).decode("utf-8", "replace")
        raise Unsupported("the machine's kernel has no netem", where=vm.where, output=said, hint="use our own kernel")


def _bring(vm: Vm, deadline: Deadline) -> None:
    """Copy tc(8), its libraries and the module of our kernel into the guest, unless they are there."""
    if vm.ask(f"[ -e {_MODULE} ]", deadline, "looking for netem").status == 0:
        return
    vm.checked(f"mkdir -p {_PLACE}", deadline, "making room for netem")
    for path in sorted(vm.site.kit.netem.iterdir()):
        vm.agent.write(f"{_PLACE}/{path.name}", path.read_bytes(), "w", deadline)
    vm.checked(f"chmod 755 {_PLACE}/tc {_PLACE}/ld.so", deadline, "making tc a program")
