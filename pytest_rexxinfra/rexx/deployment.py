"""Putting a build into a machine: once per machine, or once per image where the system can bake."""

from __future__ import annotations

import hashlib
import json
import shlex
import tarfile
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from ..deadline import Deadline
from ..errors import BuildError

if TYPE_CHECKING:
    from ..machine import Machine
    from .builds import Build

HOME = "/opt/rexxinfra"
"""Where everything that we put into a machine lives."""

HOOKS = ("exit_value.cjs", "routines.cjs")
"""What node loads before a RexxJS checkout: for every script, and for test runs as well."""

_NODE = f"{HOME}/node"


def build_home(build: Build) -> str:
    """Where a build lives in a machine; the same content is always at the same place."""
    return f"{HOME}/builds/{build.digest[:16]}"


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
    root = build_home(build)
    hooks = f"{HOME}/hooks-{hooks_digest()}" if build.kind == "checkout" else ""
    look = [f"[ -e {shlex.quote(f'{root}/{build.entry}')} ] && echo build"]
    if hooks:
        look.append(f"[ -e {hooks} ] && echo hooks")
    if build.needs_node:
        look.append(f"command -v node || {{ [ -x {_NODE}/bin/node ] && echo {_NODE}/bin/node; }}")
    found = machine.run("; ".join(look), timeout=deadline.remaining()).lines
    node = next((line for line in found if line.startswith("/")), "")
    if "build" not in found:
        with machine.step(f"deploy {build.label}"):
            _copy(machine, build, root, deadline)
    if hooks and "hooks" not in found:
        _bring_hooks(machine, hooks)
    if build.needs_node and not node:
        node = _bring_node(machine, deadline)
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
    draft = f"{root}.partial"
    with tempfile.TemporaryFile() as archive:
        with tarfile.open(fileobj=archive, mode="w", format=tarfile.PAX_FORMAT) as tar:
            for name in build.files():
                tar.add(build.root / name, arcname=name, recursive=False, filter=_anonymous)
        archive.seek(0)
        command = (
            f"rm -rf {draft} && mkdir -p {draft} && tar -xf - -C {draft} && {{ rm -rf {root}; mv {draft} {root}; }}"
        )
        result = machine.run(command, stdin=archive, timeout=deadline.remaining())
    if not result.ok:
        raise BuildError(
            f"{build.label} could not be put into the machine",
            where=machine.where,
            output=result.stderr,
            hint="the machine needs tar and room in /opt",
        )


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


def _bring_node(machine: Machine, deadline: Deadline) -> str:
    from ..node import node_runtime

    runtime = node_runtime(events=machine.events, deadline=deadline)
    with machine.step("deploy node"):
        machine.put(runtime / "bin" / "node", f"{_NODE}/bin/node", mode=0o755)
        check = machine.run(f"{_NODE}/bin/node --version")
    if not check.ok:
        raise BuildError(
            "the machine has no node, and the one we brought does not run there",
            where=machine.where,
            output=check.stderr,
            hint="use an image with node in it (rexxinfra image list), or with glibc and libstdc++",
        )
    return f"{_NODE}/bin/node"


def parse_exit_value(report: bytes) -> str | None:
    """The REXX EXIT or RETURN value out of what `exit_value.cjs` wrote; ``None`` when it wrote nothing."""
    try:
        told = json.loads(report)
    except ValueError:
        return None
    value = told.get("value") if isinstance(told, Mapping) else None
    return None if value is None else str(value)
