"""Kinds of processor: the one an ELF file is for, and those whose programs run in a machine."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

# e_machine of https://refspecs.linuxfoundation.org/elf/gabi4+/ch4.eheader.html, named as `uname -m` does.
_MACHINES = {0x03: "i386", 0x28: "arm", 0x3E: "x86_64", 0xB7: "aarch64", 0xF3: "riscv64"}
_DEBIAN = {"i386": "i386", "arm": "armhf", "x86_64": "amd64", "aarch64": "arm64", "riscv64": "riscv64"}

ASK = 'echo "processor $(uname -m) $(od -An -tu1 -j18 -N1 /bin/sh)"'
"""Shell command that prints the line which `Processor.parse` reads; the number is the ELF machine of the shell."""

_ANSWER = re.compile(r"processor (\S+) +(\d+)")


def elf_machine(path: Path) -> str | None:
    """The processor an ELF file is for, such as ``x86_64``; ``None`` when it is no ELF file."""
    with path.open("rb") as file:
        head = file.read(20)
    if len(head) < 20 or head[:4] != b"\x7fELF":
        return None
    code = int.from_bytes(head[18:20], "little" if head[5] == 1 else "big")
    return _MACHINES.get(code, f"machine {code}")


def debian_name(machine: str) -> str:
    """What Debian calls the architecture of a processor: ``arm64`` for ``aarch64``."""
    return _DEBIAN.get(machine, machine)


@dataclass(frozen=True)
class Processor:
    """The processor of a machine, as its kernel names it and as its own programs are built for.

    The two differ where a system of 32 bits has a kernel of 64, as Raspberry Pi OS of 32 bits has.
    """

    kernel: str
    programs: str

    @classmethod
    def parse(cls, line: str) -> Processor | None:
        """The processor that the answer to `ASK` tells of; ``None`` when it does not."""
        match = _ANSWER.fullmatch(line.strip())
        if match is None or int(match[2]) not in _MACHINES:
            return None
        return cls(match[1], _MACHINES[int(match[2])])

    def runs(self, machine: str | None) -> bool:
        """Whether a program for ``machine`` may run here if it needs no libraries; what is no ELF file may."""
        return machine in (None, self.kernel, self.programs)
