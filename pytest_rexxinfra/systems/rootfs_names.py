"""The files of a machine that say who it is and whom it knows."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from .rooted import inside
from .rootfs_record import RootfsRecord


def write_names(root: Path, record: RootfsRecord, known: Mapping[str, str]) -> None:
    """Write them; ``known`` has the names of others by their addresses. A machine without /etc gets none."""
    if not (root / "etc").is_dir():
        return
    if record.network == "host":
        texts = {name: Path(name).read_text() for name in ("/etc/hosts", "/etc/resolv.conf")}
    else:
        named = {**({record.address: record.hostname} if record.address else {}), **known}
        lines = ["127.0.0.1 localhost", *(f"{address} {name}" for address, name in named.items())]
        texts = {"/etc/hosts": "\n".join([*lines, ""]), "/etc/resolv.conf": ""}
    for name, text in {**texts, "/etc/hostname": f"{record.hostname}\n"}.items():
        with suppress(OSError):
            _replace(inside(root, name), text)


def _replace(path: Path, text: str) -> None:
    if not path.exists():
        path.touch()
        owner = path.parent.stat()
        os.chown(path, owner.st_uid, owner.st_gid)
    if not path.is_file() or path.read_text(errors="replace") != text:
        path.write_text(text)
