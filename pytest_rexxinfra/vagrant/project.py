"""A Vagrantfile of the user, and which of its machines is meant."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..deadline import Deadline
from ..errors import UsageError
from .command import WHERE, read, vagrant
from .vagrantfile import FILE


@dataclass(frozen=True)
class Project:
    """A Vagrantfile; paths in it are relative to ``folder``, where it is."""

    file: Path

    @classmethod
    def parse(cls, text: str) -> tuple[Project, str | None]:
        """Read ``PATH`` or ``PATH#NAME``; the path is a Vagrantfile or its directory. Raises `UsageError`."""
        path, name = Path(text).expanduser(), ""
        if not path.exists():
            before, sign, name = text.rpartition("#")
            path = Path(before).expanduser() if sign else path
        file = path / FILE if path.is_dir() else path
        if not file.is_file():
            raise UsageError(
                f"there is no Vagrantfile at {path.absolute()}",
                where=WHERE,
                hint="a target is vagrant://DIRECTORY or, of several machines, vagrant://DIRECTORY#NAME",
            )
        return cls(file.resolve()), name or None

    @property
    def folder(self) -> Path:
        return self.file.parent

    def choose(self, name: str | None, provider: str, deadline: Deadline) -> str:
        """The machine that ``name`` means, the only one without it. Raises `UsageError` naming those that there are."""
        names = self._names(provider, deadline)
        if name in names:
            return str(name)
        if name is None and len(names) == 1:
            return names[0]
        said = f"the Vagrantfile has no machine {name!r}" if name else "the Vagrantfile has several machines"
        raise UsageError(
            said,
            where=str(self.file),
            hint=f"there are: {', '.join(names)}; choose with vagrant://{self.folder}#{names[0]} or image={names[0]!r}",
        )

    def _names(self, provider: str, deadline: Deadline) -> Sequence[str]:
        """The machines of the Vagrantfile, in its order; asked again when it has changed."""
        key = self.file, self.file.stat().st_mtime_ns, provider
        if key not in _KNOWN:
            with tempfile.TemporaryDirectory() as dotfile:
                env = {
                    "VAGRANT_CWD": str(self.folder),
                    "VAGRANT_VAGRANTFILE": self.file.name,
                    "VAGRANT_DOTFILE_PATH": dotfile,
                    "VAGRANT_DEFAULT_PROVIDER": provider,
                }
                output = vagrant(["status"], deadline=deadline, cwd=self.folder, env=env, where=str(self.file))
            _KNOWN[key] = [line.target for line in read(output) if line.kind == "state"]
        return _KNOWN[key]


_KNOWN: dict[tuple[Path, int, str], Sequence[str]] = {}
