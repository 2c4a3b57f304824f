"""Bringing a container back to what its image says, without making a new one."""

from __future__ import annotations

import tarfile
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import PurePosixPath
from typing import IO, Any, cast

from docker import APIClient

from ..errors import ProvisionError

_ADDED, _DELETED = 1, 2
"""Kinds of change, as the engine's ``ContainerChanges`` call numbers them; 0 is changed."""

_INIT = ("/sbin/docker-init", "/usr/sbin/docker-init")
"""The engine's own addition to every container that has one."""

_ENGINE_FILES = ("/etc/hosts", "/etc/hostname", "/etc/resolv.conf")
"""Files that the engine writes for each container, in no image, before it starts."""

_CLOCK_TICK = timedelta(milliseconds=20)
"""So far the clock of file times may be behind the one that the engine reads; it writes its files well before."""

_AT_ONCE = 500
_END_OTHERS = """
set -- $(cat /proc/1/task/1/children) || exit
for each in /proc/[0-9]*; do
    pid=${each#/proc/}
    case " 1 $$ $1 " in *" $pid "*) ;; *) kill -9 "$pid" 2>/dev/null ;; esac
done
rm -rf /dev/shm/* /dev/shm/.[!.]*
"""

Run = Callable[[Sequence[str]], object]
"""Runs a program in the container; raises unless it ends with status 0."""


def reset(api: APIClient, container: str, image: str, run: Run, *, restart: bool) -> None:
    """Undo what happened in a running container: end its processes, and restore its files.

    The main process stays, unless it has work of its own, for which it has to ``restart`` with the restored
    files. Below docker-init, process 1, it is the first child. The files come from a second container of the
    same image, which is never started. Raises `ProvisionError` for what cannot be undone.
    """
    found = api.inspect_container(container)
    _refuse(api, container, found)
    if not restart:
        run(["/bin/sh", "-c", _END_OTHERS])
    changes = _changes(api, container)
    added = _outermost([each["Path"] for each in changes if each["Kind"] == _ADDED])
    for start in range(0, len(added), _AT_ONCE):
        run(["rm", "-rf", "--", *added[start : start + _AT_ONCE]])
    lost = {each["Path"]: each["Kind"] == _DELETED for each in changes if each["Kind"] != _ADDED}
    if lost:
        with _pristine(api, image, found["Config"]["Labels"]) as source, tempfile.TemporaryFile() as archive:
            with tarfile.open(fileobj=archive, mode="w", format=tarfile.PAX_FORMAT) as tar:
                for path, whole in lost.items():
                    _copy(api, source, path, whole, tar)
            archive.seek(0)
            api.put_archive(container, "/", archive)
    if restart:
        api.kill(container)
    for each in _changes(api, container):
        if each["Kind"] in (_ADDED, _DELETED):
            raise ProvisionError(f"{each['Path']} is not as it was")
    if restart:
        api.start(container)


def _refuse(api: APIClient, container: str, found: Mapping[str, Any]) -> None:
    """Raise `ProvisionError` for changes of which the engine keeps no account."""
    for volume in found["Mounts"]:
        raise ProvisionError(f"{volume['Destination']} is a volume, whose content the image does not tell")
    started = datetime.fromisoformat(found["State"]["StartedAt"]) - _CLOCK_TICK
    for path in _ENGINE_FILES:
        _, stat = api.get_archive(container, path)
        if datetime.fromisoformat(stat["mtime"]) > started:
            raise ProvisionError(f"{path} was changed, and only the engine knows what was in it")


def _changes(api: APIClient, container: str) -> list[Mapping[str, Any]]:
    return [each for each in api.diff(container) or [] if each["Path"] not in _INIT]


def _outermost(paths: Sequence[str]) -> list[str]:
    """Paths without those that are below another of them."""
    chosen: list[str] = []
    for path in sorted(paths, key=lambda path: PurePosixPath(path).parts):
        if not chosen or chosen[-1] not in map(str, PurePosixPath(path).parents):
            chosen.append(path)
    return chosen


@contextmanager
def _pristine(api: APIClient, image: str, labels: Mapping[str, str]) -> Iterator[str]:
    """A container of the image that never runs; by its labels it ends with the one that is being reset."""
    made: str = api.create_container(image, ["/bin/sh"], entrypoint=[], labels=labels)["Id"]
    try:
        yield made
    finally:
        api.remove_container(made, force=True, v=True)


def _copy(api: APIClient, container: str, path: str, whole: bool, target: tarfile.TarFile) -> None:
    """Copy what is at a path; of a directory that is not wanted as a whole, only its own entry."""
    chunks, _ = api.get_archive(container, path)
    above = PurePosixPath(path).parent
    with tarfile.open(fileobj=cast(IO[bytes], _Chunks(chunks)), mode="r|") as source:
        for member in source:
            content: IO[bytes] | None = source.extractfile(member) if member.isreg() else None
            # Headers for odd names would win over the new name.
            member.pax_headers = {key: text for key, text in member.pax_headers.items() if "path" not in key}
            member.name = str(above / member.name).lstrip("/")
            if member.islnk():
                member.linkname = str(above / member.linkname).lstrip("/")
            target.addfile(member, content)
            if member.isdir() and not whole:
                return


class _Chunks:
    """A response of the engine as the file that tarfile reads."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._rest = b""

    def read(self, size: int) -> bytes:
        while len(self._rest) < size and (more := next(self._chunks, b"")):
            self._rest += more
        data, self._rest = self._rest[:size], self._rest[size:]
        return data
