"""Vagrantfiles of ours: one from a spec, and one around the user's own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from .ruby import Value, literal

FILE = "Vagrantfile"

# Two runs might choose the same port, and machines are reached at their own addresses.
_NO_SSH_PORT = "config.vm.network :forwarded_port, guest: 22, host: 2222, id: 'ssh', disabled: true"

_HEAD = "# Of pytest-rexxinfra; it goes with its machine.\n"


def generated(provider: str, options: Mapping[str, Value], settings: Mapping[str, Value]) -> str:
    """A Vagrantfile of one machine.

    ``options`` are those of its provider, ``settings`` others by their names, such as ``vm.hostname``. No folder is
    synced, and no port forwarded.
    """
    lines = [
        "config.vm.synced_folder '.', '/vagrant', disabled: true",
        _NO_SSH_PORT,
        *(f"config.{name} = {literal(value)}" for name, value in settings.items()),
    ]
    return _HEAD + _configured([*lines, *_provided({provider: options})])


def around(file: Path, options: Mapping[str, Mapping[str, Value]]) -> str:
    """A Vagrantfile that is the user's ``file``, and then ``options`` for each provider, which go over its own."""
    return f"{_HEAD}load {literal(str(file))}\n" + _configured([_NO_SSH_PORT, *_provided(options)])


def _provided(options: Mapping[str, Mapping[str, Value]]) -> list[str]:
    lines = []
    for provider, values in options.items():
        lines.append(f"config.vm.provider {literal(provider)} do |provider|")
        lines += [f"  provider.{name} = {literal(value)}" for name, value in values.items()]
        lines.append("end")
    return lines


def _configured(lines: Iterable[str]) -> str:
    return "\n".join(["Vagrant.configure('2') do |config|", *(f"  {line}" for line in lines), "end", ""])
