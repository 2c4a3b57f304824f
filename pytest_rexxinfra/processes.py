"""Which programs run on this computer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path


def running(program: str) -> Iterator[tuple[int, list[bytes]]]:
    """The processes of a program, by the end of its path: their ids and their words (proc_pid_cmdline(5))."""
    ending = program.encode()
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words = (folder / "cmdline").read_bytes().split(b"\0")
            if words[0].endswith(ending):
                yield int(folder.name), words
