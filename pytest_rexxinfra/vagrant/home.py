"""Vagrant's home (``VAGRANT_HOME``): the user's, and one for a machine alone."""

from __future__ import annotations

import os
from pathlib import Path

_OF_ALL = "boxes"
_OF_ONE = "data"


def users_home() -> Path:
    """Where the boxes and plugins of the user are."""
    return Path(os.environ.get("VAGRANT_HOME") or "~/.vagrant.d").expanduser()


def make_home(home: Path) -> None:
    """Make a home that has all of the user's but its data: the locks, and the index of all machines.

    Of two processes that want one of those, the second fails.
    """
    (users_home() / _OF_ALL).mkdir(parents=True, exist_ok=True)
    (home / _OF_ONE).mkdir(parents=True, exist_ok=True)
    for each in users_home().iterdir():
        if each.name != _OF_ONE:
            (home / each.name).symlink_to(each)
