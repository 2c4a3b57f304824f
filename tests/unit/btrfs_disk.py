"""A small btrfs file system of a test's own."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def btrfs_disk(folder: Path, megabytes: int = 256) -> Iterator[Path]:
    """Where a new btrfs is mounted, below ``folder``; skips the test where that cannot be."""
    if not shutil.which("mkfs.btrfs"):
        pytest.skip("needs btrfs-progs")
    disk, point = folder / "disk", folder / "btrfs"
    point.mkdir()
    with disk.open("wb") as file:
        file.truncate(megabytes << 20)
    subprocess.run(["mkfs.btrfs", "-q", disk], capture_output=True, check=True)
    # Directories of temporary files are mounted like this.
    done = subprocess.run(
        ["mount", "-o", "loop,nosuid,nodev", disk, point], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"no btrfs can be mounted here: {done.stderr.strip()}")
    try:
        yield point
    finally:
        subprocess.run(["umount", point], check=True)
