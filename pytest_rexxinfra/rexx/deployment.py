"""Putting a build into a machine: once per machine, or once per image where the system can bake."""

from __future__ import annotations

import hashlib
import json
import secrets
import shlex
import tarfile
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import IO, TYPE_CHECKING

from ..deadline import Deadline
from ..errors import BuildError
from ..processor import ASK, Processor, elf_machine

if TYPE_CHECKING:
    from ..machine import Machine
    from .builds import Build

HOME = "/opt/rexxinfra"
"""Where everything that we put into a machine lives, unless its driver has another place."""

HOOKS = ("exit_value.cjs", "routines.cjs")
"""What node loads before a RexxJS checkout: for every script, and for test runs as well."""


def build_home(build: Build, home: str = HOME) -> str:
    """Where a build lives in a machine; the same content is always at the same place."""
    return f"{home}/builds/{build.digest[:16]}"


@dataclass(frozen=True)
class Deployment:
    """A build that is ready to run in one machine: how to start it, and what its start needs."""

    build: Build
    root: str
    """Where the files of the build are in the machine."""
    argv: tuple[str, ...]
    runner_argv: tuple[str, ...]
    """The same for RexxJS's test runner, with what tells of each routine where that can be seen."""
    exit_value_file: bool
    """Whether the interpreter writes its EXIT value to the file that ``REXXINFRA_EXIT_VALUE`` names."""

    def at(self, root: str) -> Deployment:
        """The same with a copy of the build at ``root``."""
        there = {word: word.replace(f"{self.root}/", f"{root}/", 1) for word in (*self.argv, *self.runner_argv)}
        return replace(
            self,
            root=root,
            argv=tuple(there[word] for word in self.argv),
            runner_argv=tuple(there[word] for word in self.runner_argv),
        )


def deploy(machine: Machine, build: Build, deadline: Deadline) -> Deployment:
    """Make sure that ``build`` is in ``machine``, with a node to run it when it needs one.

    Costs one short command when it is there already. Raises `BuildError` when it cannot run there.
    """
    if machine.sees(str(build.root)):
        node = _controller_node(machine, deadline) if build.needs_node else ""
        return _deployment(build, str(build.root), node, str(_package()))
    home = machine.driver.home(machine.resource)
    root = build_home(build, home)
    hooks = f"{home}/hooks-{hooks_digest()}" if build.kind == "checkout" else ""
    look = [f"[ -e {shlex.quote(f'{root}/{build.entry}')} ] && echo build"]
    if not build.needs_node:
        look[0] += f" || {ASK}"
    if hooks:
        look.append(f"[ -e {hooks} ] && echo hooks")
    if build.needs_node:
        look.append(f"command -v node || {{ [ -x {home}/node/bin/node ] && echo {home}/node/bin/node; }} || {ASK}")
    found = machine.run("; ".join(look), timeout=deadline.remaining()).lines
    node = next((line for line in found if line.startswith("/")), "")
    processor = next(filter(None, map(Processor.parse, found)), None)
    suited = _suited(machine, build, processor, deadline) if processor and not build.needs_node else build
    if suited is not build:
        return deploy(machine, suited, deadline)
    if "build" not in found:
        with machine.step(f"deploy {build.label}"):
            _copy(machine, build, root, deadline)
    if hooks and "hooks" not in found:
        _bring_hooks(machine, hooks)
    if build.needs_node and not node:
        node = _bring_node(machine, f"{home}/node/bin/node", processor, deadline)
    return _deployment(build, root, node, hooks)


def _deployment(build: Build, root: str, node: str, hooks: str) -> Deployment:
    argv = runner = tuple(build.command(root, node))
    if build.kind == "checkout":
        exit_value, routines = (("-r", f"{hooks}/{name}") for name in HOOKS)
        argv, runner = (argv[0], *exit_value, *argv[1:]), (argv[0], *exit_value, *routines, *argv[1:])
    return Deployment(build, root, argv, runner, exit_value_file=build.kind == "checkout")


@cache
def hooks_digest() -> str:
    """Changes when what we load into RexxJS changes."""
    whole = hashlib.sha256()
    for name in HOOKS:
        whole.update((_package() / name).read_bytes())
    return whole.hexdigest()[:8]


def _package() -> Path:
    return Path(str(files("pytest_rexxinfra.rexx")))


