"""A suite that leaves a process which ends by itself, but after the limit."""

from __future__ import annotations

import os
import subprocess
import threading

from pytest_rexxinfra import Lab

from .beacon import mark


def test_late(rexx_lab: Lab) -> None:
    subprocess.Popen(["sleep", str(2 * float(os.environ["REXX_CHAOS_LIMIT"]))], start_new_session=True)
    mark("test", "late")
    threading.Event().wait(10)
