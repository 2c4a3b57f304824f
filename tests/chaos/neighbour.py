"""Another process with a lab and machines of its own, which lives through the whole campaign untouched.

Run as a program it is that process: it tells what it made, and looks after it whenever it is asked to.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_REPOSITORY = Path(__file__).parents[2]
_MINE = f"/tmp/rexx-chaos-mine-{os.getpid()}"


class Neighbour:
    """The other process, seen from the campaign."""

    def __init__(self, environment: Mapping[str, str], log: Path) -> None:
        with log.open("wb") as complaints:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__],
                cwd=_REPOSITORY,
                env=dict(environment),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=complaints,
                text=True,
                start_new_session=True,
            )
        self._log = log
        self.made: dict[str, str] = json.loads(self._answer())
        """Id of everything that it made, by name."""

    def complaint(self) -> str | None:
        """What is wrong with the neighbour or one of its things, ``None`` when all is well."""
        try:
            answer = self._ask()
        except OSError as error:
            return f"the neighbour is gone: {error}"
        return None if answer == "well" else answer

    def _ask(self) -> str:
        assert self._process.stdin is not None
        self._process.stdin.write("how are you\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline().strip()
        if not line:
            raise BrokenPipeError(self._log.read_text()[-2000:] or "it said nothing")
        return line

    def close(self) -> str | None:
        """Let the neighbour go home; returns what went wrong with that."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            status = self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            return "it does not end"
        return None if status == 0 else f"it ended with status {status}: {self._log.read_text()[-2000:]}"


def _live() -> None:
    from pytest_rexxinfra import Lab, Machine, Settings, Spec

    def say(text: str) -> None:
        print(text, flush=True)

    def look(machines: Mapping[str, Machine], api: Any, made: Mapping[str, str]) -> str:
        for name, machine in machines.items():
            answer = machine.run(f"cat {_MINE}", timeout=10)
            if answer.stdout.strip() != name:
                return f"{name} answers {answer!r}"
        api.inspect_network(made["network"])
        api.inspect_volume(made["volume"])
        if machines["docker"].read("/data/mine") != b"in the volume":
            return "the volume is not the same any more"
        return "well"

    with Lab(Settings(target="docker,local")) as lab:
        api = lab.driver("docker").engine.api  # type: ignore[attr-defined]
        network, volume = lab.network("docker"), lab.volume("docker")
        made = {"network": api.inspect_network(network)["Id"], "volume": volume}
        machines = {
            "docker": lab.provision("docker", Spec.of(network=network, volumes=[f"{volume}:/data"])),
            "local": lab.provision("local"),
        }
        machines["docker"].write("/data/mine", "in the volume")
        for name, machine in machines.items():
            machine.write(_MINE, name)
            made[name] = machine.resource.id or machine.resource.name
        say(json.dumps(made))
        for _ in sys.stdin:
            try:
                say(look(machines, api, made))
            except Exception as error:
                say(f"{type(error).__name__}: {error}".replace("\n", " "))
    if lab.tally.left:
        sys.exit(f"left: {lab.tally.left}")


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _live()