def _bring_hooks(machine: Machine, hooks: str) -> None:
    texts = {f"{hooks}.partial/{name}": (_package() / name).read_text("utf-8") for name in HOOKS}
    write = " && ".join(f"printf %s {shlex.quote(text)} >{place}" for place, text in texts.items())
    command = f"rm -rf {hooks} && mkdir -p {hooks}.partial && {write} && mv {hooks}.partial {hooks}"
    machine.run_reporting(command, shown=f"write {hooks}")


def _copy(machine: Machine, build: Build, root: str, deadline: Deadline) -> None:
    """Copy the files of a build as one tar stream; the directory appears only when it is complete."""
    # Machines of one host may share the place, and threads may bring the same build at once.
    draft = f"{root}.{secrets.token_hex(4)}"
    # A host that is not ours may be far away.
    compressed = machine.driver.lasting
    with tempfile.TemporaryFile() as archive:
        with _tar(archive, compressed) as tar:
            for name in build.files():
                tar.add(build.root / name, arcname=name, recursive=False, filter=_anonymous)
        archive.seek(0)
        command = (
            f"mkdir -p {draft} && tar -x{'z' if compressed else ''}f - -C {draft} && "
            f"if [ -e {root}/{shlex.quote(build.entry)} ]; then rm -rf {draft}; "
            f"else rm -rf {root}; mv {draft} {root}; fi"
        )
        result = machine.run(command, stdin=archive, timeout=deadline.remaining())
    if not result.ok:
        raise BuildError(
            f"{build.label} could not be put into the machine",
            where=machine.where,
            output=result.stderr,
            hint=f"the machine needs tar and room at {root}",
        )


def _tar(archive: IO[bytes], compressed: bool) -> tarfile.TarFile:
    if compressed:
        return tarfile.open(fileobj=archive, mode="w:gz", format=tarfile.PAX_FORMAT, compresslevel=1)
    return tarfile.open(fileobj=archive, mode="w", format=tarfile.PAX_FORMAT)


def _anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member


def _controller_node(machine: Machine, deadline: Deadline) -> str:
    found = machine.run("command -v node").stdout.strip()
    if found:
        return found
    from ..node import node_runtime

    return str(node_runtime(events=machine.events, deadline=deadline) / "bin" / "node")


def _suited(machine: Machine, build: Build, processor: Processor, deadline: Deadline) -> Build:
    """A build that is no checkout, or the same Regina for the machine's processor.

    Raises `BuildError` for one that cannot run there, what `regina.from_packages` raises.
    """
    made_for = elf_machine(build.root / build.entry)
    if build.kind == "regina" and made_for != processor.programs:
        from .regina import from_packages

        return from_packages(machine.events, deadline, processor.programs)
    if not processor.runs(made_for):
        raise BuildError(
            f"{build.label} is for {made_for}, and the machine for {processor.programs}",
            where=machine.where,
            hint="take a binary for that processor, or a RexxJS checkout, which needs node only",
        )
    return build


def _bring_node(machine: Machine, place: str, processor: Processor | None, deadline: Deadline) -> str:
    from ..node import PROCESSORS, node_runtime

    wanted = processor.programs if processor else None
    if wanted not in (None, *PROCESSORS):
        raise BuildError(
            f"the machine has no node, and there is none that could be brought to programs for {wanted}",
            where=machine.where,
            hint="install it in the machine: sudo apt-get install nodejs",
        )
    runtime = node_runtime(events=machine.events, deadline=deadline, processor=wanted)
    with machine.step("deploy node"):
        machine.put(runtime / "bin" / "node", place, mode=0o755)
        check = machine.run([place, "--version"])
    if not check.ok:
        raise BuildError(
            "the machine has no node, and the one we brought does not run there",
            where=machine.where,
            output=check.stderr,
            hint="use an image with node in it (rexxinfra image list), or with glibc and libstdc++",
        )
    return place


def parse_exit_value(report: bytes) -> str | None:
    """The REXX EXIT or RETURN value out of what `exit_value.cjs` wrote; ``None`` when it wrote nothing."""
    try:
        told = json.loads(report)
    except ValueError:
        return None
    value = told.get("value") if isinstance(told, Mapping) else None
    return None if value is None else str(value)
