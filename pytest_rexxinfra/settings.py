"""One typed Settings: command line over environment over ``[tool.rexxinfra]`` over the default."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from .errors import UsageError

KEEP_CHOICES = ("never", "failed", "all")


@dataclass(frozen=True)
class Settings:
    """What a run was asked for; ``timeout`` is in seconds, for one command or script."""

    target: str = "local"
    build: str = "auto"
    image: str | None = None
    require: tuple[str, ...] = ()
    timeout: float = 60.0
    keep: str = "never"
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
            for place, value in places:
                if value is not None:
                    values[name] = _CONVERTERS[name](value, place)
                    break
        return cls(**values)


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


def _keep(value: Any, place: str) -> str:
    if value not in KEEP_CHOICES:
        raise UsageError(f"{place}: {value!r} is not one of {', '.join(KEEP_CHOICES)}")
    return str(value)


_CONVERTERS: dict[str, Callable[[Any, str], Any]] = {
    "target": _text,
    "build": _text,
    "image": _text,
    "require": _names,
    "timeout": _seconds,
    "keep": _keep,
    "provision_timeout": _seconds,
    "build_timeout": _seconds,
}
