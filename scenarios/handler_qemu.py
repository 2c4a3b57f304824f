"""The handler for QEMU, which runs in a throw-away machine without a network: its VMs end with that."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pytest_rexxinfra import Lab, Machine, Spec
from pytest_rexxinfra.errors import SystemUnavailable
from pytest_rexxinfra.model import Capability
from pytest_rexxinfra.rexx.build import Build

from .handler_talk import CLAIM, MachineTalk, script
from .handlers import SOON, Claim, Finding, Operation, Scene, Seen, hold, soon

FOLDER = "/var/tmp/handler"
INSTANCES = "/home/paul/vm-images/instances"
"""Where the handler puts clones; no command says another place."""
INSTALL = "apt-get install --no-install-recommends qemu-system-x86 qemu-utils"

SECTOR = 512
GUEST = bytes.fromhex(
    "31c0 8ed8 8ec0 bb007e"  # ax, ds and es are 0, bx is the buffer
    "b80102 b90200 ba8000 cd13"  # read the second sector of the first disk
    "ff06007e"  # add 1 to its first word
    "b80103 b90200 ba8000 cd13"  # write it
    "baf701 b0e7 ee"  # have the disk flush it
    "f4 ebfd"  # halt
)
"""All that a VM of ours does when it starts: it counts that on its disk, so that it can be seen from outside."""

STAND_IN_FOR_SSH = '#!/bin/sh\nfor last; do :; done\nexec sh -c "$last"\n'
"""The guest has no ssh server: the commands for it run in the machine around it."""

ECHO = "/usr/bin/echo"
STAND_IN_FOR_ECHO = '#!/bin/sh\ncat >/dev/null\necho "$@"\n'
"""The handler writes to an ``echo`` that may have ended, which ends the script too; this one reads all first."""


class QemuScene(Scene):
    """VMs in a machine, looked at through its processes and their disks."""

    def __init__(self, machine: Machine) -> None:
        super().__init__(FOLDER, instances=INSTANCES)
        self.machine = machine
        self.last = 0
        self.kept = 0
        machine.write(f"{FOLDER}/sent", self.word)
        machine.write(f"{FOLDER}/rexx", f"#!/bin/sh\necho {self.word}\n", 0o755)
        machine.write(f"{FOLDER}/provide.rexx", f"/* rexxjs-vm-base: {self.name}-base */\nSAY '{self.word}'\n")
        raw = GUEST.ljust(SECTOR - 2, b"\0") + b"\x55\xaa"
        machine.write(f"{FOLDER}/raw", raw.ljust(1 << 20, b"\0"))
        for disk in ("disk", "second", "base"):
            machine.run(f"qemu-img convert -f raw -O qcow2 {FOLDER}/raw {FOLDER}/{disk}.qcow2", check=True)

    def holds(self, test: str) -> bool:
        return self.machine.run(test).ok

    def process(self, suffix: str = "") -> str:
        """The command line of the VM's process; empty if it does not run."""
        start = f"^[^ ]*qemu-system-x86_64 -name {self.name}{suffix} "
        each = "for each in /proc/[0-9]*/cmdline; do tr '\\0' ' ' <$each; echo; done 2>/dev/null"
        return self.machine.run(f"{each} | grep '{start}'").stdout.strip()

    def ended(self, suffix: str = "", seconds: float = SOON) -> bool:
        return soon(lambda: not self.process(suffix), seconds)

    def boots(self, disk: str = f"{FOLDER}/disk.qcow2") -> int:
        """How often the guest on this disk has started."""
        copy = f"qemu-img dd --force-share -f qcow2 -O raw bs={SECTOR} skip=1 count=2 if={disk} of={FOLDER}/sector"
        return int(self.machine.run(f"{copy} && od -An -tu2 -N2 {FOLDER}/sector", check=True).stdout)

    def booted(self, claim: Claim) -> bool:
        """Whether the guest has started once more since this was asked last."""
        before = self.last
        more = soon(lambda: self.boots() > before, SOON if claim.success else 0)
        self.last = self.boots()
        return more

    def on_disk(self, disk: str) -> bool:
        """Whether the word is anywhere on the VM's disk."""
        whole = f"{FOLDER}/whole"
        self.machine.run(f"qemu-img convert --force-share -f qcow2 -O raw {disk} {whole}", check=True)
        return self.holds(f"grep -q {self.word} {whole}")

    def image(self, disk: str) -> dict[str, Any] | None:
        """What qemu-img knows of a disk; nothing if there is none."""
        result = self.machine.run(f"qemu-img info --force-share --output=json {disk}")
        found: dict[str, Any] | None = json.loads(result.stdout) if result.ok else None
        return found

    def snapshots(self) -> list[str]:
        found = self.image(f"{FOLDER}/disk.qcow2") or {}
        return [each["name"] for each in found.get("snapshots", [])]

    def wait_in_echo(self) -> None:
        self.machine.run(f"mv {ECHO} {FOLDER}/echo", check=True)
        self.machine.write(ECHO, STAND_IN_FOR_ECHO, 0o755)

    def have_echo_again(self) -> None:
        self.machine.run(f"mv {FOLDER}/echo {ECHO}", check=True)
        self.machine.write(f"{FOLDER}/long.rexx", f"SAY '{self.word}'\n" + f"/* {'long ' * 200}*/\n" * 1000)

    def lead_ssh_here(self) -> None:
        place = self.machine.run("command -v ssh").stdout.strip() or "/usr/bin/ssh"
        self.machine.write(place, STAND_IN_FOR_SSH, 0o755)


