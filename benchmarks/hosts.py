"""Twenty hosts over SSH at once, next to paramiko itself, Fabric, pyinfra and Ansible as their users write them."""

from __future__ import annotations

import logging
import os
import shlex
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import paramiko

from pytest_rexxinfra import Lab, Machine
from pytest_rexxinfra.settings import Settings
from tests.sshd import Sshd
from tests.sshd import hosts as real_hosts

from .bench import Bench
from .measure import Case, Goal, Row, Samples, Unmeasured, in_turns

NAME = "hosts"

_HOSTS = 20
_SIZE = 1_000_000
_SLOW_ROUNDS = 5
_PARAMIKO = Goal(1.2)
_FRAMEWORK = Goal(1 / 3)
_AHEAD = Goal(1)
_ANSIBLE = Goal(1 / 10)

_PLAYBOOK = """\
- hosts: all
  gather_facts: false
  tasks:
    - ansible.builtin.shell: mkdir -p /tmp/bench
    - ansible.builtin.copy: {src: "%s", dest: /tmp/bench/app, mode: "0644"}
    - ansible.builtin.script: %s
    - ansible.builtin.shell: test -s /tmp/bench/app
"""
_REXXFILE = (
    "RUN mkdir -p /tmp/bench\nPUT app /tmp/bench/app 0644\nRUN SCRIPT script.sh\nRUN CMD test -s /tmp/bench/app\n"
)


class _Fleet:
    """The hosts, a machine of ours on each, and what every peer needs to reach them."""

    def __init__(self, folder: Path, hosts: Sequence[Sshd], lab: Lab) -> None:
        self.folder = folder
        self.hosts = hosts
        self.lab = lab
        self.pool = ThreadPoolExecutor(len(hosts))
        self.machines: list[Machine] = list(self.pool.map(lambda each: lab.provision(each.target), hosts))
        self.app = folder / "app"
        self.app.write_bytes(os.urandom(_SIZE))
        (folder / "script.sh").write_text("#!/bin/sh\nwc -c </tmp/bench/app >/tmp/bench/size\n")
        (folder / "Rexxfile").write_text(_REXXFILE)
        (folder / "play.yml").write_text(_PLAYBOOK % (self.app, folder / "script.sh"))

    def each(self, do: Callable[[Any], object], things: Sequence[Any]) -> None:
        list(self.pool.map(do, things))

    def paramiko_clients(self, no_delay: bool) -> list[paramiko.SSHClient]:
        clients = [paramiko.SSHClient() for _ in self.hosts]

        def connect(pair: tuple[paramiko.SSHClient, Sshd]) -> None:
            client, host = pair
            client.load_host_keys(str(host.known_hosts))
            client.connect("127.0.0.1", host.port, "root", key_filename=str(host.key), allow_agent=False)
            transport = client.get_transport()
            if no_delay and transport and isinstance(transport.sock, socket.socket):
                transport.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        self.each(connect, list(zip(clients, self.hosts, strict=True)))
        return clients


def rows(bench: Bench) -> Iterator[Row]:
    folder = bench.folder / NAME
    folder.mkdir()
    with ExitStack() as stack:
        hosts = stack.enter_context(real_hosts(_HOSTS))
        os.environ.update(hosts[0].environment)
        lab = stack.enter_context(Lab(Settings.load({"ssh_identity": [str(hosts[0].key)]})))
        fleet = _Fleet(folder, hosts, lab)
        stack.callback(fleet.pool.shutdown)
        peers = {name: make(fleet) for name, make in _PEERS.items() if find_spec(name)}
        yield from _true(bench, fleet, peers)
        yield from _file(bench, fleet, peers)
        yield from _whole_runs(bench, fleet)


def _true(bench: Bench, fleet: _Fleet, peers: dict[str, tuple[Case, Case]]) -> Iterator[Row]:
    plain, quick = fleet.paramiko_clients(False), fleet.paramiko_clients(True)
    cases: dict[str, Case] = {
        "ours": lambda: fleet.each(lambda machine: machine.run("true", check=True), fleet.machines),
        "paramiko": lambda: fleet.each(_paramiko_true, plain),
        "paramiko, TCP_NODELAY": lambda: fleet.each(_paramiko_true, quick),
        **{name: case for name, (case, _) in peers.items()},
    }
    found = in_turns(bench.rounds, cases, f"{NAME} true")
    goals = {"paramiko": _PARAMIKO, "paramiko, TCP_NODELAY": _PARAMIKO}
    yield from _compared(f"`true` on {_HOSTS} hosts", found, lambda name: goals.get(name, _FRAMEWORK))
    for client in [*plain, *quick]:
        client.close()


