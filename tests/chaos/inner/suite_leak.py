"""A suite that goes behind the lab's back, to show that the campaign finds out."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

from pytest_rexxinfra import Lab

from .beacon import mark


def test_leak(rexx_lab: Lab) -> None:
    driver = rexx_lab.driver("docker")
    subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"], start_new_session=True)
    driver.engine.api.create_volume(  # type: ignore[attr-defined]
        f"leaked-{os.getpid()}", labels={"rexxinfra.run": rexx_lab.run_id}
    )
    mark("test", "leak")
    threading.Event().wait(10)