def _ask(operation: str, **values: str) -> str:
    """The handler's method for an operation, for it cannot be asked with commands."""
    given = ", ".join(f'{key}="{value}"' for key, value in values.items())
    return f"{operation}({given})"


def _script(module: str, asked: Sequence[tuple[str, str]], gate: str) -> str:
    """As `script`, with methods instead of commands: they set no variables, and return what the handler says."""
    clauses = [f'REQUIRE "{module}"']
    for number, (before, method) in enumerate(asked):
        clauses += [
            f"ADDRESS SYSTEM '{gate.format(number)}'",
            "ADDRESS QEMU",
            *before.splitlines(),
            f"LET answer = {method}",
            f"SAY '{CLAIM}'",
            "SAY answer.errorCode",
            "SAY JSON_STRINGIFY(answer.output)",
            "SAY JSON_STRINGIFY(answer)",
        ]
    return "\n".join([*clauses, f"ADDRESS SYSTEM '{gate.format(len(asked))}'", "EXIT"])


def _running(command: str) -> str:
    return "runs" if command else "does not run"


def _status(scene: QemuScene, claim: Claim) -> Seen:
    there = scene.holds("qemu-system-x86_64 --version")
    return Seen(there and "containers: 0/" in claim.text, f"qemu is {'' if there else 'not '}there, no VM runs")


def _verified(scene: QemuScene, claim: Claim) -> Seen:
    lacking = [name for name, test in NEEDED.items() if not scene.holds(test)]
    how = f"lacking: {', '.join(lacking)}" if lacking else "nothing is lacking"
    return Seen(("issues" in claim.text) == bool(lacking), how)


def _named(scene: QemuScene, claim: Claim) -> Seen:
    there = scene.holds("command -v virt-install")
    told = "not available" not in claim.text
    return Seen(told == there and "debian" in claim.more, f"virt-install is {'' if there else 'not '}there")


def _permitted(scene: QemuScene, claim: Claim) -> Seen:
    there = scene.holds(f"id {scene.word}")
    return Seen(there, f"there is {'a' if there else 'no'} user of this name")


def _created(scene: QemuScene, claim: Claim) -> Seen:
    command = scene.process()
    if not command:
        return Seen(False, "no process")
    as_asked = "-m 64m -smp 1 " in command
    booted = scene.booted(claim)
    started = "has started" if booted else "did not start"
    how = f"a process {'as' if as_asked else 'not as'} asked for, its guest {started}"
    return Seen(as_asked and booted, how)


def _runs(suffix: str) -> Callable[[QemuScene, Claim], Seen]:
    def observe(scene: QemuScene, claim: Claim) -> Seen:
        command = scene.process(suffix)
        return Seen(bool(command), _running(command))

    return observe


def _listed(scene: QemuScene, claim: Claim) -> Seen:
    there = sum(bool(scene.process(suffix)) for suffix in ("", "-c"))
    told = re.search(r"Found (\d+)", claim.text)
    return Seen(told is not None and int(told[1]) == there, f"running: {there}")


def _executed_by_agent(scene: QemuScene, claim: Claim) -> Seen:
    if scene.holds(f"test -e {FOLDER}/proof"):
        return Seen(False, "it ran outside of the guest")
    if claim.text.strip() == scene.word:
        return Seen(True, "RESULT is its output")
    channel = "virtserialport" in scene.process()
    return Seen(False, f"did not run; the VM has {'a' if channel else 'no'} channel for a guest agent")


