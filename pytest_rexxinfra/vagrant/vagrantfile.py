"""Vagrantfiles of ours: one from a spec, and one around the user's own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from .ruby import Value, literal

FILE = "Vagrantfile"

# Two runs might choose the same port, and machines are reached at their own addresses.
_NO_SSH_PORT = "config.vm.network :forwarded_port, guest: 22, host: 2222, id: 'ssh', disabled: true"

_HEAD = "# Of pytest-rexxinfra; it goes with its machine.\n"
_CONFIGURE = "Vagrant.configure('2') do |config|"


def generated(provider: str, options: Mapping[str, Value], settings: Mapping[str, Value], alias: str) -> str:
    """A Vagrantfile of one machine.

    ``options`` are those of its provider, ``settings`` others by their names, such as ``vm.hostname``; ``alias`` is
    what `vagrant ssh-config` calls it. No folder is synced, and no port forwarded.
    """
    lines = [
        "config.vm.synced_folder '.', '/vagrant', disabled: true",
        "config.vm.allow_fstab_modification = false",
        *(f"config.{name} = {literal(value)}" for name, value in settings.items()),
        *_ours(provider, options, alias),
    ]
    return "\n".join([_HEAD, *_block(_CONFIGURE, lines), ""])


def around(file: Path, machine: str, provider: str, options: Mapping[str, Value], alias: str) -> str:
    """A Vagrantfile that is the user's ``file``, in which ``options`` go over all that it says of its ``machine``."""
    again = _block(f"config.vm.define {literal(machine)} do |config|", _ours(provider, options, alias))
    return "\n".join([_HEAD, f"load {literal(str(file))}", *_block(_CONFIGURE, again), ""])


def _ours(provider: str, options: Mapping[str, Value], alias: str) -> list[str]:
    """What both say of the machine; how it is reached it tells by itself, where asking takes a run of vagrant more."""
    given = (f"provider.{name} = {literal(value)}" for name, value in options.items())
    telling = f"env.cli('ssh-config', machine.name.to_s, '--host', {literal(alias)})"
    return [
        _NO_SSH_PORT,
        *_block(f"config.vm.provider {literal(provider)} do |provider|", given),
        *_block("config.trigger.after [:up, :reload] do |trigger|", [f"trigger.ruby {{ |env, machine| {telling} }}"]),
    ]


def _block(head: str, lines: Iterable[str]) -> list[str]:
    return [head, *(f"  {line}" for line in lines), "end"]
