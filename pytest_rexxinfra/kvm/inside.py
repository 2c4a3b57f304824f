"""What a running machine can be asked about itself: its log, what it uses, whether it serves."""

from __future__ import annotations

from ..deadline import Deadline
from ..errors import ChannelClosed, UsageError
from ..model import Stats
from .settling import LOG_ENDED, MAIN_ENDED, MAIN_LOG
from .vm import Vm

_ASKING = 60.0


def logs(vm: Vm) -> str:
    """What the main process printed, or of a machine that boots, its journal."""
    if vm.spec.boot:
        answer = vm.ask("journalctl --no-pager --boot", Deadline(_ASKING), "journalctl")
        return answer.stdout.decode("utf-8", "replace")
    if vm.spec.command is None:
        raise UsageError(
            "the machine only waits for commands, so it has no log",
            where=vm.where,
            hint="give it a main process with command=…, or look at its console",
        )
    data = bytearray()
    try:
        while piece := vm.agent.read(MAIN_LOG, len(data), vm.agent.brief, Deadline(_ASKING)):
            data += piece
    except (ChannelClosed, UsageError):
        # It has ended, and printed the last of its log on its console.
        _, _, told = vm.console().partition(MAIN_ENDED)
        return told.partition("\n")[2].partition(LOG_ENDED)[0].replace("\r", "")
    return data.decode("utf-8", "replace")


def stats(vm: Vm) -> Stats:
    """What the guest uses, and the processor time of its QEMU."""
    info = vm.node.ask(vm.domain.info)
    script = "cat /proc/meminfo; echo; ls -d /proc/[0-9]* | wc -l"
    text, _, count = vm.ask(script, Deadline(_ASKING), "looking at memory").stdout.partition(b"\n\n")
    sizes = {line.split(b":")[0]: int(line.split()[1]) << 10 for line in text.splitlines()}
    return Stats(
        memory=sizes[b"MemTotal"] - sizes[b"MemAvailable"],
        memory_limit=info[1] << 10,
        cpu=info[4] / 1e9,
        processes=int(count),
    )
