"""What is brought to a machine with another processor, and what is refused before anything is."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_rexxinfra.deadline import Deadline
from pytest_rexxinfra.errors import BuildError
from pytest_rexxinfra.processor import Processor
from pytest_rexxinfra.rexx.build import Build
from pytest_rexxinfra.rexx.deployment import deploy

PI = Processor(kernel="aarch64", programs="aarch64")
PI_OF_32_BITS = Processor(kernel="aarch64", programs="arm")
CODES = {"x86_64": 0x3E, "aarch64": 0xB7, "arm": 0x28}


class Bare:
    """A machine with nothing in it, which only says what processor it has, and is to be given nothing."""

    where = "pi:m1"
    resource = None
    driver = SimpleNamespace(home=lambda resource: "/home/pi/rexxinfra")

    def __init__(self, processor: Processor) -> None:
        self.processor = processor

    def sees(self, path: str) -> bool:
        return False

    def run(self, command: str, **options: Any) -> SimpleNamespace:
        assert "od -An" in command
        return SimpleNamespace(
            lines=["build", "hooks", f"processor {self.processor.kernel} {CODES[self.processor.programs]}"]
        )


def build(folder: Path, processor: str | None, *, needs_node: bool = False) -> Build:
    content = b"console.log(1)\n"
    if processor is not None:
        content = b"\x7fELF\x02\x01" + bytes(12) + CODES[processor].to_bytes(2, "little")
    (folder / "rexx").write_bytes(content)
    kind = "checkout" if needs_node else "binary"
    return Build("RexxJS", "rexxjs", kind, "0" * 64, folder, "rexx", needs_node, listed=("rexx",))  # type: ignore[arg-type]


def brought(machine: Bare, what: Build) -> tuple[str, ...]:
    return deploy(machine, what, Deadline(5)).argv  # type: ignore[arg-type]


def test_a_binary_for_another_processor_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="RexxJS is for x86_64, and the machine for aarch64") as caught:
        brought(Bare(PI), build(tmp_path, "x86_64"))
    assert "checkout" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("machine", "made_for"), [(PI, "aarch64"), (PI, None), (PI_OF_32_BITS, "arm"), (PI_OF_32_BITS, "aarch64")]
)
def test_a_binary_that_may_run_is_taken(tmp_path: Path, machine: Processor, made_for: str | None) -> None:
    (program,) = brought(Bare(machine), build(tmp_path, made_for))
    assert program == f"/home/pi/rexxinfra/builds/{'0' * 16}/rexx"


def test_a_system_for_which_there_is_no_node_to_bring_is_told_to_install_it(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="none that could be brought to programs for arm") as caught:
        brought(Bare(PI_OF_32_BITS), build(tmp_path, None, needs_node=True))
    assert caught.value.hint == "install it in the machine: sudo apt-get install nodejs"
