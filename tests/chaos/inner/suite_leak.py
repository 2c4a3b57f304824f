"""A suite that goes behind the lab's back, to show that the campaign finds out."""

from __future__ import annotations

import subprocess
import sys
import threading

from pytest_rexxinfra import Lab
from pytest_rexxinfra.deadline import Deadline
from pytest_rexxinfra.model import Kind, Owner, Resource

from .beacon import mark


def test_leak(rexx_lab: Lab) -> None:
    system = rexx_lab.targets[0].system
    subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"], start_new_session=True)
    forgotten = Resource.lease_for(system, Kind.VOLUME, rexx_lab.run_id, owner=Owner("elsewhere", 1, 1, "", ""))
    rexx_lab.driver(system).create_volume(forgotten, Deadline(10))
    mark("test", "leak")
    threading.Event().wait(10)
