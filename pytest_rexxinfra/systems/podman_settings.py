"""The settings with which a podman service of ours runs: the user's own, and what this computer needs besides.

Format: https://github.com/containers/common/blob/main/docs/containers.conf.5.md
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import resource
import shutil
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..paths import cache_dir

_CGROUPS = Path("/sys/fs/cgroup")
_INIT = ("/usr/libexec/podman/catatonit", "/usr/lib/podman/catatonit", "/usr/local/libexec/podman/catatonit")
_OTHER_INIT = ("catatonit", "tini", "tini-static", "docker-init", "dumb-init")
_CAP_SYS_RESOURCE = 24
_USUAL_NOFILE = 1 << 20
"""What podman gives each container, unless told otherwise."""

_USERS_OVERLAY = (5, 13)
"""Since this kernel an ordinary user may mount an overlay."""

_EXEC_RECORDS = 10
"""Seconds for which a process waits to tell how an exec ended; podman's default is 300, by one for each exec."""

Settings = dict[str, Any]


def settings_file() -> Path:
    """The ``containers.conf`` for a service of ours. It stays, for podman looks at it when a container ends, too."""
    settings = _users()
    for table, needed in _needed().items():
        chosen = settings.setdefault(table, {})
        for name, value in needed.items():
            chosen.setdefault(name, value)
    text = "\n".join(_toml(settings)) + "\n"
    path = cache_dir() / "podman" / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.conf"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_suffix(f".{os.getpid()}")
        fresh.write_text(text)
        fresh.replace(path)
    return path


def storage_driver() -> str | None:
    """How an ordinary user's podman shall store images, where nobody has chosen: without copies of all files.

    Podman keeps to what it has used before, whatever it is told.
    """
    config = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config", "containers")
    places = (config, Path("/etc/containers"), Path("/usr/share/containers"))
    chosen = any((place / "storage.conf").exists() for place in places) or os.environ.get("CONTAINERS_STORAGE_CONF")
    if os.geteuid() == 0 or chosen or _kernel() < _USERS_OVERLAY:
        return None
    return "overlay"


def _kernel() -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", os.uname().release)[:2]))


def _users() -> Settings:
    """What the user and the computer's administrator set, in the order in which podman reads it."""
    merged: Settings = {}
    for path in _files():
        with suppress(FileNotFoundError, PermissionError):
            try:
                found = tomllib.loads(path.read_text())
            except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
                raise UsageError(f"{path} cannot be read: {error}", where="podman") from error
            _merge(merged, found)
    return merged


def _files() -> Iterator[Path]:
    chosen = os.environ.get("CONTAINERS_CONF")
    if chosen:
        yield Path(chosen)
        return
    places = [Path("/usr/share/containers"), Path("/etc/containers")]
    if os.geteuid() != 0:
        places.append(Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config", "containers"))
    for place in places:
        yield place / "containers.conf"
        yield from sorted((place / "containers.conf.d").glob("*.conf"))


def _merge(target: Settings, added: Mapping[str, Any]) -> None:
    for name, value in added.items():
        if isinstance(value, dict):
            _merge(target.setdefault(name, {}), value)
        else:
            target[name] = value


def _needed() -> Mapping[str, Settings]:
    """What podman's defaults get wrong on this computer."""
    containers: Settings = {}
    engine: Settings = {"exit_command_delay": _EXEC_RECORDS}
    _, most_files = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= most_files < _USUAL_NOFILE and not _may_raise_limits():
        _, most_processes = resource.getrlimit(resource.RLIMIT_NPROC)
        processes = 32768 if most_processes < 0 else min(32768, most_processes)
        containers["default_ulimits"] = [f"nofile={most_files}:{most_files}", f"nproc={processes}:{processes}"]
    if not any(Path(path).exists() for path in _INIT):
        other = next(filter(None, map(shutil.which, _OTHER_INIT)), None)
        if other is not None:
            # The one is read for docker's API, the other for podman's own.
            containers["init_path"] = engine["init_path"] = other
    # Older crun refuses a computer on which a controller is in the second hierarchy while the rest is in the first.
    controllers = _CGROUPS / "unified/cgroup.controllers"
    if controllers.is_file() and controllers.read_text().strip() and shutil.which("runc", path=_programs()):
        engine["runtime"] = "runc"
    return {"containers": containers, "engine": engine}


def _programs() -> str:
    """Where programs may be, also those that an ordinary user's PATH may lack."""
    return f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/bin:/sbin:/bin"


def _may_raise_limits() -> bool:
    """Whether this process may raise the hard limits on resources."""
    status = Path("/proc/self/status").read_text()
    effective = next((line.split()[1] for line in status.splitlines() if line.startswith("CapEff:")), "0")
    return bool(int(effective, 16) >> _CAP_SYS_RESOURCE & 1)


def _toml(table: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """A table as TOML: strings, numbers, truths and lists are written as in JSON."""
    for name, value in table.items():
        if not isinstance(value, dict):
            yield f"{json.dumps(name)} = {json.dumps(value)}"
    for name, value in table.items():
        if isinstance(value, dict):
            yield f"[{prefix}{json.dumps(name)}]"
            yield from _toml(value, f"{prefix}{json.dumps(name)}.")
