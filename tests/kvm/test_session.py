"""Virtual machines of an ordinary user: libvirt's session, whose daemon starts when it is asked."""

from __future__ import annotations

import subprocess
from pathlib import Path

from pytest_rexxinfra.deadline import Deadline
from pytest_rexxinfra.events import Events
from pytest_rexxinfra.kvm.kit import kit

from .. import rootless
from .conftest import required

_TEST = """
def test_first(kvm_vm):
    assert kvm_vm.rexx("SAY 6*7").lines == ["42"]


def test_second(kvm_vm, rexx_lab):
    assert kvm_vm.status.details["made"] == "from memory"
    kvm_vm.write("/root/state", "one")
    kvm_vm.snapshot("one", memory=True)
    kvm_vm.write("/root/state", "two")
    kvm_vm.restore("one")
    assert kvm_vm.read("/root/state") == b"one"
"""


def test_an_ordinary_user() -> None:
    with required(), rootless.user() as user:
        # The kit is in the cache that the user gets a copy of.
        kit(Events(), Deadline(300))
        folder = user.home / "work"
        folder.mkdir()
        python, path = rootless.python(user, folder, "libvirt", "pycdlib")
        (folder / "test_inner.py").write_text(_TEST)
        subprocess.run(["chown", "--recursive", user.name, str(folder)], check=True)
        options = ["--rexx-target=kvm://session", "--rexx-require=kvm", "--rexx-build=regina", "--rexx-pool=0"]
        options += ["--rexx-kvm-acceleration=tcg", "--rexx-image=mini"]
        environment = {
            "PYTHONPATH": path,
            "PYTHONDONTWRITEBYTECODE": "1",
            "REXX_CACHE": str(rootless.cache(user, "kvm")),
            "REXX_PROVISION_TIMEOUT": "300",
        }
        command = user.command(python, "-m", "pytest", "-p", "no:cacheprovider", "-q", *options, **environment)
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=500)
        assert "2 passed" in done.stdout, done.stdout + done.stderr
        assert "left 0" in done.stdout
        assert [each.name for each in Path(user.home, ".local/share/libvirt/images/rexxinfra").glob("rexx-*")] == []
