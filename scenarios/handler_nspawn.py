"""The handler for systemd-nspawn, which runs in a throw-away machine: it writes to /var/lib/machines."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from pytest_rexxinfra import Lab, Machine, Spec
from pytest_rexxinfra.errors import SystemUnavailable
from pytest_rexxinfra.model import Capability
from pytest_rexxinfra.rexx.build import Build

from .handler_talk import MachineTalk, script
from .handlers import Claim, Finding, Operation, Scene, Seen, hold

MACHINES = "/var/lib/machines"
FOLDER = "/var/tmp/handler"
AS_ROOT = "command -v sudo || { printf '#!/bin/sh\\nexec \"$@\"\\n' >/usr/bin/sudo && chmod 755 /usr/bin/sudo; }"
"""The handler says sudo before everything; the user of the machine is root already."""


class NspawnScene(Scene):
    """Directories of containers in a machine, looked at with its shell."""

    def __init__(self, machine: Machine) -> None:
        super().__init__(FOLDER)
        self.machine = machine
        machine.write(f"{FOLDER}/sent", self.word)
        there = machine.run("machinectl list").ok
        self.no_systemd = "" if there else "machinectl reaches no systemd from a local machine"

    def place(self, suffix: str = "") -> str:
        return f"{MACHINES}/{self.name}{suffix}"

    def holds(self, test: str) -> bool:
        return self.machine.run(test).ok

    def write_word(self) -> None:
        """Puts a file of our own into the container, to know it again in copies."""
        self.machine.run(f"mkdir -p {self.place()}/etc && echo {self.word} >{self.place()}/etc/word", check=True)

    def write_to_clone(self) -> None:
        self.machine.run(f"echo changed >>{self.place('-clone')}/etc/word", check=True)


def _status(scene: NspawnScene, claim: Claim) -> Seen:
    there = scene.holds("command -v systemd-nspawn")
    return Seen(there and "0 tracked" in claim.text, f"systemd-nspawn is {'' if there else 'not '}installed")


def _created(scene: NspawnScene, claim: Claim) -> Seen:
    place = scene.place()
    if not scene.holds(f"test -d {place}"):
        return Seen(False, "no directory")
    shell = scene.holds(f"test -e {place}/bin/sh || test -e {place}/usr/bin/sh")
    return Seen(
        shell, "a directory with an image" if shell else "a directory without any program: the image is ignored"
    )


def _listed(scene: NspawnScene, claim: Claim) -> Seen:
    result = scene.machine.run("machinectl list --no-legend")
    if not result.ok:
        return Seen(False, "machinectl fails, nobody knows")
    told = re.search(r"Found (\d+)", claim.text)
    return Seen(told is not None and int(told[1]) == len(result.lines), f"machinectl lists {len(result.lines)}")


def _running(scene: NspawnScene, claim: Claim) -> Seen:
    runs = scene.holds(f"machinectl show {scene.name}")
    return Seen(runs, "runs" if runs else "does not run", scene.no_systemd)


def _ran(scene: NspawnScene, claim: Claim) -> Seen:
    ran = scene.holds(f"test -e {scene.place()}/ran")
    return Seen(ran, "ran there" if ran else "the command did not run", scene.no_systemd)


def _stopped(scene: NspawnScene, claim: Claim) -> Seen:
    runs = scene.holds(f"machinectl show {scene.name}")
    return Seen(not runs, "runs" if runs else "does not run", scene.no_systemd)


def _is_there(suffix: str) -> Callable[[NspawnScene, Claim], Seen]:
    def observe(scene: NspawnScene, claim: Claim) -> Seen:
        there = scene.holds(f"test -d {scene.place(suffix)}")
        return Seen(there, f"the directory is {'' if there else 'not '}there")

    return observe


def _is_gone(suffix: str) -> Callable[[NspawnScene, Claim], Seen]:
    def observe(scene: NspawnScene, claim: Claim) -> Seen:
        there = scene.holds(f"test -d {scene.place(suffix)}")
        return Seen(not there, f"the directory is {'still there' if there else 'gone'}")

    return observe


def _copied(suffix: str) -> Callable[[NspawnScene, Claim], Seen]:
    def observe(scene: NspawnScene, claim: Claim) -> Seen:
        same = scene.holds(f"grep -q {scene.word} {scene.place(suffix)}/etc/word")
        return Seen(same, "a directory with the same files" if same else "no such files")

    return observe


def _own_files(scene: NspawnScene, claim: Claim) -> Seen:
    source = scene.machine.run(f"cat {scene.place()}/etc/word").lines
    own = source == [scene.word]
    return Seen(
        own, "files of its own" if own else f"what is written to the clone is in its source too: {len(source)} lines"
    )


def _bases(scene: NspawnScene, claim: Claim) -> Seen:
    there = sum(scene.holds(f"test -d {scene.place(suffix)}") for suffix in ("", "-new"))
    return Seen(f"Found {there} base" in claim.text, f"registered and there: {there}")


def _file(path: str) -> Callable[[NspawnScene, Claim], Seen]:
    def observe(scene: NspawnScene, claim: Claim) -> Seen:
        there = scene.holds(f"test -e {path.format(**scene.names)}")
        return Seen(there, f"the file is {'' if there else 'not '}there")

    return observe


def _no_effect(scene: NspawnScene, claim: Claim) -> Seen:
    return Seen(False, "nothing")


INSIDE = f"{MACHINES}/{{name}}"
NSPAWN = (
    Operation("status", "status", _status),
    Operation("create", "create name={name} image=debian:stable", _created),
    Operation("list", "list", _listed),
    Operation("start", "start name={name}", _running),
    Operation("execute", 'execute name={name} command="touch /ran"', _ran),
    Operation("copy_to", "copy_to container={name} local={folder}/sent remote=/sent", _file(INSIDE + "/sent")),
    Operation(
        "copy_from",
        "copy_from container={name} remote=/etc/word local={folder}/fetched",
        _file("{folder}/fetched"),
        NspawnScene.write_word,
    ),
    Operation("logs", "logs container={name}", _no_effect),
    Operation("deploy_rexx", "deploy_rexx container={name} rexx_binary=/usr/bin/env", _file(INSIDE + "/usr/bin/env")),
    Operation("execute_rexx", 'execute_rexx container={name} script="SAY 1"', _no_effect),
    Operation("clone", "clone source={name} destination={name}-clone", _copied("-clone")),
    Operation(
        "clone, written to",
        "clone source={name}-clone destination={name}-second",
        _own_files,
        NspawnScene.write_to_clone,
    ),
    Operation("register_base", "register_base name={name}", _is_there("")),
    Operation("register_base, new", "register_base name={name}-new", _is_there("-new")),
    Operation("list_bases", "list_bases", _bases),
    Operation("clone_from_base", "clone_from_base base={name} name={name}-based", _copied("-based")),
    *(
        Operation(name, f"{name} name={{name}} container={{name}}", _no_effect)
        for name in ("execute_stdin", "snapshot", "restore", "pause", "resume", "restart", "save_state")
    ),
    Operation("stop", "stop name={name}", _stopped),
    Operation("remove", "remove name={name}", _is_gone("")),
    Operation("cleanup", "cleanup", _is_gone("-clone")),
)


def watch_nspawn(lab: Lab, build: Build, folder: Path) -> list[Finding]:
    """What the handler claims and what is seen of it, in a machine that is thrown away."""
    machine = lab.provision("local", Spec.of(), name="handler", build=build)
    try:
        if Capability.HOSTNAME not in machine.capabilities:
            raise SystemUnavailable(f"the machine would write to the {MACHINES} of this computer", where="local")
        if not machine.run(f"mkdir -p {MACHINES} && : >{MACHINES}/.mine && rm {MACHINES}/.mine").ok:
            raise SystemUnavailable(f"the machine cannot write to {MACHINES}", where="local", hint="run as root")
        machine.run(AS_ROOT, check=True)
        scene = NspawnScene(machine)
        text = script(
            str(build.root / "extras/addresses/nspawn-address/nspawn-address.js"),
            "NSPAWN",
            scene.filled(NSPAWN),
            MachineTalk.gate(FOLDER),
            "EXIT",
        )
        return list(hold(scene, "nspawn", NSPAWN, MachineTalk(machine, text, FOLDER)))
    finally:
        lab.destroy(machine)
