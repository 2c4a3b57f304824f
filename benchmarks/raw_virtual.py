"""Virtual machines as the tools themselves make them: virsh, Vagrant, pycloudlib.

Each way returns the seconds until its first command had run, and has removed everything when it returns.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from .measure import Unmeasured
from .raw import run

if TYPE_CHECKING:
    from pytest_rexxinfra.machine import Machine

_ROOT = "#cloud-config\ndisable_root: false\n"
_QEMU = """\
#!/bin/sh
for word; do
  shift
  case $word in
  -enable-kvm | -hda) ;;
  host) set -- "$@" max ;;
  nic) set -- "$@" nic,model=virtio ;;
  */inst.qcow2) set -- "$@" -drive "file=$word,if=virtio,format=qcow2" ;;
  *) set -- "$@" "$word" ;;
  esac
done
exec qemu-system-x86_64 -accel tcg "$@"
"""


class VirshRestore:
    """``virsh restore`` of a saved machine, and a command in it by the guest agent.

    The machine is one of ours that has booted; saved by virsh, it can be restored any number of times, though only once
    at a time and with one and the same name, addresses and disk.
    """

    def __init__(self, machine: Machine, folder: Path) -> None:
        self._name = machine.resource.name
        self._file = folder / "saved"
        run("virsh", "save", self._name, str(self._file))

    def __call__(self) -> float:
        started = time.perf_counter()
        run("virsh", "restore", str(self._file))
        pid = self._ask("guest-exec", path="/bin/true")["pid"]
        while not self._ask("guest-exec-status", pid=pid)["exited"]:
            time.sleep(0.005)
        took = time.perf_counter() - started
        run("virsh", "destroy", self._name)
        return took

    def _ask(self, execute: str, **arguments: object) -> dict[str, int]:
        request = json.dumps({"execute": execute, "arguments": arguments})
        told: dict[str, int] = json.loads(run("virsh", "qemu-agent-command", self._name, request))["return"]
        return told


class VagrantUp:
    """``vagrant up`` of a box for the provider libvirt, and ``vagrant ssh -c true``."""

    def __init__(self, box: Path, folder: Path) -> None:
        self._folder = folder / "vagrant"
        self._folder.mkdir()
        self._name = f"bench-{os.getpid()}"
        (self._folder / "Vagrantfile").write_text(
            f"Vagrant.configure('2') do |config|\n  config.vm.box = '{self._name}'\nend\n"
        )
        self._run("box", "add", "--name", self._name, str(box))

    def __call__(self) -> float:
        started = time.perf_counter()
        try:
            self._run("up", "--provider", "libvirt")
            self._run("ssh", "-c", "true")
            return time.perf_counter() - started
        finally:
            self._run("destroy", "-f")

    def close(self) -> None:
        """Remove the box, also from libvirt's pool, where Vagrant leaves it."""
        with suppress(Unmeasured):
            self._run("box", "remove", "--force", self._name)
        with suppress(Unmeasured):
            for line in run("virsh", "vol-list", "default").splitlines():
                if line.split()[:1] and line.split()[0].startswith(f"{self._name}_vagrant_box_image"):
                    run("virsh", "vol-delete", "--pool", "default", line.split()[0])

    def _run(self, *words: str) -> None:
        if shutil.which("vagrant") is None:
            raise Unmeasured("there is no vagrant")
        run("env", "-C", str(self._folder), "vagrant", *words)


def pycloudlib(image: Path, folder: Path) -> Callable[[], float]:
    """pycloudlib's ``Qemu``: a cloud image boots, cloud-init lets us log in, and a command runs.

    It always asks for KVM, and for an IDE disk, which kernels of clouds do not know; the program that it is given as
    its QEMU changes that.
    """
    from pycloudlib import Qemu

    settings = folder / "pycloudlib.toml"
    program = folder / "qemu"
    program.write_text(_QEMU)
    program.chmod(0o755)
    key = folder / "key"
    run("ssh-keygen", "-q", "-t", "rsa", "-N", "", "-f", str(key))
    settings.write_text(
        f'[qemu]\nimage_dir = "{image.parent}"\nworking_dir = "{folder}"\nqemu_binary = "{program}"\n'
        f'public_key_path = "{key}.pub"\nprivate_key_path = "{key}"\n'
    )

    def launch() -> float:
        took = None
        try:
            with Qemu(tag="bench", config_file=settings) as cloud:
                started = time.perf_counter()
                wishes = {"instance_type": "c1m512", "username": "root", "user_data": _ROOT}
                with cloud.launch(image_id=str(image), **wishes) as instance:
                    instance.wait()
                    if not instance.execute("true").ok:
                        raise Unmeasured("pycloudlib: the command failed")
                    took = time.perf_counter() - started
        except Exception:
            # It is told to end, and may end before it has answered, which is an error to pycloudlib.
            if took is None:
                raise
        return took

    return launch
