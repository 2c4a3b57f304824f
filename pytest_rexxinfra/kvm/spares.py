"""What is kept on a node for later machines: disks of images, files, kernels; the newest of each, and what is used."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from .home import Home
from .template import PREFIX, Templates

_KEPT = {"base-": 8, "disk-": 8, "file-": 8, "kernel-": 4, "initrd-": 4}
"""How the names of the volumes of a kind begin, and how many of it stay in any case."""
_YOUNG = 24 * 3600.0
"""Seconds in which nothing goes, for somebody may be about to begin a machine with it."""


def trim(home: Home, templates: Templates, domains: Callable[[], list[str]]) -> None:
    """Remove the older volumes that no machine needs. ``domains`` gives the XML of every domain there."""
    remove_unused(_outdated(home), home, templates, domains)


def _outdated(home: Home) -> Iterator[str]:
    names = home.names()
    for kind, most in _KEPT.items():
        volumes = [name for name in names if name.startswith(kind)]
        if len(volumes) > most:
            made = {name: home.made(name) for name in volumes}
            for name in sorted(volumes, key=made.__getitem__)[:-most]:
                if made[name] < time.time() - _YOUNG:
                    yield name


def remove_unused(volumes: Iterable[str], home: Home, templates: Templates, domains: Callable[[], list[str]]) -> None:
    """Remove those of the volumes that no machine needs, with the templates that begin from them."""
    unneeded = sorted(volumes)
    if not unneeded:
        return
    described, below = domains(), _below_machines(home)
    for volume in unneeded:
        path = str(home.path / volume)
        if path not in below and not any(path in xml for xml in described):
            templates.forget_over(path)
            home.delete(volume)


def _below_machines(home: Home) -> set[str]:
    """What disks are over, which a machine that is off does not tell; of templates only those below machines."""
    backing = home.backing()
    found = set()
    for path in backing:
        if not Path(path).name.startswith(PREFIX):
            lower = backing.get(path)
            while lower is not None and lower not in found:
                found.add(lower)
                lower = backing.get(lower)
    return found
