"""A Vagrantfile of the user, and which of its machines is meant."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..deadline import Deadline
from ..errors import UsageError
from ..paths import cache_dir
from .command import WHERE, read, vagrant
from .vagrantfile import FILE


@dataclass(frozen=True)
class Project:
    """A Vagrantfile; paths in it are relative to ``folder``, where it is.

    ``machine`` is the one that is meant unless another is asked for.
    """

    file: Path
    machine: str | None = None

    @classmethod
    def parse(cls, text: str) -> Project:
        """Read ``PATH`` or ``PATH#NAME``; the path is a Vagrantfile or its directory. Raises `UsageError`."""
        path, machine = Path(text).expanduser(), ""
        if not path.exists():
            before, sign, machine = text.rpartition("#")
            path = Path(before).expanduser() if sign else path
        file = path / FILE if path.is_dir() else path
        if not file.is_file():
            raise UsageError(
                f"there is no Vagrantfile at {path.absolute()}",
                where=WHERE,
                hint="a target is vagrant://DIRECTORY or, of several machines, vagrant://DIRECTORY#NAME",
            )
        return cls(file.resolve(), machine or None)

    @property
    def folder(self) -> Path:
        return self.file.parent

    def choose(self, machine: str | None, provider: str, deadline: Deadline) -> str:
        """The machine that is asked for, else the one that is meant, else the only one there is.

        Raises `UsageError` with the names of those that there are.
        """
        wanted = machine or self.machine
        there = self._machines(provider, deadline)
        if wanted in there:
            return str(wanted)
        if wanted is None and len(there) == 1:
            return there[0]
        said = f"the Vagrantfile has no machine {wanted!r}" if wanted else "the Vagrantfile has several machines"
        raise UsageError(
            said,
            where=str(self.file),
            hint=f"there are: {', '.join(there)}; choose with vagrant://{self.folder}#{there[0]} or image={there[0]!r}",
        )

    def _machines(self, provider: str, deadline: Deadline) -> Sequence[str]:
        """The machines of the Vagrantfile, in its order; asked again when it has changed."""
        key = self.file, self.file.stat().st_mtime_ns, provider
        if key not in _KNOWN:
            env = {
                "VAGRANT_CWD": str(self.folder),
                "VAGRANT_VAGRANTFILE": self.file.name,
                "VAGRANT_DOTFILE_PATH": str(_nothing_up(self.file)),
                "VAGRANT_DEFAULT_PROVIDER": provider,
            }
            output = vagrant(["status"], deadline=deadline, cwd=self.folder, env=env, where=str(self.file))
            _KNOWN[key] = [line.target for line in read(output) if line.kind == "state"]
        return _KNOWN[key]


_KNOWN: dict[tuple[Path, int, str], Sequence[str]] = {}


def _nothing_up(file: Path) -> Path:
    """A place for what vagrant writes of an environment in which nothing is ever up; the user's own is not touched."""
    return cache_dir() / "vagrant" / hashlib.sha256(str(file).encode()).hexdigest()[:16]
