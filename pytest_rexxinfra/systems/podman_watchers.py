"""The processes with which podman watches commands: conmon(8), one for each.

It stays for a while after its command has ended, to tell how, and then starts podman once more to forget that.
When the container is gone nobody asks any more, so these processes need not stay either.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Collection
from contextlib import suppress

from ..processes import running


def end_watchers(containers: Collection[str]) -> None:
    """End those that still watch a command in containers of these names, which are gone."""
    for pid, words in running("conmon"):
        name, watched, container = (_value(words, option) for option in (b"-n", b"-u", b"-c"))
        if watched != container and name.decode(errors="replace") in containers:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)


def _value(words: list[bytes], option: bytes) -> bytes:
    with suppress(ValueError, IndexError):
        return words[words.index(option) + 1]
    return b""