def _executed_by_ssh(scene: QemuScene, claim: Claim) -> Seen:
    ran = scene.holds(f"grep -q {scene.word} {FOLDER}/proof")
    told = claim.text.strip() == scene.word
    return Seen(ran and told, "ran where ssh leads, RESULT is its output" if ran and told else "did not run")


def _sent(scene: QemuScene, claim: Claim) -> Seen:
    there = scene.on_disk(f"{FOLDER}/disk.qcow2")
    return Seen(there, f"its content is {'' if there else 'not '}on the VM's disk")


def _sent_none(scene: QemuScene, claim: Claim) -> Seen:
    there = scene.holds(f"test -e {FOLDER}/none")
    return Seen(there, f"there is {'a' if there else 'no'} file to copy")


def _file(path: str) -> Callable[[QemuScene, Claim], Seen]:
    def observe(scene: QemuScene, claim: Claim) -> Seen:
        there = scene.holds(f"test -e {path}")
        return Seen(there, f"the file is {'' if there else 'not '}there")

    return observe


def _deployed(path: str) -> Callable[[QemuScene, Claim], Seen]:
    def observe(scene: QemuScene, claim: Claim) -> Seen:
        same = scene.holds(f"cmp -s {FOLDER}/rexx {path}")
        other = scene.holds(f"test -e {path}")
        return Seen(same, "program there" if same else "another program is there" if other else "no program there")

    return observe


def _told_by_rexx(scene: QemuScene, claim: Claim) -> Seen:
    told = scene.word in claim.text
    return Seen(told, "RESULT is its output" if told else "the script did not run")


def _told_nothing(scene: QemuScene, claim: Claim) -> Seen:
    told = scene.name in claim.more and "not available" not in claim.more
    return Seen(told, "told about the VM" if told else "nothing about the VM")


def _no_effect(scene: QemuScene, claim: Claim) -> Seen:
    return Seen(False, f"VM still {_running(scene.process())}")


def _snapped(scene: QemuScene, claim: Claim) -> Seen:
    scene.kept = scene.boots()
    listed = scene.snapshots()
    return Seen("one" in listed, "the disk has it" if "one" in listed else "the disk has none")


def _restored(scene: QemuScene, claim: Claim) -> Seen:
    before, scene.last = scene.last, scene.boots()
    happened = scene.last == scene.kept < before
    return Seen(happened, "the disk is as it was" if happened else "the disk is not as it was")


def _booted(scene: QemuScene, claim: Claim) -> Seen:
    command = scene.process()
    booted = scene.booted(claim)
    return Seen(bool(command) and booted, "runs, its guest has started again" if booted else _running(command))


def _booted_with(word: str, how: str) -> Callable[[QemuScene, Claim], Seen]:
    def observe(scene: QemuScene, claim: Claim) -> Seen:
        command = scene.process()
        booted = scene.booted(claim)
        if not booted:
            return Seen(False, _running(command))
        return Seen(word in command, f"runs {'with' if word in command else 'without'} {how}")

    return observe


def _ended(suffix: str = "") -> Callable[[QemuScene, Claim], Seen]:
    def observe(scene: QemuScene, claim: Claim) -> Seen:
        ended = scene.ended(suffix, SOON if claim.success else 0)
        return Seen(ended, _running("" if ended else "process"))

    return observe


def _registered(scene: QemuScene, claim: Claim) -> Seen:
    found = scene.image(f"{FOLDER}/base.qcow2") or {}
    return Seen(found.get("format") == "qcow2", f"the disk is {found.get('format', 'not there')}")


def _bases(scene: QemuScene, claim: Claim) -> Seen:
    there = int(scene.image(f"{FOLDER}/base.qcow2") is not None)
    return Seen(f"Found {there} base" in claim.text, f"registered and there: {there}")


def _cloned(suffix: str, runs: bool) -> Callable[[QemuScene, Claim], Seen]:
    def observe(scene: QemuScene, claim: Claim) -> Seen:
        disk = f"{INSTANCES}/{scene.name}{suffix}.qcow2"
        found = scene.image(disk)
        if found is None:
            return Seen(False, "no disk")
        based = found.get("backing-filename") == f"{FOLDER}/base.qcow2"
        started = runs and soon(lambda: scene.boots(disk) == 1, SOON if claim.success else 0)
        how = f"a disk {'on' if based else 'without'} the base{', its guest has started' if started else ''}"
        left = "" if claim.success else ", which stays"
        return Seen(based and started == runs, how + left)

    return observe


