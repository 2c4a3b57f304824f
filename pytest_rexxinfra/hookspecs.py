"""The hooks that a user's conftest can implement."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .machine import Machine
    from .rexx.checkpoints import Checkpoint


def pytest_rexxinfra_machine_ready(machine: Machine) -> None:
    """A machine has been made and answers; no test has used it yet. Install what every test needs here."""


def pytest_rexxinfra_machine_teardown(machine: Machine) -> None:
    """A machine is about to be taken down; last chance to fetch something from it."""


def pytest_rexxinfra_checkpoint(machine: Machine, checkpoint: Checkpoint) -> None:
    """A script on ``machine`` has reported a checkpoint. Called while it runs, in the thread that runs it."""
