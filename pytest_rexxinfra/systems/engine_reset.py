"""Bringing a container back to what its image says, without making a new one."""

from __future__ import annotations

import tarfile
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import IO, cast

from docker import APIClient

_ADDED, _DELETED = 1, 2
"""Kinds of change, as the engine's ``ContainerChanges`` call numbers them; 0 is changed."""

_INIT = "docker-init"
"""The engine's own addition to every container that has one."""

_AT_ONCE = 500
_END_OTHERS = """
set -- $(cat /proc/1/task/1/children) || exit
for each in /proc/[0-9]*; do
    pid=${each#/proc/}
    case " 1 $$ $1 " in *" $pid "*) ;; *) kill -9 "$pid" 2>/dev/null ;; esac
done
rm -rf /dev/shm/* /dev/shm/.[!.]*
"""

Run = Callable[[Sequence[str]], None]
"""Runs a program in the container; raises unless it ends with status 0."""


def reset(api: APIClient, container: str, image: str, run: Run) -> None:
    """Undo what happened in a running container: end its processes, and restore its files.

    The main process stays; below docker-init, process 1, that is the first child. The files come from a
    second container of the same image, which is never started.
    """
    run(["/bin/sh", "-c", _END_OTHERS])
    changes = [each for each in api.diff(container) or [] if PurePosixPath(each["Path"]).name != _INIT]
    added = _outermost([each["Path"] for each in changes if each["Kind"] == _ADDED])
    for start in range(0, len(added), _AT_ONCE):
        run(["rm", "-rf", "--", *added[start : start + _AT_ONCE]])
    lost = {each["Path"]: each["Kind"] == _DELETED for each in changes if each["Kind"] != _ADDED}
    if lost:
        with _pristine(api, image) as source, tempfile.TemporaryFile() as archive:
            with tarfile.open(fileobj=archive, mode="w", format=tarfile.PAX_FORMAT) as tar:
                for path, whole in lost.items():
                    _copy(api, source, path, whole, tar)
            archive.seek(0)
            api.put_archive(container, "/", archive)


def _outermost(paths: Sequence[str]) -> list[str]:
    """Paths without those that are below another of them."""
    chosen: list[str] = []
    for path in sorted(paths, key=lambda path: PurePosixPath(path).parts):
        if not chosen or chosen[-1] not in map(str, PurePosixPath(path).parents):
            chosen.append(path)
    return chosen


@contextmanager
def _pristine(api: APIClient, image: str) -> Iterator[str]:
    """A container of the image that never runs."""
    made: str = api.create_container(image, ["/bin/sh"], entrypoint=[])["Id"]
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
