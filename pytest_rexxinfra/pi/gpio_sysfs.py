"""GPIO lines by files in /sys: https://www.kernel.org/doc/html/latest/admin-guide/gpio/sysfs.html."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import CommandFailed, DeadlineExceeded
from .gpio import Chip, Edge
from .gpio_note import let_one_go, noted

if TYPE_CHECKING:
    from ..machine import Machine

_ROOT = "/sys/class/gpio"
_PATIENCE = 10.0
_LIST = (
    f'for d in {_ROOT}/gpiochip*; do [ -e "$d" ] && echo "$(cat $d/base) $(cat $d/ngpio) '
    '${d##*/} $(cat $d/label)"; done; true'
)

# The file is read first, for else what happened before counts.
_WAIT = """
import select, sys
value = open(sys.argv[1])
value.read()
poll = select.poll()
poll.register(value, select.POLLPRI | select.POLLERR)
sys.exit(0 if poll.poll(float(sys.argv[2]) * 1000) else 124)
"""
_TIMED_OUT = 124


class Sysfs:
    """Lines by exporting them. Nobody but root may, or the group that the system's rules say."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._bases: dict[str, int] = {}

    def chips(self) -> list[Chip]:
        found = []
        for line in self._machine.run(_LIST, check=True).lines:
            base, count, name, label = line.split(" ", 3)
            self._bases[name] = int(base)
            found.append(Chip(name, label, int(count)))
        return found

    def names(self, chip: Chip) -> list[str]:
        return []

    def direction(self, chip: Chip, number: int) -> str:
        return self._with_line(chip, number, "cat direction", stay=False)

    def read(self, chip: Chip, number: int) -> bool:
        return self._with_line(chip, number, "cat value", stay=False) == "1"

    def listen(self, chip: Chip, number: int) -> None:
        self._with_line(chip, number, "echo in >direction")

    def drive(self, chip: Chip, number: int, level: bool) -> None:
        # This sets direction and level at once.
        self._with_line(chip, number, f"echo {'high' if level else 'low'} >direction")

    def wait(self, chip: Chip, number: int, edge: Edge, timeout: float) -> None:
        self._with_line(chip, number, f"echo in >direction && echo {edge} >edge")
        place = f"{_ROOT}/gpio{self._number(chip, number)}"
        command = ["python3", "-c", _WAIT, f"{place}/value", f"{timeout:.3f}"]
        result = self._machine.run(command, timeout=timeout + _PATIENCE)
        if result.rc == _TIMED_OUT:
            raise DeadlineExceeded(
                f"no edge ({edge}) at {chip.name}:{number} within {timeout:g} s", where=self._machine.where
            )
        if not result.ok:
            raise self._refused(chip, number, result.stderr)

    def release(self, chip: Chip, number: int) -> None:
        letting_go = _letting_go(self._number(chip, number))
        self._machine.run(let_one_go(self._machine.scratch, letting_go), check=True)

    def _with_line(self, chip: Chip, number: int, command: str, stay: bool = True) -> str:
        """Run a command in the directory of a line, which is exported for that, and with ``stay`` stays so."""
        line = self._number(chip, number)
        place = f"{_ROOT}/gpio{line}"
        note = noted(self._machine.scratch, _letting_go(line)) if stay else "trap leave EXIT"
        result = self._machine.run(
            f"leave() {{ echo {line} >{_ROOT}/unexport; }}\n"
            # The shell's own echo does not say why it fails.
            f"if [ ! -e {place} ]; then echo {line} | tee {_ROOT}/export >/dev/null && {note} || exit 1; fi\n"
            # Who may write it is said a moment later, by udev.
            f"i=0; until [ -w {place}/direction ] || [ $i = 200 ]; do sleep 0.01; i=$((i + 1)); done\n"
            f"cd {place} && {command}"
        )
        if not result.ok:
            raise self._refused(chip, number, result.stderr)
        return result.stdout.strip()

    def _number(self, chip: Chip, number: int) -> int:
        if chip.name not in self._bases:
            self.chips()
        return self._bases[chip.name] + number

    def _refused(self, chip: Chip, number: int, output: str) -> CommandFailed:
        return CommandFailed(
            f"{chip.name}:{number} cannot be used",
            output=output,
            where=self._machine.where,
            hint="gpioinfo says who has it",
        )


def _letting_go(line: int) -> str:
    return f"echo in >{_ROOT}/gpio{line}/direction; echo {line} >{_ROOT}/unexport"