def _paramiko_true(client: paramiko.SSHClient) -> None:
    _, out, _ = client.exec_command("true")
    if out.channel.recv_exit_status():
        raise Unmeasured("paramiko: true failed")


def _file(bench: Bench, fleet: _Fleet, peers: dict[str, tuple[Case, Case]]) -> Iterator[Row]:
    cases: dict[str, Case] = {
        "ours": lambda: fleet.each(lambda machine: machine.put(fleet.app, "/tmp/app"), fleet.machines),
        **{name: case for name, (_, case) in peers.items()},
    }
    found = in_turns(bench.rounds, cases, f"{NAME} file")
    yield from _compared(f"a file of 1 MB to {_HOSTS} hosts", found, lambda _: _AHEAD)


def _whole_runs(bench: Bench, fleet: _Fleet) -> Iterator[Row]:
    names = ",".join(f"ssh://{each.address()}" for each in fleet.hosts)
    words = [sys.executable, "-m", "pytest_rexxinfra.cli", "apply", "Rexxfile", "-q", "-H", names]
    cases: dict[str, Case] = {"ours": lambda: _process(words, fleet.folder)}
    if find_spec("ansible"):
        cases["ansible-playbook"] = _ansible(fleet)
    found = in_turns(min(bench.rounds, _SLOW_ROUNDS), cases, f"{NAME} apply")
    what = f"the same four tasks on {_HOSTS} hosts, a whole run"
    if len(found) == 1:
        yield Row.unmeasured(what, "Ansible is not installed", _ANSIBLE)
    yield from _compared(what, found, lambda _: _ANSIBLE)


def _compared(what: str, found: dict[str, Samples], goal: Callable[[str], Goal]) -> Iterator[Row]:
    for name, samples in found.items():
        if name != "ours":
            yield Row.compare(what, found["ours"], name, samples, goal(name))


def _process(words: Sequence[str], folder: Path, **environment: str) -> None:
    done = subprocess.run(
        words, cwd=folder, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise Unmeasured(f"{shlex.join(words[:4])}: {(done.stderr or done.stdout).strip()[-400:]}")


def _fabric(fleet: _Fleet) -> tuple[Case, Case]:
    """A group that is connected already, as in a task that runs command after command."""
    from fabric import Connection, ThreadingGroup

    logging.getLogger("paramiko").setLevel(logging.CRITICAL)
    options = {"key_filename": str(fleet.hosts[0].key), "allow_agent": False}
    made = [Connection("127.0.0.1", "root", each.port, connect_kwargs=options) for each in fleet.hosts]
    group = ThreadingGroup.from_connections(made)
    return lambda: group.run("true", hide=True), lambda: group.put(str(fleet.app), "/tmp/app")


def _pyinfra(fleet: _Fleet) -> tuple[Case, Case]:
    """Its command, with an inventory; it connects in each run."""
    data = [
        (
            each.name,
            {
                "ssh_hostname": "127.0.0.1",
                "ssh_port": each.port,
                "ssh_user": "root",
                "ssh_key": str(each.key),
                "ssh_known_hosts_file": str(each.known_hosts),
            },
        )
        for each in fleet.hosts
    ]
    (fleet.folder / "inventory.py").write_text(f"hosts = {data!r}\n")
    words = [str(Path(sys.executable).with_name("pyinfra")), "--yes", "inventory.py"]
    put = ["files.put", str(fleet.app), "/tmp/app", "force=True"]
    return (
        lambda: _process([*words, "exec", "--", "true"], fleet.folder),
        lambda: _process([*words, *put], fleet.folder),
    )


def _ansible(fleet: _Fleet) -> Case:
    lines = [
        f"{each.name} ansible_host=127.0.0.1 ansible_port={each.port} ansible_user=root "
        f"ansible_ssh_private_key_file={each.key} "
        f"ansible_ssh_common_args='-o UserKnownHostsFile={each.known_hosts}' "
        "ansible_python_interpreter=/usr/bin/python3"
        for each in fleet.hosts
    ]
    (fleet.folder / "inventory.ini").write_text("\n".join([*lines, ""]))
    command = str(Path(sys.executable).with_name("ansible-playbook"))
    words = [command, "-i", "inventory.ini", "-f", str(_HOSTS), "play.yml"]
    return lambda: _process(words, fleet.folder, ANSIBLE_PIPELINING="1")


_PEERS: dict[str, Callable[[_Fleet], tuple[Case, Case]]] = {"fabric": _fabric, "pyinfra": _pyinfra}
