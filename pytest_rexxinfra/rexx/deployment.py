"""Putting a build into a machine: once per machine, or once per image where the system can bake."""

from __future__ import annotations

import json
import shlex
import tarfile
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
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

_NODE = f"{HOME}/node"


def build_home(build: Build) -> str:
    """Where a build lives in a machine; the same content is always at the same place."""
    return f"{HOME}/builds/{build.digest[:16]}"


@dataclass(frozen=True)
class Deployment:
    """A build that is ready to run in one machine: how to start it, and what its start needs."""

    build: Build
    argv: tuple[str, ...]
    exit_value_file: bool
    """Whether the interpreter writes its EXIT value to the file that ``REXXINFRA_EXIT_VALUE`` names."""


def deploy(machine: Machine, build: Build, deadline: Deadline) -> Deployment:
    """Make sure that ``build`` is in ``machine``, with a node to run it when it needs one.

    Costs one short command when it is there already. Raises `BuildError` when it cannot run there.
    """
    if machine.sees(str(build.root)):
        hook = str(_hook()) if build.kind == "checkout" else None
        return _deployment(
            build, str(build.root), _controller_node(machine, deadline) if build.needs_node else "", hook
        )
    root = build_home(build)
    hook = f"{HOME}/exit_value.cjs" if build.kind == "checkout" else None
    look = [f"[ -e {shlex.quote(f'{root}/{build.entry}')} ] && echo build"]
    if hook:
        look.append(f"[ -e {hook} ] && echo hook")
    if build.needs_node:
        look.append(f"command -v node || {{ [ -x {_NODE}/bin/node ] && echo {_NODE}/bin/node; }}")
    found = machine.run("; ".join(look), timeout=deadline.remaining()).lines
    node = next((line for line in found if line.startswith("/")), "")
    if "build" not in found:
        with machine.step(f"deploy {build.label}"):
            _copy(machine, build, root, deadline)
    if hook and "hook" not in found:
        machine.write(hook, _hook().read_bytes())
    if build.needs_node and not node:
        node = _bring_node(machine, deadline)
    return _deployment(build, root, node, hook)


def _deployment(build: Build, root: str, node: str, hook: str | None) -> Deployment:
    argv = build.command(root, node)
    if hook and build.needs_node:
        argv = [argv[0], "-r", hook, *argv[1:]]
    return Deployment(build, tuple(argv), exit_value_file=hook is not None and build.needs_node)


def _hook() -> Path:
    return Path(str(files("pytest_rexxinfra.rexx") / "exit_value.cjs"))


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
