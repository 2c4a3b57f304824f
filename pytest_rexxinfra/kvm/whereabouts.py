"""At which node a machine is, for everybody who asks it something; while it moves, they wait."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ..deadline import Deadline
from ..errors import DeadlineExceeded
from .node import Node


class Whereabouts:
    """The node of one machine. Requests to the machine are made within `there`, moves of it within `move`.

    So no request is on its way while the machine changes its node: an answer that was told once cannot be lost.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self._asking = 0
        self._moving = False
        self._changed = threading.Condition()

    @property
    def node(self) -> Node:
        """Where it is now; while it moves, where it was."""
        return self._node

    @property
    def moving(self) -> bool:
        return self._moving

    @contextmanager
    def there(self) -> Iterator[Node]:
        """The node of the machine, which stays the same for the block."""
        with self._changed:
            self._changed.wait_for(lambda: not self._moving)
            self._asking += 1
        try:
            yield self._node
        finally:
            with self._changed:
                self._asking -= 1
                self._changed.notify_all()

    @contextmanager
    def move(self, deadline: Deadline) -> Iterator[Callable[[Node], None]]:
        """Let the machine move within the block, which tells what it is given when it has arrived, and where.

        Raises `DeadlineExceeded` when others ask it something all the time.
        """
        self._begin(deadline)
        try:
            yield self._arrive
        finally:
            with self._changed:
                self._moving = False
                self._changed.notify_all()

    def _begin(self, deadline: Deadline) -> None:
        with self._changed:
            if not self._changed.wait_for(lambda: not self._moving, deadline.remaining()):
                raise DeadlineExceeded("another migration of the machine is not done yet")
            self._moving = True
            if not self._changed.wait_for(lambda: not self._asking, deadline.remaining()):
                self._moving = False
                self._changed.notify_all()
                raise DeadlineExceeded("what the machine was asked is not answered yet", hint="does it hang?")

    def _arrive(self, node: Node) -> None:
        self._node = node
