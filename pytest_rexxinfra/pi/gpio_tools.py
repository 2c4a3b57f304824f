"""GPIO lines by the programs of gpiod, whose options changed from version 1 to 2."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..errors import CommandFailed, DeadlineExceeded
from .gpio import Chip, Edge
from .gpio_note import let_one_go, noted

if TYPE_CHECKING:
    from ..machine import Machine
    from ..model import CommandResult

_CHIP = re.compile(r"^(\S+) \[(.*)\] \((\d+) lines?\)$", re.MULTILINE)
_LINE = re.compile(r"^\s*line\s+(\d+):\s+(?:\"([^\"]*)\"|unnamed)\s+(.*)$", re.MULTILINE)
_TIMED_OUT = 124
"""Status of timeout(1)."""
_PATIENCE = 10.0


def parse_chips(text: str) -> list[Chip]:
    """The chips in what ``gpiodetect`` of either version prints."""
    return [Chip(each[1], each[2], int(each[3])) for each in _CHIP.finditer(text)]


def parse_lines(text: str) -> list[tuple[str, str]]:
    """Name and direction of each line, in their order, in what ``gpioinfo`` of either version prints."""
    found = []
    for _, name, rest in _LINE.findall(text):
        plain = re.sub(r'"[^"]*"', "", rest).split()
        found.append((name, "out" if "output" in plain else "in"))
    return found


class Tools:
    """Lines by ``gpioget``, ``gpioset`` and ``gpiomon``.

    A line is an output for as long as a program holds it, so a ``gpioset`` stays in the background for each.
    """

    def __init__(self, machine: Machine, version: str) -> None:
        self._machine = machine
        match = re.search(r"v(\d+)\.", version)
        self._modern = match is not None and int(match[1]) >= 2

    def chips(self) -> list[Chip]:
        return parse_chips(self._machine.run("gpiodetect", check=True).stdout)

    def names(self, chip: Chip) -> list[str]:
        return [name for name, _ in self._lines(chip)]

    def direction(self, chip: Chip, number: int) -> str:
        return self._lines(chip)[number][1]

    def read(self, chip: Chip, number: int) -> bool:
        # What a program of ours holds cannot be asked for, but is what that was told.
        held = f"pgrep -x -f {shlex.quote(self._holder(chip, number))} -a"
        result = self._machine.run(f"{held} || {self._get(chip, number)}")
        if not result.ok:
            raise self._refused(result, chip, number)
        return result.stdout.strip().endswith("1")

    def listen(self, chip: Chip, number: int) -> None:
        self.release(chip, number)
        self.read(chip, number)

    def drive(self, chip: Chip, number: int, level: bool) -> None:
        note = noted(self._machine.scratch, self._letting_go(chip, number))
        hold = shlex.join(self._hold(chip, number, f"{level:d}"))
        # What lets a line go is noted before it is taken; a line that somebody else has is not noted.
        result = self._machine.run(
            f"{self._ending(chip, number)}; {self._get(chip, number)} >/dev/null && {note} && {hold}"
        )
        if not result.ok:
            raise self._refused(result, chip, number)

    def wait(self, chip: Chip, number: int, edge: Edge, timeout: float) -> None:
        if self._modern:
            options = [f"--edges={edge}", "-c", chip.name, str(number)]
        else:
            options = [*([] if edge is Edge.BOTH else [f"--{edge}-edge"]), chip.name, str(number)]
        command = ["timeout", f"{timeout:.3f}", "gpiomon", "--num-events=1", *options]
        result = self._machine.run(command, timeout=timeout + _PATIENCE)
        if result.rc == _TIMED_OUT:
            raise DeadlineExceeded(
                f"no edge ({edge}) at {chip.name}:{number} within {timeout:g} s", where=self._machine.where
            )
        if not result.ok:
            raise self._refused(result, chip, number)

    def release(self, chip: Chip, number: int) -> None:
        self._machine.run(let_one_go(self._machine.scratch, self._letting_go(chip, number)), check=True)

    def _lines(self, chip: Chip) -> list[tuple[str, str]]:
        return parse_lines(self._machine.run(["gpioinfo", *(["-c"] if self._modern else []), chip.name]).stdout)

    def _get(self, chip: Chip, number: int) -> str:
        """The command that asks for the level of a line, which becomes an input by that."""
        return shlex.join(["gpioget", *(["--numeric", "-c"] if self._modern else []), chip.name, str(number)])

    def _hold(self, chip: Chip, number: int, level: str) -> Sequence[str]:
        stay = ["--daemonize", "-c"] if self._modern else ["--mode=signal", "--background"]
        return ["gpioset", *stay, chip.name, f"{number}={level}"]

    def _holder(self, chip: Chip, number: int) -> str:
        """What the arguments of the program that holds a line are, as a pattern; nobody else can hold it too."""
        # Version 2 overwrites the sign in its own arguments.
        return " ".join(self._hold(chip, number, "[01]")).replace("=[", "[= ][")

    def _ending(self, chip: Chip, number: int) -> str:
        """The command that ends the program of ours which holds a line, if there is one."""
        pattern = shlex.quote(self._holder(chip, number))
        return f"while pkill -x -f {pattern}; do sleep 0.01; done"

    def _letting_go(self, chip: Chip, number: int) -> str:
        # Some kernels go on driving what nobody holds.
        return f"{self._ending(chip, number)}; {self._get(chip, number)} >/dev/null"

    def _refused(self, result: CommandResult, chip: Chip, number: int) -> CommandFailed:
        return CommandFailed(
            f"{chip.name}:{number} cannot be used",
            command=result.command,
            output=result.stderr,
            where=self._machine.where,
            hint="gpioinfo says who has it",
        )
