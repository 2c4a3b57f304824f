"""A script that runs while somebody looks at what it reports."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

from ..errors import RexxInfraError, as_ours
from .checkpoints import Checkpoint

if TYPE_CHECKING:
    from .runtime import RexxResult


class RunningScript:
    """A script on its way. Iterate over it for its checkpoints as they come; ``result`` waits for its end.

    Leaving the ``with`` block stops a script that has not ended. ``run`` runs the script to its end and calls
    what it is given with each checkpoint; ``kill`` ends it in the machine.
    """

    def __init__(self, run: Callable[[Callable[[Checkpoint], None]], RexxResult], kill: Callable[[], None]) -> None:
        self._run = run
        self._kill = kill
        self._reported: queue.SimpleQueue[Checkpoint | None] = queue.SimpleQueue()
        self._result: RexxResult | RexxInfraError | None = None
        # Not by joining: a thread whose join was interrupted counts as ended from then on (CPython 3.11).
        self._ended = threading.Event()
        threading.Thread(target=self._follow, name="rexxinfra-script", daemon=True).start()

    def _follow(self) -> None:
        try:
            self._result = self._run(self._reported.put)
        except Exception as error:
            self._result = as_ours(error)
        self._ended.set()
        self._reported.put(None)

    def __iter__(self) -> Iterator[Checkpoint]:
        while True:
            checkpoint = self._reported.get()
            if checkpoint is None:
                self._reported.put(None)
                return
            yield checkpoint

    @property
    def running(self) -> bool:
        """Whether the script has not ended yet."""
        return not self._ended.is_set()

    @property
    def result(self) -> RexxResult:
        """What the script gave, when it has ended; raises what a call of `RexxRuntime` raises."""
        self._ended.wait()
        assert self._result is not None
        if isinstance(self._result, RexxInfraError):
            raise self._result
        return self._result

    def stop(self) -> None:
        """Kill the script in the machine with everything it started, and wait until it has ended."""
        while self.running:
            # The script may be on its way still.
            with suppress(RexxInfraError):
                self._kill()
            self._ended.wait(0.1)

    def __enter__(self) -> RunningScript:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
