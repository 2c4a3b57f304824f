"""A box for vagrant-libvirt, made here: Debian with an SSH server and an init of a few lines, on the kernel of our kit.

``python -m tests.vagrant_box`` says where it is.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tarfile
import tempfile
from pathlib import Path

from pytest_rexxinfra.deadline import Deadline
from pytest_rexxinfra.errors import SystemUnavailable
from pytest_rexxinfra.events import Events
from pytest_rexxinfra.images import ImageStore
from pytest_rexxinfra.kvm.disk import SIZE, disk_from_directory
from pytest_rexxinfra.kvm.kit import kit
from pytest_rexxinfra.locks import locked
from pytest_rexxinfra.tools import run_tool

from . import libvirtd

PACKAGES = "vagrant vagrant-libvirt libvirt-clients libvirt-daemon-system qemu-system-x86 qemu-utils e2fsprogs"
"""What the computer must have, as Debian and Ubuntu name it."""

_IMAGE = "debian-12"
_MAKING = 900.0

# What every vagrant tries first, and replaces: https://github.com/hashicorp/vagrant/tree/main/keys.
_KEY = (
    "ssh-rsa AAAAB3NzaC1yc2EAAAABIwAAAQEA6NF8iallvQVp22WDkTkyrtvp9eWW6A8YVr+kz4TjGYe7gHzIw+niNltGEFHzD8+v1I2YJ6oXevct"
    "1YeS0o9HZyN1Q9qgCgzUFtdOKLv6IedplqoPkcmF0aYet2PkEDo3MlTBckFXPITAMzF8dJSIFo9D8HfdOV0IAdx4O7PtixWKn5y2hMNG0zQPyUec"
    "p4pzC6kivAIhyfHilFR61RGL+GPXQ2MWZWFYbAGjyiYJnAmCP3NOTd0jMZEnDkbUvxhMmBYSdETk1rRgm+R4LOzFUGaHqHDLKLX+FIPKcF96hruc"
    "XzcWyLbIbEgE98OHlnVYCzRdK8jlqm8tehUc9c9WhQ== vagrant insecure public key\n"
)

_BUSYBOX = "#!/run/rexxinfra/busybox sh\nb=/run/rexxinfra/busybox\n"

_FILES = {
    "sbin/box-init": f"{_BUSYBOX}exec $b init\n",
    "sbin/box-start": f"""{_BUSYBOX}
$b mkdir -p /dev/pts /dev/shm /run/sshd
$b mount -t devpts -o mode=620,ptmxmode=666,gid=5 devpts /dev/pts
$b mount -t tmpfs -o mode=1777 shm /dev/shm
$b hostname -F /etc/hostname
$b ip link set lo up
$b ip link set eth0 up
""",
    "sbin/box-address": f"""{_BUSYBOX}
[ "$1" = bound ] || exit 0
$b ip address add "$ip/$mask" dev "$interface"
$b ip route add default via "$router"
""",
    "etc/inittab": """::sysinit:/sbin/box-start
::once:/run/rexxinfra/busybox udhcpc -q -n -t 30 -i eth0 -s /sbin/box-address
::respawn:/usr/sbin/sshd -D
::shutdown:/run/rexxinfra/busybox sync
""",
    "etc/hostname": "box\n",
    "usr/local/sbin/shutdown": f"{_BUSYBOX}exec $b poweroff\n",
    "root/.ssh/authorized_keys": _KEY,
}
_HOST_KEY = "etc/ssh/ssh_host_ed25519_key"

_VAGRANTFILE = """
Vagrant.configure('2') do |config|
  config.ssh.username = 'root'
  config.ssh.sudo_command = '%c'
  config.ssh.insert_key = false
  config.vm.guest = 'linux'
  config.vm.synced_folder '.', '/vagrant', disabled: true
  config.vm.provider 'libvirt' do |libvirt|
    libvirt.driver = 'qemu'
    libvirt.cpu_mode = 'maximum'
    libvirt.graphics_type = 'none'
    libvirt.kernel = '{kernel}'
    libvirt.initrd = '{initrd}'
    libvirt.cmd_line = 'console=ttyS0 quiet rexx.init=/sbin/box-init'
  end
end
"""


def box() -> Path:
    """The box, made if there is none yet, in a minute. Raises `SystemUnavailable` where it cannot be made."""
    missing = [each for each in ("vagrant", "virsh", "mke2fs", "qemu-img") if shutil.which(each) is None]
    if missing or os.geteuid() != 0:
        raise SystemUnavailable("no box can be made", where="vagrant", hint=f"as root: apt-get install {PACKAGES}")
    if not libvirtd.answers():
        raise SystemUnavailable("no libvirtd runs", where="vagrant", hint="python -m tests.libvirtd --wait")
    deadline, events = Deadline(_MAKING), Events()
    archive = ImageStore(events=events).archive(_IMAGE, deadline)
    assert archive is not None
    made_of = kit(events, deadline)
    key = hashlib.sha256(repr((archive.digest, made_of.key, _FILES, _VAGRANTFILE)).encode()).hexdigest()[:16]
    # Where qemu's own user may read it. The place stays the same, so that what is there of an older one goes.
    home = Path("/var/tmp/rexxinfra-tests-box")
    made, note = home / "test.box", home / "key"
    home.mkdir(exist_ok=True)
    with locked(home.with_suffix(".lock"), deadline=deadline, what="the box"):
        if not note.is_file() or note.read_text() != key:
            note.unlink(missing_ok=True)
            kernel, initrd = home / "vmlinuz", home / "initrd"
            shutil.copyfile(made_of.kernel, kernel)
            shutil.copyfile(made_of.initrd, initrd)
            with tempfile.TemporaryDirectory(dir=home) as scratch:
                draft = Path(scratch, "draft.box")
                _write(draft, archive.path, kernel, initrd, deadline)
                draft.rename(made)
            note.write_text(key)
    return made


def _write(draft: Path, archive: Path, kernel: Path, initrd: Path, deadline: Deadline) -> None:
    scratch = draft.parent
    root = scratch / "root"
    root.mkdir()
    run_tool(["tar", "-xpf", archive, "-C", root, "--numeric-owner"], deadline=deadline, where="box")
    for name, text in _FILES.items():
        path = root / name
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.write_text(text)
        path.chmod(0o755 if text.startswith("#!") else 0o644)
    (root / _HOST_KEY).unlink(missing_ok=True)
    run_tool(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", root / _HOST_KEY],
        deadline=deadline,
        where="box",
        hint="apt-get install openssh-client",
    )
    disk_from_directory(root, scratch / "box.img", deadline)
    size = {"provider": "libvirt", "format": "qcow2", "virtual_size": SIZE >> 30}
    (scratch / "metadata.json").write_text(json.dumps(size))
    (scratch / "Vagrantfile").write_text(_VAGRANTFILE.format(kernel=kernel, initrd=initrd))
    with tarfile.open(draft, "w") as tar:
        for name in ("metadata.json", "Vagrantfile", "box.img"):
            tar.add(scratch / name, arcname=name)


if __name__ == "__main__":
    print(box())
