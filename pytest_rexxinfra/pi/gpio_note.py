"""Which lines a machine holds, noted in the machine: each line of the file is the command that lets one go."""

from __future__ import annotations

import shlex

_NAME = "gpio"


def noted(scratch: str, command: str) -> str:
    """Shell command that notes how something is let go; before it is taken."""
    return f"printf '%s\\n' {shlex.quote(command)} >>{_file(scratch)}"


def let_one_go(scratch: str, command: str) -> str:
    """Shell command that lets one thing go if it is noted, and strikes it out."""
    file, text = _file(scratch), shlex.quote(command)
    strike = f"grep -vxF {text} {file} >{file}.new; mv {file}.new {file}"
    return f"if grep -qsxF {text} {file}; then {command}; {strike}; fi"


def let_all_go(scratch: str) -> str:
    """Shell command that lets everything go which the machine with this scratch directory holds."""
    return f"[ ! -e {_file(scratch)} ] || sh {_file(scratch)}"


def _file(scratch: str) -> str:
    return shlex.quote(f"{scratch}/{_NAME}")
