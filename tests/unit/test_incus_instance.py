"""What incus is told to make."""

from __future__ import annotations

import base64
import os
import re
import shlex
import signal
import subprocess
from contextlib import suppress
from dataclasses import replace
from ipaddress import IPv4Interface
from pathlib import Path
from typing import Any

import pytest

from pytest_rexxinfra.model import Kind, Resource, Spec, Volume
from pytest_rexxinfra.systems.incus_instance import Surface, Wire, entering, incus_name, instance, resource_of

SURFACE = Surface("pool", True, ("eth0", "eth1"))
SECRET = 'it\'s\na "secret" $HOME `id` \\ '


def _lease(name: str = "web") -> Resource:
    lease = Resource.lease_for("incus", Kind.MACHINE, "run", name)
    return replace(lease, id=incus_name(lease.name), image="mini")


def _body(spec: Spec, wire: Wire | None = None, surface: Surface = SURFACE) -> Any:
    return instance(_lease(), spec, {"type": "image"}, surface, wire)


def _raw(spec: Spec, wire: Wire | None = None) -> dict[str, str]:
    lines = _body(spec, wire)["config"]["raw.lxc"].splitlines()
    return dict(line.split(" = ", 1) for line in lines)


def _script(spec: Spec) -> str:
    packed = re.fullmatch(r'/bin/sh -c eval\t"\$\(echo\t(\S+)\|base64\t-d\)"', _raw(spec)["lxc.init.cmd"])
    assert packed is not None
    return base64.b64decode(packed[1]).decode()


@pytest.mark.parametrize("name", ["web", "Web_1.x", "m-", "x" * 200, "9", "a..b"])
def test_names_that_incus_takes(name: str) -> None:
    first, second = (Resource.lease_for("incus", Kind.MACHINE, "run", name) for _ in range(2))
    for each in (first, second):
        assert re.fullmatch(r"[a-z][a-z0-9-]{0,61}[a-z0-9]", incus_name(each.name))
        assert incus_name(each.name).endswith(each.lease)
    assert incus_name(first.name) != incus_name(second.name)
    assert incus_name(Resource.lease_for("incus", Kind.MACHINE, "run").name).startswith("rexx-")


def test_a_resource_is_known_again_by_its_configuration() -> None:
    lease = _lease("Web_1")
    body = instance(lease, Spec(), {}, SURFACE, None)
    rounded = replace(lease, created=float(f"{lease.created:.3f}"), expires=float(f"{lease.expires:.0f}"))
    assert resource_of(body["config"], body["name"]) == rounded
    assert resource_of({"user.other": "x"}, "somebody's") is None


def test_no_secret_is_readable_and_process_1_gets_it(tmp_path: Path) -> None:
    spec = Spec.of(env={"SECRET": SECRET, "OTHER": "x"}, command="echo hello")
    assert "secret" not in str(_body(spec))
    name, _, value = _raw(spec)["lxc.environment"].partition("=")
    command = [*entering(["sh", "-c", 'printf %s "$SECRET$OTHER"; env >env'])]
    said = subprocess.run(command, env={name: value, "PATH": "/usr/bin:/bin"}, cwd=tmp_path, stdout=-1, check=True)
    assert said.stdout.decode() == f"{SECRET}x"
    assert name not in (tmp_path / "env").read_text()


def test_without_an_environment_the_command_is_left_as_it_is() -> None:
    words = ["printf", "%s.", "two words", "", "'"]
    assert subprocess.run(entering(words), stdout=-1, check=True).stdout == b"two words..'."


def test_process_1_waits_and_ends_when_told() -> None:
    trap, _, rest = _script(Spec()).splitlines()[-1].partition(";")
    process = subprocess.Popen(["sh", "-c", f"{trap}; echo up; {rest}"], stdout=-1, start_new_session=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        process.terminate()
        assert process.wait(10) == 0
    finally:
        # In a machine the end of process 1 is that of all others too.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.parametrize("command", ["exit 3", ["sh", "-c", "exit 3"], "kill -9 $$"])
def test_process_1_ends_with_the_main_process(command: str | list[str], tmp_path: Path) -> None:
    main = _script(Spec.of(command=command)).partition("trap ")[2]
    assert subprocess.run(["sh", "-c", f"trap {main}"], check=False).returncode == (3 if "3" in str(command) else 137)


def test_the_main_process_may_have_a_user() -> None:
    script = _script(Spec.of(command=["echo", "two words"], user="nobody"))
    line = next(line for line in script.splitlines() if line.startswith("su "))
    assert shlex.split(line)[:5] == ["su", "-s", "/bin/sh", "nobody", "-c"]
    assert shlex.split(line)[5] == "exec echo 'two words'"


def test_a_booted_machine_has_the_init_of_its_image() -> None:
    assert "lxc.init.cmd" not in _raw(Spec(boot=True))
    assert "lxc.mount.entry" not in _raw(Spec(boot=True))


def test_limits() -> None:
    config = _body(Spec.of(memory="64m", cpus=0.5, pids=7))["config"]
    assert config["limits.memory"] == f"{64 << 20}B"
    assert config["limits.cpu.allowance"] == "50ms/100ms"
    assert config["limits.processes"] == "7"
    assert not [key for key in _body(Spec())["config"] if key.startswith("limits.")]


def test_interfaces_of_the_profile_are_there_unless_a_network_is_asked_for() -> None:
    assert _body(Spec())["devices"] == {}
    assert _body(Spec(network="none"))["devices"] == {"eth0": {"type": "none"}, "eth1": {"type": "none"}}
    wire = Wire("rexx-net-1", IPv4Interface("172.29.1.2/16"))
    devices = _body(Spec(network="rexx-net-1"), wire)["devices"]
    assert devices["eth0"] == {"type": "nic", "network": "rexx-net-1", "name": "eth0"}
    assert devices["eth1"] == {"type": "none"}
    assert _raw(Spec(hostname="web"), wire)["lxc.net.0.ipv4.address"] == "172.29.1.2/16 172.29.255.255"
    assert _raw(Spec(hostname="web"), wire)["lxc.uts.name"] == "web"


def test_a_profile_without_a_disk() -> None:
    devices = _body(Spec(), surface=Surface("pool", False, ()))["devices"]
    assert devices == {"root": {"type": "disk", "path": "/", "pool": "pool"}}


def test_volumes_and_ports() -> None:
    spec = Spec(volumes=(Volume("/srv", "/in", True), Volume("rexx-Vol-0123456789ab", "/data")), ports=(80,))
    devices = _body(spec)["devices"]
    shown = {"type": "disk", "path": "/in", "readonly": "true", "shift": "true", "source": "/srv"}
    assert devices["volume-0"] == shown
    assert devices["volume-1"]["source"] == "rexx-vol-0123456789ab"
    assert devices["volume-1"]["pool"] == "pool"
    assert devices["port-80"]["connect"] == "tcp:127.0.0.1:80"
    assert re.fullmatch(r"tcp:127\.0\.0\.1:\d+", devices["port-80"]["listen"])
    assert "shift" not in _body(replace(spec, privileged=True))["devices"]["volume-0"]
