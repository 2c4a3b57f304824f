"""A cloud image as distributions publish them, made here: Debian with cloud-init, for BIOS and EFI.

Made by ``cloud_recipe`` once, and kept in the cache by what that says.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from pathlib import Path

from pytest_rexxinfra.deadline import Deadline
from pytest_rexxinfra.errors import SystemUnavailable
from pytest_rexxinfra.images.debian import confined
from pytest_rexxinfra.locks import locked
from pytest_rexxinfra.paths import cache_dir
from pytest_rexxinfra.tools import run_tool

PACKAGES = "e2fsprogs fdisk grub-common mmdebstrap mtools ovmf qemu-utils util-linux"
"""What the computer must have, as Debian and Ubuntu name it."""

_PROGRAMS = ("mmdebstrap", "sfdisk", "grub-mkimage", "mformat", "mke2fs", "qemu-img", "unshare", "setpriv")
_RECIPE = Path(__file__).with_name("cloud_recipe")
_WHERE = "cloud image"


def cloud_image() -> Path:
    """The image, a qcow2 file that nobody may write to; made if there is none yet, in a minute.

    Raises `SystemUnavailable` where it cannot be made, `CommandFailed`, `DeadlineExceeded`.
    """
    missing = [each for each in _PROGRAMS if shutil.which(each) is None]
    if missing:
        hint = f"sudo apt-get install {PACKAGES}"
        raise SystemUnavailable(f"{', '.join(missing)}: not on this computer", where=_WHERE, hint=hint)
    folder = cache_dir() / "kvm"
    home = folder / f"cloud-{hashlib.sha256(_RECIPE.read_bytes()).hexdigest()[:16]}.qcow2"
    deadline = Deadline(900)
    if home.is_file():
        return home
    if os.geteuid() != 0:
        raise SystemUnavailable("the cloud image is made by root only", where=_WHERE, hint="run this as root once")
    with locked(folder / f".{home.name}.lock", deadline=deadline, what="the cloud image"):
        if not home.is_file():
            for stale in folder.glob(f".{home.name}-*"):
                shutil.rmtree(stale, ignore_errors=True)
            with tempfile.TemporaryDirectory(prefix=f".{home.name}-", dir=folder) as scratch:
                draft = Path(scratch, "disk.qcow2")
                command = [*confined(), "sh", str(_RECIPE), str(draft)]
                run_tool(command, deadline=deadline, where=_WHERE, env={"TMPDIR": scratch})
                draft.chmod(0o444)
                draft.rename(home)
    return home
