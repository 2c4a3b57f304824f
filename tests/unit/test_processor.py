"""Which processor a program is for, and which ones a machine runs."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_rexxinfra.processor import ASK, Processor, debian_name, elf_machine


def elf(machine: int, path: Path) -> Path:
    """A file that begins like a program for a processor."""
    path.write_bytes(b"\x7fELF\x02\x01" + bytes(12) + machine.to_bytes(2, "little"))
    return path


def test_a_program_is_for_the_processor_in_its_header(tmp_path: Path) -> None:
    assert elf_machine(Path(sys.executable).resolve()) == platform.machine()
    assert elf_machine(elf(0xB7, tmp_path / "program")) == "aarch64"
    assert elf_machine(elf(0x28, tmp_path / "program")) == "arm"
    assert elf_machine(elf(0x7777, tmp_path / "program")) == f"machine {0x7777}"


def test_a_script_is_for_every_processor(tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("#!/bin/sh\necho this is no ELF file\n")
    assert elf_machine(script) is None
    assert Processor("aarch64", "arm").runs(None)


def test_this_computer_answers_what_it_is() -> None:
    answer = subprocess.run(["/bin/sh", "-c", ASK], capture_output=True, text=True, check=True).stdout
    assert Processor.parse(answer) == Processor(platform.machine(), platform.machine())


def test_a_32_bit_system_with_a_64_bit_kernel_runs_programs_of_both() -> None:
    pi = Processor.parse("processor aarch64   40")
    assert pi == Processor(kernel="aarch64", programs="arm")
    assert pi.runs("aarch64")
    assert pi.runs("arm")
    assert not pi.runs("x86_64")


@pytest.mark.parametrize("line", ["processor x86_64 ", "processor  62", "build", "", "processor sparc64 2"])
def test_an_answer_that_says_nothing_is_none(line: str) -> None:
    assert Processor.parse(line) is None


def test_debian_has_names_of_its_own() -> None:
    assert [debian_name(each) for each in ("x86_64", "aarch64", "arm")] == ["amd64", "arm64", "armhf"]