def _provided(scene: QemuScene, claim: Claim) -> Seen:
    command = scene.process("-p")
    there = bool(command) and scene.on_disk(f"{INSTANCES}/{scene.name}-p.qcow2")
    return Seen(there, f"a clone {_running(command)}, the script is {'' if there else 'not '}on its disk")


def _clean(scene: QemuScene, claim: Claim) -> Seen:
    left = scene.image(f"{INSTANCES}/{scene.name}-b.qcow2") is not None
    return Seen(not left, "the disk of the clone is still there" if left else "gone")


def _none_remain(scene: QemuScene, claim: Claim) -> Seen:
    return Seen("0 remaining" in claim.text, _running(scene.process("-c")))


TIME = re.compile(r"(?<=_)\d{13}")
NEEDED = {"/dev/kvm": "test -e /dev/kvm", "libvirt": "virsh version"}
PROOF = "echo {word} | tee {folder}/proof"
TARGET = f"{FOLDER}/guest-rexx"
OTHER = "/usr/bin/env"


def _create(disk: str, suffix: str) -> str:
    return _ask("create", image=f"{{folder}}/{disk}.qcow2", name=f"{{name}}{suffix}", memory="64m", cpus="1")


def _deploy(target: str) -> str:
    return _ask("deploy_rexx", vm="{name}", rexx_binary="{folder}/rexx", target=target)


def _ask_rexx(script: str = "provide", **values: str) -> str:
    return _ask("execute_rexx", vm="{name}", script_file=f"{{folder}}/{script}.rexx", **values)


def _gone(suffix: str) -> str:
    return f"ADDRESS SYSTEM 'while [ -e /tmp/{{name}}{suffix}.pid ]; do sleep 0.02; done'\nADDRESS QEMU\n"


def _stop(suffix: str = "") -> str:
    return f"LET x = {_ask('stop', name=f'{{name}}{suffix}')}\n" + _gone(suffix)


def _clone(suffix: str, **values: str) -> str:
    return _ask("clone", base="{name}-base", name=f"{{name}}{suffix}", **values)


