"""What machines may be and what may be run in them: one policy for a run, from the user's own settings."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import commands, mounts
from .errors import PolicyViolation, UsageError
from .model import Capability, Spec, Volume, parse_size

if TYPE_CHECKING:
    from .rexx.builds import Build

GRANTS = ("privileged", "host-network", "host-pid", "network")
"""What ``allow`` may name: wishes that a mode refuses by itself."""

UNBOUNDED = "none"
"""The value of a ceiling that there is not."""

_OWN_NAME = re.compile(r"rexx-.+-[0-9a-f]{12}")
_PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_DIGEST = re.compile(r"(?:sha256:)?([0-9a-f]{12,64})")
_PATH_IMAGE = re.compile(r"[./~].*|.*\.(toml|tar|tar\.\w+|tgz|txz)", re.DOTALL)


class Mode(StrEnum):
    """How much is allowed without being named."""

    STRICT = "strict"
    MODERATE = "moderate"
    PERMISSIVE = "permissive"


@dataclass(frozen=True)
class Policy:
    """What machines may be and do. ``permissive`` refuses nothing, whatever else is set.

    ``images`` are patterns, ``volumes`` directories, ``trusted_builds`` digests, paths or ``regina``;
    ``banned_commands`` are patterns for the first words of a command. ``allow`` names `GRANTS`.
    ``max_memory`` is in bytes, ``max_machines`` for each system; a ceiling of ``None`` is none.
    A list of images or builds that is ``None`` was not given. ``root`` is the project's directory. `of` gives
    a mode with its ceilings, `read` what the user wrote.
    """

    mode: Mode = Mode.MODERATE
    images: tuple[str, ...] | None = None
    volumes: tuple[Path, ...] = ()
    trusted_builds: tuple[str, ...] | None = None
    banned_commands: tuple[str, ...] = ()
    allow: tuple[str, ...] = ()
    max_memory: int | None = None
    max_cpus: float | None = None
    max_pids: int | None = None
    max_machines: int | None = None
    root: Path = field(default_factory=Path.cwd)

    @classmethod
    def of(cls, mode: Mode | str, root: Path | None = None) -> Policy:
        """A mode with its ceilings; ``root`` is the current directory when left out."""
        ceilings = _STRICT_CEILINGS if mode == Mode.STRICT else {}
        return cls(_mode(mode, "policy"), root=root or Path.cwd(), **ceilings)

    @classmethod
    def read(
        cls, table: Mapping[str, Any], place: str, root: Path, mode: str | None = None, mode_place: str = ""
    ) -> Policy:
        """The policy of a table at ``place``; ``mode`` from elsewhere goes over that of the table.

        Raises `UsageError` naming the place of a key that is unknown or of a value that cannot be right.
        """
        known = ["mode", *_READERS]
        for key in table:
            if key.replace("-", "_") not in known:
                raise UsageError(f"{place} has no {key!r}", hint=f"it can have: {', '.join(known)}")
        values = {key.replace("-", "_"): value for key, value in table.items()}
        own = _mode(values.pop("mode", Mode.MODERATE), f"{place}, mode")
        chosen = own if mode is None else _mode(mode, mode_place)
        read = {key: _READERS[key](value, f"{place}, {key}", root) for key, value in values.items()}
        return replace(cls.of(chosen, root), **read)

    def admit(self, spec: Spec, capabilities: Iterable[Capability], where: str) -> Spec:
        """The spec as it may be made: with the ceilings filled in, and with paths that have been looked at.

        Raises `PolicyViolation` for what may not be made.
        """
        if self.mode == Mode.PERMISSIVE:
            return spec
        self._check_rights(spec, where)
        if spec.image is not None:
            self._check_image(spec.image, where)
        if spec.build is not None:
            self.check_build(spec.build, where)
        for command in (spec.command, spec.health and spec.health.command):
            if command:
                self.check_command(command, where)
        spec = spec.but(volumes=tuple(self._checked(volume, where) for volume in spec.volumes))
        able = frozenset(capabilities)
        return self._with_network(self._with_ceilings(spec, able, where), able, where)

    @property
    def bound(self) -> int | None:
        """Most machines at a time in a system."""
        return None if self.mode == Mode.PERMISSIVE else self.max_machines

    def check_build(self, build: Build, where: str) -> None:
        """Raises `PolicyViolation` for a build that is not trusted, where there is a list of those that are."""
        if self.mode == Mode.PERMISSIVE or (self.mode == Mode.MODERATE and self.trusted_builds is None):
            return
        program = (build.root / build.entry).resolve()
        for trusted in self.trusted_builds or ():
            digest = _DIGEST.fullmatch(trusted)
            if digest:
                found = build.digest.startswith(digest[1])
            elif trusted == "regina":
                found = build.kind == "regina"
            else:
                found = program.is_relative_to(Path(trusted).resolve())
            if found:
                return
        raise self._violation(
            "trusted_builds",
            f"the build {build.label}",
            where,
            f'trusted_builds = ["{build.digest[:16]}"] trusts exactly these files',
        )

    def check_command(
        self, command: str | Sequence[str], where: str, shown: str | None = None, own_disks: bool = False
    ) -> None:
        """Raises `PolicyViolation` for a command that destroys, or that the user has banned.

        A machine with ``own_disks`` may write to them.
        """
        if self.mode == Mode.PERMISSIVE:
            return
        why = commands.refusal(command, self.banned_commands, own_disks)
        if why:
            text = shown or (command if isinstance(command, str) else " ".join(command))
            raise self._violation("banned_commands", why, where, "", command=text)

    def check_directory(self, path: str, where: str) -> None:
        """Raises `PolicyViolation` for a directory in which no machine may have disks.

        It may be another computer's: then only its name is looked at.
        """
        if self.mode == Mode.PERMISSIVE:
            return
        place = Path(path).resolve()
        refused = mounts.refusal(place)
        if refused is None and not any(place.is_relative_to(each) for each in self._places()):
            refused = mounts.system_refusal(place, read_only=False)
            if refused is None and self.mode == Mode.STRICT:
                refused = "volumes", f"it is not in {', '.join(map(str, self._places()))}"
        if refused:
            raise self._violation(refused[0], f"disks in {path}: {refused[1]}", where, f'volumes = ["{place}"]')

    def _check_rights(self, spec: Spec, where: str) -> None:
        asked = (
            ("privileged", spec.privileged, "a privileged machine"),
            ("host-network", spec.network == "host", "a machine with the host's network"),
            ("host-pid", spec.host_pid, "a machine with the host's processes"),
        )
        for right, wish, what in asked:
            if wish and right not in self.allow:
                raise self._violation(right, what, where, f'allow = ["{right}"]')
        if spec.network is not None and not _PLAIN_NAME.fullmatch(spec.network):
            raise self._violation("network", f"the network {spec.network!r}", where, "")

    def _check_image(self, image: str, where: str) -> None:
        if self.mode == Mode.MODERATE and self.images is None:
            return
        from .images.recipe import built_in_recipes

        if image in built_in_recipes():
            return
        if _PATH_IMAGE.fullmatch(image) or Path(image).exists():
            given = [str(Path(image).expanduser().resolve())]
        else:
            given = [image] if re.search(r"[:@][^/]*$", image) else [image, f"{image}:latest"]
        if not any(_matches(name, pattern) for name in given for pattern in self.images or ()):
            raise self._violation("images", f"the image {image!r}", where, f'images = ["{given[0]}"]')

    def _checked(self, volume: Volume, where: str) -> Volume:
        """A volume whose source has been looked at: a path without links, or the name of a volume."""
        if "/" not in volume.source and not volume.source.startswith((".", "~")):
            if self.mode == Mode.STRICT and not _OWN_NAME.fullmatch(volume.source):
                raise self._violation("volumes", f"the volume {volume.source}, which this run did not make", where, "")
            return volume
        try:
            path = Path(volume.source).expanduser().resolve(strict=True)
        except (OSError, RuntimeError) as error:
            raise UsageError(f"volume {volume.source!r} does not exist: {error}", where=where) from error
        refused = mounts.refusal(path)
        if refused:
            raise self._violation(refused[0], f"the volume {volume.source}: {refused[1]}", where, "")
        if not any(path.is_relative_to(place) for place in self._places()):
            told = f'volumes = ["{path}"]'
            if self.mode == Mode.STRICT:
                places = ", ".join(map(str, self._places()))
                raise self._violation("volumes", f"the volume {volume.source}, which is not in {places}", where, told)
            refused = mounts.system_refusal(path, volume.read_only)
            if refused:
                raise self._violation(refused[0], f"the volume {volume.source}: {refused[1]}", where, told)
        return replace(volume, source=str(path))

    def _places(self) -> list[Path]:
        """The directories in which volumes may be."""
        root = self.root.resolve()
        own = [*([] if mounts.is_system(root) else [root]), *mounts.temporary()]
        return [*self.volumes, *(own if self.mode != Mode.STRICT or not self.volumes else [])]

    def _with_ceilings(self, spec: Spec, capabilities: frozenset[Capability], where: str) -> Spec:
        """The spec with what it leaves open set to the ceilings; raises for what is above them."""
        ceilings = {name: getattr(self, f"max_{name}") for name in ("memory", "cpus", "pids")}
        ceilings = {name: ceiling for name, ceiling in ceilings.items() if ceiling is not None}
        if ceilings and Capability.LIMITS not in capabilities:
            lifted = ", ".join(f'max_{name} = "{UNBOUNDED}"' for name in ceilings)
            wanted = f"a machine whose {', '.join(ceilings)} cannot be limited"
            raise self._violation("limits", wanted, where, f"another target, or {lifted}")
        for name, ceiling in ceilings.items():
            wished = getattr(spec, name)
            if wished is not None and wished > ceiling:
                raise self._violation(
                    f"max_{name}", f"{name} {wished:g}, more than {ceiling:g}", where, f"max_{name} = {wished:g}"
                )
            if wished is None:
                # A system may refuse more processors than there are.
                spec = spec.but(**{name: min(ceiling, os.cpu_count() or 1) if name == "cpus" else ceiling})
        return spec

    def _with_network(self, spec: Spec, capabilities: frozenset[Capability], where: str) -> Spec:
        """Under ``strict`` a machine has no network, or one that the run made."""
        if self.mode != Mode.STRICT or "network" in self.allow or spec.network in ("none", "host"):
            return spec
        outside = spec.ports or spec.pod
        if spec.network is None and not outside and Capability.NETWORK_NONE in capabilities:
            return spec.but(network="none")
        if spec.network is None or not _OWN_NAME.fullmatch(spec.network):
            wanted = "the system's own network" if spec.network is None else f"the network {spec.network!r}"
            raise self._violation("network", wanted, where, 'a network of the run, or allow = ["network"]')
        return spec

    def _violation(
        self, rule: str, wanted: str, where: str, allowing: str, command: str | None = None
    ) -> PolicyViolation:
        key = f"{allowing} in [tool.rexxinfra.policy] of pyproject.toml, or " if allowing else ""
        return PolicyViolation(
            f"the policy {self.mode} refuses {wanted} (rule {rule})",
            mode=str(self.mode),
            rule=rule,
            where=where,
            command=command,
            hint=f"to allow it: {key}--rexx-policy=permissive",
        )


_STRICT_CEILINGS: Mapping[str, Any] = {
    "max_memory": 2 << 30,
    "max_cpus": 2.0,
    "max_pids": 1024,
    "max_machines": 5,
}


def _matches(name: str, pattern: str) -> bool:
    """Whether a pattern means a name; its ``*`` does not reach over a slash."""
    names, patterns = name.split("/"), pattern.split("/")
    return len(names) == len(patterns) and all(map(fnmatchcase, names, patterns))


def _mode(value: Any, place: str) -> Mode:
    if value not in list(Mode):
        raise UsageError(f"{place}: {value!r} is not one of {', '.join(Mode)}")
    return Mode(value)


def _texts(value: Any, place: str, root: Path) -> tuple[str, ...]:
    listed = [value] if isinstance(value, str) else value
    if not isinstance(listed, list) or not all(isinstance(each, str) and each.strip() for each in listed):
        raise UsageError(f"{place}: {value!r} is not a list of texts")
    return tuple(each.strip() for each in listed)


def _absolute(text: str, root: Path) -> str:
    """A path in the settings is taken from the project's directory; any other text stays as it is."""
    return str((root / Path(text).expanduser()).resolve()) if text.startswith((".", "/", "~")) else text


