"""Another process with a lab and machines of its own, which lives through the whole campaign untouched.

Run as a program it is that process: it tells what it made, and looks after it whenever it is asked to.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

_REPOSITORY = Path(__file__).parents[2]
_MINE = f"/tmp/rexx-chaos-mine-{os.getpid()}"


class Neighbour:
    """The other process, seen from the campaign."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        with log.open("wb") as complaints:
            self._process = subprocess.Popen(
                command,
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
        """Names of everything that it made: by system, or system and kind."""

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


def _live(target: str) -> None:
    from pytest_rexxinfra import Capability, Lab, Machine, Settings, Spec
    from pytest_rexxinfra.kvm.machine import VirtualMachine

    def say(text: str) -> None:
        print(text, flush=True)

    def settle(lab: Lab, system: str) -> tuple[Machine, dict[str, str]]:
        if Capability.NETWORKS not in lab.driver(system).capabilities:
            machine = lab.provision(system)
            return machine, {system: machine.resource.name}
        network = lab.network(system)
        made = {f"{system} network": network}
        if Capability.STORAGE in lab.driver(system).capabilities:
            disk = lab.storage("dir", target=system).create("mine", "1m")
            machine = lab.provision(system, Spec.of(network=network))
            assert isinstance(machine, VirtualMachine)
            machine.attach(disk)
            return machine, {**made, f"{system} disk": str(disk), system: machine.resource.name}
        volume = lab.volume(system)
        machine = lab.provision(system, Spec.of(network=network, volumes=[f"{volume}:/data"]))
        machine.write("/data/mine", "in the volume")
        return machine, {**made, f"{system} volume": volume, system: machine.resource.name}

    def look(lab: Lab, machines: Mapping[str, Machine], made: Mapping[str, str]) -> str:
        for name, machine in machines.items():
            answer = machine.run(f"cat {_MINE}", timeout=10)
            if answer.stdout.strip() != name:
                return f"{name} answers {answer!r}"
            if f"{name} volume" in made and machine.read("/data/mine") != b"in the volume":
                return f"the volume of {name} is not the same any more"
        listed = {each.name for name in machines for each in lab.driver(name).list()}
        gone = [name for name in made if made[name] not in listed]
        return f"{gone} not there any more" if gone else "well"

    with Lab(Settings(target=target)) as lab:
        made: dict[str, str] = {}
        machines: dict[str, Machine] = {}
        for system in target.split(","):
            machines[system], names = settle(lab, system)
            machines[system].write(_MINE, system)
            made.update(names)
        say(json.dumps(made))
        for _ in sys.stdin:
            try:
                say(look(lab, machines, made))
            except Exception as error:
                say(f"{type(error).__name__}: {error}".replace("\n", " "))
    if lab.tally.left:
        sys.exit(f"left: {lab.tally.left}")


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _live(sys.argv[1])
