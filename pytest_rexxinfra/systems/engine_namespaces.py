"""Network namespaces that containers use one after another.

More than half of what a container costs an engine is its network namespace: making it, joining it to the
bridge, and taking both apart. So a run that makes many machines keeps a few namespaces, each held by a
container that only waits, and gives one to a new machine when the one before has left it as it was.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from ..model import Resource

MOST = 4
"""Namespaces that one process keeps."""

_PATIENCE = 1.0
"""Seconds to wait for one that is about to become free; then the machine gets a namespace of its own."""

LOOK = "cd /etc && cat hosts hostname resolv.conf && ls -ln hosts hostname resolv.conf"
"""Prints what a container can change for the next one: with the capabilities that it has by default, only the
files that the engine mounts for all containers of a namespace."""


@dataclass
class Namespace:
    """One namespace: the container that holds it, and what `LOOK` printed before anybody had used it."""

    holder: Resource
    pristine: bytes | None = None
    clean: bool = False
    spoilt: bool = False


class Namespaces:
    """The namespaces of one driver. ``make`` starts a container that holds a new one."""

    def __init__(self, make: Callable[[], Resource]) -> None:
        self._make = make
        self._free: list[Namespace] = []
        self._used: dict[str, Namespace] = {}
        self._number = 0
        self._changed = threading.Condition()

    def take(self, lease: str) -> str | None:
        """Id of the container whose namespace the machine of ``lease`` joins; ``None`` for one of its own."""
        with self._changed:
            self._changed.wait_for(lambda: self._free or self._number < MOST, _PATIENCE)
            namespace = self._free.pop() if self._free else None
            if namespace is None:
                if self._number >= MOST:
                    return None
                self._number += 1
        if namespace is None:
            try:
                namespace = Namespace(self._make())
            except BaseException:
                with self._changed:
                    self._number -= 1
                raise
        namespace.clean = False
        self._used[lease] = namespace
        return namespace.holder.id

    def entered(self, lease: str, look: Callable[[], bytes]) -> None:
        """A machine has just begun to use its namespace; ``look`` runs `LOOK` in it."""
        namespace = self._used.get(lease)
        if namespace is not None and namespace.pristine is None:
            namespace.pristine = look()

    def leaving(self, lease: str, look: Callable[[], bytes]) -> None:
        """A machine is about to go."""
        namespace = self._used.get(lease)
        if namespace is not None and not namespace.spoilt:
            namespace.clean = look() == namespace.pristine

    def spoil(self, lease: str) -> None:
        """Nobody shall have a machine's namespace after it, for what happens to it cannot be seen by looking."""
        namespace = self._used.get(lease)
        if namespace is not None:
            namespace.spoilt = True

    def left(self, lease: str) -> Resource | None:
        """A machine has gone; returns the holder of its namespace if nobody can use that any more."""
        with self._changed:
            namespace = self._used.pop(lease, None)
            if namespace is None:
                return None
            if namespace.clean:
                self._free.append(namespace)
            else:
                self._number -= 1
            self._changed.notify()
            return None if namespace.clean else namespace.holder
