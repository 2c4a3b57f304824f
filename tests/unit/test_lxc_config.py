"""What LXC is told about a machine."""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_rexxinfra import Spec
from pytest_rexxinfra.idmap import IdMap
from pytest_rexxinfra.systems.cgroup import Cgroup
from pytest_rexxinfra.systems.launch import Bind, Launch
from pytest_rexxinfra.systems.lxc_config import PLACE, gathering, settings

IDMAP = IdMap(200000, 300000)


@pytest.fixture
def what(tmp_path: Path) -> Launch:
    return Launch(
        name="rexx-1",
        lease="1",
        folder=tmp_path,
        root=f"{tmp_path}/it's the root",
        hostname="web",
        spec=Spec(),
        address="172.29.130.7",
        binds=(),
        holder=os.getpid(),
        cgroup=Cgroup({}),
        log=tmp_path / "log",
    )


def lines(what: Launch, idmap: IdMap | None = IDMAP) -> list[str]:
    return settings(what, idmap).splitlines()


def test_users_of_its_own_and_a_network_that_they_rule(what: Launch) -> None:
    found = lines(what)
    assert {"lxc.idmap = u 0 200000 65536", "lxc.idmap = g 0 300000 65536", "lxc.uts.name = web"} <= set(found)
    assert {"lxc.net.0.type = phys", "lxc.net.0.ipv4.address = 172.29.130.7/16"} <= set(found)
    shared = lines(replace(what, spec=Spec(network="rexx-net"), address="172.29.3.2"))
    assert "lxc.net.0.ipv4.address = 172.29.3.2/24" in shared


def test_privileged_has_the_namespace_of_its_holder(what: Launch) -> None:
    found = lines(what, None)
    assert "lxc.net.0.type = none" in found
    assert not [line for line in found if "idmap" in line]


def test_users_do_not_rule_a_network_with_limited_egress(what: Launch) -> None:
    limited = replace(what, spec=Spec(egress=()))
    found = lines(limited)
    assert {"lxc.net.0.type = none", f"lxc.mount.entry = {PLACE}/sys sys none rbind,ro 0 0"} <= set(found)
    assert f"{PLACE}/sys" in gathering(limited)
    assert f"{PLACE}/sys" not in "\n".join([*lines(what), gathering(what)])


def test_other_networks(what: Launch) -> None:
    assert "lxc.net.0.type = empty" in lines(replace(what, spec=Spec(network="none"), address=""))
    host = lines(replace(what, spec=Spec(network="host"), address="127.0.0.1"))
    assert "lxc.net.0.type = none" in host
    assert "lxc.mount.entry = /sys sys none rbind,ro 0 0" in host
    assert not [line for line in host if "sys:mixed" in line]


def test_values_of_the_environment_are_in_no_file(what: Launch) -> None:
    found = settings(replace(what, spec=Spec(env={"TOKEN": "s3cret\nlxc.idmap =", "PATH": "/opt/bin"})), IDMAP)
    assert "s3cret" not in found
    assert "lxc.environment = TOKEN\n" in found
    assert "lxc.environment = PATH=/opt/bin\n" in found


def test_volumes_belong_to_the_users_of_the_machine(what: Launch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    binds = (Bind(str(tmp_path), "/a b", read_only=True), Bind(str(tmp_path / "file"), "/etc/conf"))
    entries = [line for line in lines(replace(what, binds=binds)) if PLACE in line and "mount.entry" in line]
    assert entries == [
        f"lxc.mount.entry = {PLACE}/0 a\\040b none bind,create=dir,ro,idmap=container 0 0",
        f"lxc.mount.entry = {PLACE}/1 etc/conf none bind,create=file,idmap=container 0 0",
    ]
    assert "idmap" not in settings(replace(what, binds=binds), None)


def test_what_boots_has_control_groups(what: Launch) -> None:
    booting = lines(replace(what, spec=Spec(boot=True)))
    assert "lxc.init.cmd = /sbin/init" in booting
    assert "lxc.mount.auto = proc:mixed cgroup:mixed sys:mixed" in booting


def test_main_process_of_a_user(what: Launch) -> None:
    root = Path(what.root)
    (root / "etc").mkdir(parents=True)
    (root / "etc/passwd").write_text("web:x:33:34::/srv:/bin/sh\n")
    found = lines(replace(what, spec=Spec(command=("true",), user="web")))
    assert {"lxc.init.uid = 33", "lxc.init.gid = 34", "lxc.environment = HOME=/srv"} <= set(found)


def test_paths_are_words_for_the_shell(what: Launch) -> None:
    script = gathering(replace(what, binds=(Bind("/srv/$(touch oops); x", "/x"), Bind("/srv", "/y"))))
    shown = subprocess.run(["sh", "-c", f"mount() {{ printf '%s\\n' \"$@\"; }}; {script}"], capture_output=True)
    assert {what.root, "/srv/$(touch oops); x"} <= set(shown.stdout.decode().splitlines())
