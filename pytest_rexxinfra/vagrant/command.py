"""The command ``vagrant``: what it says in its machine-readable form, and its failures as errors of ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..deadline import Deadline
from ..errors import (
    CommandFailed,
    DeadlineExceeded,
    ImageError,
    ProvisionError,
    RexxInfraError,
    SystemUnavailable,
    UsageError,
)
from ..tools import run_tool

WHERE = "vagrant"
INSTALL = "apt-get install vagrant, or https://developer.hashicorp.com/vagrant/install"

_ESCAPES = {"%!(VAGRANT_COMMA)": ",", "\\n": "\n", "\\r": "\r"}
_BOX = "is the box there: vagrant box list; add one: vagrant box add NAME-OR-FILE"
_OF_FILE = ("error loading a Vagrantfile", "syntax error in the following Vagrantfile")


@dataclass(frozen=True)
class Line:
    """A line of output: the machine that it is about, or nothing, what kind it is, and the data of that kind.

    See https://developer.hashicorp.com/vagrant/docs/cli/machine-readable.
    """

    target: str
    kind: str
    data: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> Line | None:
        """Read a line, ``None`` for one that is not in this form."""
        time, *parts = text.split(",")
        if len(parts) < 2 or not time.isdecimal():
            return None
        target, kind, *data = parts
        return cls(target, kind, tuple(map(_unescaped, data)))


def _unescaped(text: str) -> str:
    for escape, meaning in _ESCAPES.items():
        text = text.replace(escape, meaning)
    return text


def read(output: str) -> list[Line]:
    """The lines of an output that have the machine-readable form."""
    return [line for line in map(Line.parse, output.splitlines()) if line is not None]


def for_people(output: str) -> str:
    """What a person would have seen: vagrant's words, and all that is not machine-readable."""
    said = []
    for text in output.splitlines():
        line = Line.parse(text)
        if line is None:
            said.append(text)
        elif line.kind == "ui" and line.data:
            said.append(line.data[-1])
    return "\n".join(said)


def vagrant(
    words: Sequence[str],
    *,
    deadline: Deadline,
    cwd: Path,
    env: Mapping[str, str | None],
    where: str = WHERE,
    giving_way: bool = False,
) -> str:
    """Run ``vagrant`` as `run_tool` does, and return what it printed.

    Raises `UsageError` for a Vagrantfile that cannot be right, `ImageError` for a box that cannot be had,
    `SystemUnavailable` without vagrant or the provider, else `ProvisionError`, each with the output.
    """
    environment = {"VAGRANT_CHECKPOINT_DISABLE": "1", "VAGRANT_NO_COLOR": "1", **env}
    command = ["vagrant", *words, "--machine-readable"]
    try:
        return run_tool(
            command, deadline=deadline, where=where, cwd=cwd, env=environment, hint=INSTALL, giving_way=giving_way
        )
    except CommandFailed as failure:
        raise told(words, failure.output or "", where) from failure
    except DeadlineExceeded as late:
        late.output, late.hint = for_people(late.output or ""), None
        raise


def told(words: Sequence[str], output: str, where: str) -> RexxInfraError:
    """The error that a failed run of vagrant stands for."""
    story = for_people(output)
    ends = [line.data for line in read(output) if line.kind == "error-exit" and line.data]
    kind = ends[-1][0].rpartition("::")[2] if ends else ""
    command = ["vagrant", *words]
    error: type[RexxInfraError] = ProvisionError
    message, hint = f"vagrant {words[0]} failed", None
    if any(each in story for each in _OF_FILE) or kind in ("ConfigInvalid", "VagrantfileNameError"):
        error, message = UsageError, "the Vagrantfile cannot be used"
    elif kind == "MachineNotFound":
        error, message = UsageError, "the Vagrantfile has no such machine"
    elif kind.startswith("Provider"):
        error, message = SystemUnavailable, "vagrant cannot use the provider"
        hint = "vagrant plugin list; for libvirt: apt-get install vagrant-libvirt"
    elif "Box" in kind or kind == "DownloaderError":
        error, message, hint = ImageError, "the box cannot be had", _BOX
    return error(message, command=command, output=story, where=where, hint=hint)
