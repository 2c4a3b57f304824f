"""Plugin of an inner run: tells the campaign through a named pipe what the run is doing at this moment."""

from __future__ import annotations

import faulthandler
import math
import os
import random
import signal
import threading
import traceback
from contextlib import suppress
from pathlib import Path

import pytest

from pytest_rexxinfra import Lab, Machine
from pytest_rexxinfra.events import Step


def mark(phase: str, what: str) -> None:
    """Tell that ``phase`` has been reached; one short write, which a pipe takes as a whole."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "-")
    # Nobody listens any more when the campaign has seen enough.
    with suppress(OSError):
        pipe = os.open(os.environ["REXX_CHAOS_EVENTS"], os.O_WRONLY | os.O_NONBLOCK)
        try:
            os.write(pipe, f"{phase} {os.getpid()} {worker} {what.replace(' ', '_')}\n".encode())
        finally:
            os.close(pipe)


class Beacon:
    """Listens to the steps of a lab."""

    def step_started(self, step: Step) -> None:
        if step.what == "create":
            mark("create", step.where)
        elif step.what.startswith(("bake ", "deploy ")):
            mark("deploy", f"{step.where}:{step.what}")

    def step_ended(self, step: Step) -> None:
        pass


@pytest.hookimpl(trylast=True)
def pytest_configure() -> None:
    """Let the campaign ask where every thread of a run that hangs is, and what ended one that is not there any more."""
    stacks = Path(os.environ["REXX_CHAOS_EVENTS"]).with_name(f"stacks.{os.getpid()}").open("w")
    faulthandler.register(signal.SIGUSR1, stacks, all_threads=True)
    usual = threading.excepthook

    def ended(failure: threading.ExceptHookArgs) -> None:
        traceback.print_exception(failure.exc_value, file=stacks)
        stacks.flush()
        usual(failure)

    threading.excepthook = ended


@pytest.fixture(scope="session", autouse=True)
def _beacon(rexx_lab: Lab) -> None:
    rexx_lab.events.listeners.append(Beacon())


def pytest_rexxinfra_machine_teardown(machine: Machine) -> None:
    mark("teardown", machine.where)


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish() -> None:
    mark("teardown", "session")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Another order in each run, and a share of the tests; those that deploy come first when that is what is wanted."""
    random.Random(os.environ["REXX_CHAOS_SUITE"]).shuffle(items)
    wanted = os.environ.get("REXX_CHAOS_FIRST") or "no such test"
    items.sort(key=lambda item: wanted not in item.name)
    count = math.ceil(len(items) * float(os.environ["REXX_CHAOS_SHARE"]))
    config.hook.pytest_deselected(items=items[count:])
    del items[count:]
