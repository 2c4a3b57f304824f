"""Machines that boot a disk of the user's own: what cloud-init is told there, and how it went."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from ..deadline import Deadline
from ..errors import ChannelClosed
from .seed import ENDED, OUTPUT, OUTPUT_LINES, RESULT, STATUS, Seed, cloud_init_outcome
from .site import Site
from .vm import SHOWN, Vm

_HAS_CLOUD_INIT = "command -v cloud-init >/dev/null || [ -e /run/cloud-init ]"


def write_seed(volume: str, vm: Vm, site: Site, deadline: Deadline) -> None:
    """Make the disk that cloud-init finds, with what the machine is told and with our guest agent."""
    spec = vm.spec
    user = spec.user if spec.user != "root" else None
    seed = Seed(vm.machine.lease, spec.hostname or vm.name[:64], spec.user_data, None, user)
    with TemporaryDirectory() as folder:
        image = Path(folder, "seed.iso")
        image.write_bytes(seed.image(site.kit.folder))
        site.home.upload(volume, image, deadline)


def await_cloud_init(vm: Vm, deadline: Deadline) -> None:
    """Wait until cloud-init has done its work; raises `ProvisionError` when some of it failed.

    A machine without cloud-init, whose own agent answers, is there at once.
    """
    if vm.ask(_HAS_CLOUD_INIT, deadline, "looking for cloud-init").status:
        return

    def ended() -> bytes:
        with suppress(ChannelClosed):
            return vm.agent.read(ENDED, 0, 64, deadline)
        vm.must_run()
        return b""

    vm.wait_for(ended, f"cloud-init of {vm.name}", deadline, f"{SHOWN}; look inside: cat /var/log/cloud-init.log")
    result, status = (vm.agent.read(path, 0, 1 << 20, deadline) for path in (RESULT, STATUS))
    outcome = cloud_init_outcome(result, status)
    if outcome.errors:
        said = vm.ask(f"tail -n {OUTPUT_LINES} {OUTPUT}", deadline, "reading what cloud-init printed")
        outcome.check(said.stdout.decode("utf-8", "replace"), vm.where)