def _images(value: Any, place: str, root: Path) -> tuple[str, ...]:
    return tuple(_absolute(each, root) for each in _texts(value, place, root))


def _directories(value: Any, place: str, root: Path) -> tuple[Path, ...]:
    paths = tuple((root / Path(each).expanduser()).resolve() for each in _texts(value, place, root))
    for path in paths:
        if not path.exists():
            raise UsageError(f"{place}: {path} does not exist")
    return paths


def _builds(value: Any, place: str, root: Path) -> tuple[str, ...]:
    builds = tuple(_absolute(each, root) for each in _texts(value, place, root))
    for each in builds:
        if each != "regina" and not each.startswith("/") and not _DIGEST.fullmatch(each):
            raise UsageError(
                f"{place}: {each!r} is no build",
                hint="a path such as ./RexxJS, 12 or more digits of a digest, or regina",
            )
    return builds


def _banned(value: Any, place: str, root: Path) -> tuple[str, ...]:
    banned = _texts(value, place, root)
    for each in banned:
        try:
            commands.check_pattern(each)
        except ValueError as wrong:
            raise UsageError(f"{place}: {each!r} cannot be read: {wrong}") from wrong
    return banned


def _grants(value: Any, place: str, root: Path) -> tuple[str, ...]:
    grants = _texts(value, place, root)
    for each in grants:
        if each not in GRANTS:
            raise UsageError(f"{place}: {each!r} is not one of {', '.join(GRANTS)}")
    return grants


def _memory(value: Any, place: str, root: Path) -> int | None:
    return None if value == UNBOUNDED else parse_size(value, place)


def _number(kind: type[int] | type[float]) -> Any:
    def read(value: Any, place: str, root: Path) -> int | float | None:
        if value == UNBOUNDED:
            return None
        right = isinstance(value, (int, kind)) and not isinstance(value, bool)
        if not right or not 0 < value < float("inf"):
            raise UsageError(f"{place}: {value!r} is not a number above 0, nor {UNBOUNDED!r}")
        return kind(value)

    return read


_READERS: dict[str, Any] = {
    "images": _images,
    "volumes": _directories,
    "trusted_builds": _builds,
    "banned_commands": _banned,
    "allow": _grants,
    "max_memory": _memory,
    "max_cpus": _number(float),
    "max_pids": _number(int),
    "max_machines": _number(int),
}
