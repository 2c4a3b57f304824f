"""One typed Settings: command line over environment over ``[tool.rexxinfra]`` over the default."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from .errors import UsageError
from .paths import audit_path
from .policy import Policy

KEEP_CHOICES = ("never", "failed", "all")
HOST_KEY_CHOICES = ("strict", "accept-new", "off")
KVM_ACCELERATIONS = ("auto", "kvm", "tcg")
VAGRANT_PROVIDERS = ("docker", "libvirt")
OFF = "off"


@dataclass(frozen=True)
class Settings:
    """What a run was asked for; ``timeout`` is in seconds, for one command or script.

    ``build`` may name several, with commas. ``scripts`` are patterns of the files that are tests themselves,
    ``compare`` names the build that each of them is compared with.
    ``max`` maps a system, or ``*`` for every other one, to how many machines there may be in it at a time.
    ``audit`` is the file of the audit log, ``off``, or empty for its usual place.
    ``ssh_host`` and ``pi_host`` are the hosts of targets that name none; the others are explained in `ssh.options`.
    ``kvm_nodes`` are libvirt hosts by the names that targets have for them, as `kvm.address.declared` reads them;
    ``kvm_acceleration`` says whether their guests are run by the processor itself.
    ``vagrantfile`` is the Vagrantfile of a target ``vagrant``, or its directory; without it one is generated.
    """

    target: str = "local"
    build: str = "auto"
    scripts: tuple[str, ...] = ()
    compare: str | None = None
    known_differences: Path | None = None
    update_expected: bool = False
    image: str | None = None
    require: tuple[str, ...] = ()
    timeout: float = 60.0
    keep: str = "never"
    reuse: bool = False
    pool: int = 2
    max: Mapping[str, int] = field(default_factory=dict)
    artifacts: Path | None = None
    allow_leaks: bool = False
    policy: Policy = field(default_factory=Policy)
    audit: str = ""
    ssh_host: str | None = None
    ssh_scratch: str = "/var/tmp"
    ssh_config: str | None = None
    ssh_identity: tuple[str, ...] = ()
    ssh_known_hosts: str | None = None
    ssh_host_keys: str | None = None
    pi_host: str | None = None
    kvm_nodes: str | Mapping[str, Any] = field(default_factory=dict)
    kvm_acceleration: str = "auto"
    vagrant_provider: str = "docker"
    vagrantfile: str | None = None
    provision_timeout: float = 120.0
    build_timeout: float = 1200.0

    @classmethod
    def load(
        cls,
        given: Mapping[str, Any] | None = None,
        *,
        environ: Mapping[str, str] | None = None,
        root: Path | None = None,
    ) -> Settings:
        """Settings from options ``given`` (``None`` is not given), ``REXX_*`` variables and pyproject.toml.

        ``root`` is where the search for a pyproject.toml starts, upwards. Raises `UsageError` that
        names the place of a value that cannot be right.
        """
        environ = os.environ if environ is None else environ
        names = [each.name for each in fields(cls)]
        file, table = _pyproject(root or Path.cwd())
        for key in table:
            if key.replace("-", "_") not in names:
                raise UsageError(f"{file}: [tool.rexxinfra] has no {key!r}", hint=f"it can have: {', '.join(names)}")
        values: dict[str, Any] = {}
        for name in names:
            variable = f"REXX_{name.upper()}"
            places = (
                (f"--rexx-{name.replace('_', '-')}", (given or {}).get(name)),
                (f"${variable}", environ.get(variable) or None),
                (f"{file}, {name}", table.get(name, table.get(name.replace("_", "-")))),
            )
            if name == "policy":
                values[name] = _policy(places, file.parent)
                continue
            for place, value in places:
                if value is not None:
                    values[name] = _CONVERTERS[name](value, place)
                    break
        return cls(**values)

    @property
    def bounds(self) -> Mapping[str, int]:
        """``max``, with no number above that of the policy."""
        most = self.policy.bound
        if most is None:
            return self.max
        return {"*": most, **{system: min(most, number) for system, number in self.max.items()}}

    @property
    def audit_file(self) -> Path | None:
        """The file of the audit log, or ``None`` when there is to be none."""
        return None if self.audit == OFF else Path(self.audit) if self.audit else audit_path()


def _pyproject(start: Path) -> tuple[Path, Mapping[str, Any]]:
    for folder in (start, *start.parents):
        file = folder / "pyproject.toml"
        if file.is_file():
            try:
                return file, tomllib.loads(file.read_text("utf-8")).get("tool", {}).get("rexxinfra", {})
            except tomllib.TOMLDecodeError as wrong:
                raise UsageError(f"{file} is not TOML: {wrong}") from wrong
    return start / "pyproject.toml", {}


def _text(value: Any, place: str) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def _names(value: Any, place: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in _text(value, place).split(",") if part.strip())


def _seconds(value: Any, place: str) -> float:
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise UsageError(f"{place}: {value!r} is not a number of seconds above 0")
    return seconds


def _one_of(choices: Sequence[str]) -> Callable[[Any, str], str]:
    def check(value: Any, place: str) -> str:
        if value not in choices:
            raise UsageError(f"{place}: {value!r} is not one of {', '.join(choices)}")
        return str(value)

    return check


def _absolute(value: Any, place: str) -> str:
    """A path that means the same in whatever directory the run is later."""
    return str(Path(str(value)).expanduser().absolute())


def _place(value: Any, place: str) -> str:
    """A directory on some other computer, which our own commands can name without quotes."""
    if not re.fullmatch(r"/[\w./-]*", str(value), re.ASCII):
        raise UsageError(
            f"{place}: {value!r} is not the absolute path of a directory",
            hint="letters, digits, '.', '_', '-' and '/', for example /var/tmp",
        )
    return str(value).rstrip("/")


def _flag(value: Any, place: str) -> bool:
    if isinstance(value, bool):
        return value
    known = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
    if str(value).lower() not in known:
        raise UsageError(f"{place}: {value!r} is neither true nor false")
    return known[str(value).lower()]


def _count(value: Any, place: str) -> int:
    if not str(value).isdecimal():
        raise UsageError(f"{place}: {value!r} is not a number of machines, 0 or more")
    return int(value)


def _limits(value: Any, place: str) -> dict[str, int]:
    """``4``, or ``docker=4,local=8``, or both: ``2,docker=4``; in a file also a table."""
    pairs = value.items() if isinstance(value, Mapping) else map(_limit_pair, _names(value, place))
    limits = {}
    for system, number in pairs:
        if not str(number).isdecimal() or int(number) == 0:
            raise UsageError(f"{place}: {number!r} is not a number of machines, 1 or more", hint="4, or docker=4")
        limits[str(system)] = int(number)
    return limits


def _limit_pair(text: str) -> tuple[str, str]:
    system, sign, number = text.partition("=")
    return (system.strip(), number.strip()) if sign else ("*", text)


def _path(value: Any, place: str) -> Path:
    path = Path(str(value)).expanduser().absolute()
    if path.exists() and not path.is_dir():
        raise UsageError(f"{place}: {path} is not a directory")
    return path


def _nodes(value: Any, place: str) -> str | Mapping[str, Any]:
    """Libvirt hosts, as text or as a table; checked here, and read by who needs them."""
    from .kvm.address import declared

    try:
        declared(value)
    except UsageError as error:
        raise UsageError(f"{place}: {error.message}", hint=error.hint) from error
    return value if isinstance(value, Mapping) else str(value)


def _file(value: Any, place: str) -> Path:
    path = Path(str(value)).expanduser().absolute()
    if not path.is_file():
        raise UsageError(f"{place}: there is no file {path}")
    return path


def _policy(places: Sequence[tuple[str, Any]], root: Path) -> Policy:
    """A mode from the command line or the environment goes over that of the file, and leaves the rest of its table."""
    *outer, (place, table) = places
    mode_place, mode = next(((where, str(value)) for where, value in outer if value is not None), ("", None))
    if not isinstance(table, Mapping):
        table = {} if table is None else {"mode": table}
    return Policy.read(table, place, root, mode, mode_place)


def _audit(value: Any, place: str) -> str:
    if value is False or str(value) == OFF:
        return OFF
    path = Path(str(value)).expanduser().absolute()
    if path.is_dir():
        raise UsageError(f"{place}: {path} is a directory", hint=f"name a file, or {OFF}")
    return str(path)


_CONVERTERS: dict[str, Callable[[Any, str], Any]] = {
    "target": _text,
    "build": _text,
    "image": _text,
    "scripts": _names,
    "compare": _text,
    "known_differences": _file,
    "update_expected": _flag,
    "require": _names,
    "timeout": _seconds,
    "keep": _one_of(KEEP_CHOICES),
    "reuse": _flag,
    "pool": _count,
    "max": _limits,
    "artifacts": _path,
    "allow_leaks": _flag,
    "audit": _audit,
    "ssh_host": _text,
    "ssh_scratch": _place,
    "ssh_config": _text,
    "ssh_identity": _names,
    "ssh_known_hosts": _text,
    "ssh_host_keys": _one_of(HOST_KEY_CHOICES),
    "pi_host": _text,
    "kvm_nodes": _nodes,
    "kvm_acceleration": _one_of(KVM_ACCELERATIONS),
    "vagrant_provider": _one_of(VAGRANT_PROVIDERS),
    "vagrantfile": _absolute,
    "provision_timeout": _seconds,
    "build_timeout": _seconds,
}
