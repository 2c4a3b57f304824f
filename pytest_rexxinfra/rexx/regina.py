"""Regina as a build: the reference interpreter, in a directory that runs on any machine with glibc."""

from __future__ import annotations

import platform
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from ..deadline import Deadline
from ..errors import BuildError
from ..events import Events
from ..processor import debian_name, elf_machine
from . import store, tree
from .build import Build
from .probe import ProbeFailed, ask

ENTRY = "bin/regina"
PACKAGES = ("regina-rexx", "libregina3")
_VERSION = re.compile(r"REXX-Regina_(\d+(?:\.\d+)*)")
_LIBRARY = re.compile(r"^\s*(libregina\.so\S*) => (/\S+)", re.MULTILINE)


def on_path(environ: Mapping[str, str], events: Events, deadline: Deadline) -> Build | None:
    """The ``regina`` on PATH with the library it uses; ``None`` when there is none. Raises `BuildError`."""
    found = shutil.which("regina", path=environ.get("PATH", ""))
    if found is None:
        return None
    program = Path(found).resolve()
    mark = tree.stamp([(str(program), program.stat())])
    facts = store.recall(program, mark)
    known = _if_unchanged(facts)
    if known is not None:
        return known
    with events.step("controller", f"look at {found}"):
        try:
            answer = ask(["ldd", str(program)], "", environ, deadline)
        except ProbeFailed as error:
            raise BuildError(f"cannot find the libraries of {found}: ldd: {error}") from None
        libraries = {name: Path(path).resolve() for name, path in _LIBRARY.findall(answer.stdout)}
        root = _assemble(program, libraries, environ, deadline)
    sources = {str(path): tree.stamp([(str(path), path.stat())]) for path in libraries.values()}
    newest = max(path.stat().st_ctime_ns for path in (program, *libraries.values()))
    store.remember(program, mark, newest, root=root.name, sources=sources)
    return at(root)


def from_packages(events: Events, deadline: Deadline, processor: str | None = None) -> Build:
    """Regina out of the distribution's packages, unpacked into the cache once, without root.

    With ``processor``, such as ``aarch64``, it is the one for that, which need not run here.
    Raises what `unpack_packages` raises, and `BuildError` when the packages hold no Regina.
    """
    from ..packages import unpack_packages

    name = f"regina-packages-{processor}" if processor else "regina-packages"
    arch = debian_name(processor) if processor else None
    note = store.builds_dir() / f"{name}.json"
    with store.locked(name, deadline):
        known = _if_unchanged(store.read_facts(note))
        if known is not None:
            return known
        with tempfile.TemporaryDirectory(dir=store.builds_dir(), prefix=".regina-") as folder:
            into = Path(folder)
            versions = unpack_packages(PACKAGES, into, events=events, deadline=deadline, where="controller", arch=arch)
            programs = sorted(into.glob("usr/bin/regina"))
            libraries = {path.name: path.resolve() for path in into.glob("usr/lib/**/libregina.so.3")}
            if not programs or not libraries:
                raise BuildError(f"the packages {' and '.join(PACKAGES)} hold no bin/regina with its library")
            stated = re.split(r"[-+]", versions[PACKAGES[0]])[0] if processor else None
            root = _assemble(programs[0], libraries, {}, deadline, stated)
        store.write_facts(note, {"root": root.name, "sources": {}, "packages": versions})
        return at(root)


def at(root: Path) -> Build:
    """The build of a Regina that was put together in the cache before. Raises `BuildError` if it is gone."""
    facts = store.read_facts(root.with_name(f"{root.name}.json"))
    if not (root / ENTRY).is_file() or not isinstance(facts.get("digest"), str):
        raise BuildError(f"the Regina in {root} is gone from the cache")
    machine = elf_machine(root / ENTRY)
    foreign = f" ({machine})" if machine not in (None, platform.machine()) else ""
    return Build(
        label=f"Regina {facts.get('version', 'of unknown version')}{foreign}",
        dialect="regina",
        kind="regina",
        digest=facts["digest"],
        root=root,
        entry=ENTRY,
        needs_node=False,
        listed=tuple(path for path, _ in tree.scan(root, use_git=False)),
    )


def _if_unchanged(facts: store.Facts) -> Build | None:
    """The build that ``facts`` tell of, if it is still there and made of the same libraries."""
    root, sources = facts.get("root"), facts.get("sources")
    if not isinstance(root, str) or not isinstance(sources, dict):
        return None
    try:
        if any(tree.stamp([(path, Path(path).stat())]) != mark for path, mark in sources.items()):
            return None
        return at(store.builds_dir() / root)
    except (OSError, BuildError):
        return None


def _assemble(
    program: Path,
    libraries: Mapping[str, Path],
    environ: Mapping[str, str],
    deadline: Deadline,
    stated: str | None = None,
) -> Path:
    """A directory in the cache with ``bin`` and ``lib``, checked by running it there unless its version is stated."""
    with tempfile.TemporaryDirectory(dir=store.builds_dir(), prefix=".regina-") as folder:
        fresh = Path(folder) / "root"
        for part in ("bin", "lib"):
            (fresh / part).mkdir(parents=True)
        shutil.copyfile(program, fresh / ENTRY)
        (fresh / ENTRY).chmod(0o755)
        for name, path in libraries.items():
            shutil.copyfile(path, fresh / "lib" / name)
            for utility in (*path.parent.glob("regina-rexx/*/libregutil.so"), path.parent / "libregutil.so"):
                if utility.is_file():
                    shutil.copyfile(utility, fresh / "lib" / utility.name)
        version = stated or _version(fresh, environ, deadline)
        digest = tree.digest(fresh, tree.scan(fresh, use_git=False))
        root = store.builds_dir() / f"regina-{digest[:16]}"
        with store.locked(root.name, deadline):
            store.write_facts(root.with_name(f"{root.name}.json"), {"digest": digest, "version": version})
            if not (root / ENTRY).is_file():
                shutil.rmtree(root, ignore_errors=True)
                fresh.rename(root)
    return root


def _version(root: Path, environ: Mapping[str, str], deadline: Deadline) -> str:
    command = ["env", f"LD_LIBRARY_PATH={root / 'lib'}", str(root / ENTRY)]
    script = root.parent / "version.rexx"
    script.write_text("PARSE VERSION v\nSAY v\n", encoding="ascii")
    try:
        answer = ask([*command, str(script)], "", environ, deadline)
    except ProbeFailed as error:
        raise BuildError(f"the Regina copied to {root} does not run: {error}") from None
    found = _VERSION.search(answer.stdout)
    if answer.status != 0 or not found:
        raise BuildError(f"the Regina copied to {root} does not say its version", output=answer.text)
    return found[1]