NAME = {"name": "{name}"}
SNAPSHOT = {**NAME, "snapshot_name": "one"}
CONFIGURE_SSH = _ask("configure_ssh", host="127.0.0.1", **NAME)
COMMAND = Operation("any, as a command", "status", _status)
QEMU_METHODS = (
    Operation("status", _ask("status"), _status),
    Operation("verify_host", _ask("verify_host"), _verified),
    Operation("list_ostypes", _ask("list_ostypes"), _named),
    Operation("setup_permissions", _ask("setup_permissions", username="{word}"), _permitted),
    Operation("create", _create("disk", ""), _created),
    Operation("list", _ask("list"), _listed),
    Operation("create, second at a time", _create("second", "-b"), _runs("-b")),
    Operation("execute", _ask("execute", vm="{name}", command=PROOF), _executed_by_agent),
    Operation("copy_to", _ask("copy_to", vm="{name}", local="{folder}/sent", remote="/sent"), _sent),
    Operation("copy_to, no such file", _ask("copy_to", vm="{name}", local="{folder}/none", remote="/none"), _sent_none),
    Operation(
        "copy_from",
        _ask("copy_from", vm="{name}", remote="/etc/word", local="{folder}/fetched"),
        _file(f"{FOLDER}/fetched"),
    ),
    Operation("install_guest_agent", _ask("install_guest_agent", **NAME), _executed_by_agent),
    Operation("deploy_rexx", _deploy(TARGET), _deployed(TARGET)),
    Operation("execute_rexx", _ask_rexx(), _told_by_rexx),
    Operation(
        "execute, by ssh",
        _ask("execute", vm="{name}", command=PROOF),
        _executed_by_ssh,
        QemuScene.lead_ssh_here,
        f"LET x = {CONFIGURE_SSH}",
    ),
    Operation("deploy_rexx, by ssh", _deploy(TARGET), _deployed(TARGET)),
    Operation("deploy_rexx, over another program", _deploy(OTHER), _deployed(OTHER)),
    Operation("execute_rexx, by ssh", _ask_rexx(), _told_by_rexx, QemuScene.wait_in_echo),
    Operation("execute_rexx, progress", _ask_rexx(progress_callback="true"), _told_by_rexx),
    Operation("logs", _ask("logs", vm="{name}"), _told_nothing),
    Operation("process_stats", _ask("process_stats"), _told_nothing),
    *(
        Operation(name, _ask(name, vm="{name}", base="{name}", **NAME), _no_effect)
        for name in ("pause", "resume", "save_state", "restore_state", "execute_stdin", "clone_from_base")
    ),
    Operation("snapshot, while it runs", _ask("snapshot", **SNAPSHOT), _snapped),
    Operation("restart", _ask("restart", **NAME), _booted),
    Operation(
        "register_base",
        _ask("register_base", name="{name}-base", disk="{folder}/base.qcow2", memory="64m", cpus="1"),
        _registered,
    ),
    Operation("list_bases", _ask("list_bases"), _bases),
    Operation("clone, not started", _clone("-a", no_start="true"), _cloned("-a", False)),
    Operation("clone, second at a time", _clone("-d"), _cloned("-d", True)),
    Operation("stop", _ask("stop", **NAME), _ended()),
    Operation("snapshot", _ask("snapshot", **SNAPSHOT), _snapped),
    Operation("start", _ask("start", **NAME), _booted),
    Operation("stop_if_running", _ask("stop_if_running", **NAME), _ended()),
    Operation("restore", _ask("restore", **SNAPSHOT), _restored),
    Operation("start_if_stopped", _ask("start_if_stopped", **NAME), _booted),
    Operation(
        "start, after attach_iso",
        _ask("start", **NAME),
        _booted_with("/raw", "the ISO"),
        before=f"{_stop()}LET x = {_ask('attach_iso', iso_path='{folder}/raw', **NAME)}",
    ),
    Operation(
        "start, after configure_network",
        _ask("start", **NAME),
        _booted_with("-netdev bridge", "the bridge"),
        before=f"{_stop()}LET x = {_ask('configure_network', type='bridge', bridge_name='br0', **NAME)}",
    ),
    Operation("remove", _ask("remove", **NAME), _ended()),
    Operation("clone", _clone("-b"), _cloned("-b", True)),
    Operation("cleanup", _ask("cleanup"), _clean, before=_stop("-b")),
    Operation("provision", _ask("provision", script="{folder}/provide.rexx", name="{name}-p"), _provided),
    Operation("cleanup all", _ask("cleanup", all="true"), _ended("-p")),
    Operation(
        "list, one ended outside",
        _ask("list"),
        _listed,
        before=f"LET x = {_create('second', '-c')}\nADDRESS SYSTEM 'kill $(cat /tmp/{{name}}-c.pid)'\n{_gone('-c')}",
    ),
    Operation("remove, one ended outside", _ask("remove", name="{name}-c"), _ended("-c")),
    Operation("cleanup all, one ended outside", _ask("cleanup", all="true"), _none_remain),
    Operation(
        "execute_rexx, long script",
        _ask_rexx("long"),
        _told_by_rexx,
        QemuScene.have_echo_again,
        f"LET x = {_create('disk', '')}\nLET x = {CONFIGURE_SSH}\nLET x = {_deploy(OTHER)}",
    ),
)
QEMU = (COMMAND, *QEMU_METHODS)


def _plain(finding: Finding) -> Finding:
    """Without times in the names of files, and of an interpreter that ended the cause only."""
    how, colon, words = finding.observed.partition(": ")
    cause = words.strip().splitlines()[-1] if "\n" in words else words
    return replace(finding, claimed=TIME.sub("N", finding.claimed), observed=how + colon + cause)


def watch_qemu(lab: Lab, build: Build, folder: Path) -> list[Finding]:
    """What the handler claims and what is seen of it, in a machine that is thrown away."""
    if Capability.NETWORK_NONE not in lab.driver("local").capabilities:
        raise SystemUnavailable(f"the machine would write to the {INSTANCES} of this computer", where="local")
    machine = lab.provision("local", Spec.of(network="none"), name="handler", build=build)
    try:
        if not machine.run("command -v qemu-system-x86_64 && command -v qemu-img").ok:
            raise SystemUnavailable("the handler runs qemu, which is not on this computer", where="local", hint=INSTALL)
        if not machine.run(f"mkdir -p {INSTANCES}").ok:
            raise SystemUnavailable(f"the machine cannot write to {INSTANCES}", where="local", hint="run as root")
        scene = QemuScene(machine)
        module = str(build.root / "extras/addresses/qemu-address/qemu-address.js")
        own = f"{FOLDER}/command"
        text = script(module, "QEMU", scene.filled([COMMAND]), MachineTalk.gate(own), "EXIT")
        asked = list(hold(scene, "qemu", [COMMAND], MachineTalk(machine, text, own)))
        text = _script(module, scene.filled(QEMU_METHODS), MachineTalk.gate(FOLDER))
        asked += hold(scene, "qemu", QEMU_METHODS, MachineTalk(machine, text, FOLDER))
        return [_plain(each) for each in asked]
    finally:
        lab.destroy(machine)
