"""A suite that goes behind the lab's back, to show that the campaign finds out."""

from __future__ import annotations

import subprocess
import sys
import threading

from pytest_rexxinfra import Capability, Lab
from pytest_rexxinfra.deadline import Deadline
from pytest_rexxinfra.model import Kind, Owner, Resource

from .beacon import mark


def test_leak(rexx_lab: Lab) -> None:
    system = rexx_lab.targets[0].system
    subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"], start_new_session=True)
    driver = rexx_lab.driver(system)
    volumes = Capability.VOLUMES in driver.capabilities
    forgotten = Resource.lease_for(
        system,
        Kind.VOLUME if volumes else Kind.NETWORK,
        rexx_lab.run_id,
        owner=Owner("elsewhere", 1, 1, "", ""),
    )
    (driver.create_volume if volumes else driver.create_network)(forgotten, Deadline(10))
    mark("test", "leak")
    threading.Event().wait(10)
