"""A playbook as a user gives it: the path of a file, YAML text, or plain data."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import UsageError

Playbook = str | os.PathLike[str] | Mapping[str, Any] | Sequence[Mapping[str, Any]]
"""A path, YAML text (of more than one line), one play, or a list of plays."""


def written(playbook: Playbook, folder: Path) -> Path:
    """The file of a playbook; one that has none is written into ``folder``, which gets links to what is here.

    So its files, templates and roles are found as if it were a file in the current directory. Raises `UsageError`.
    """
    if isinstance(playbook, os.PathLike) or (isinstance(playbook, str) and "\n" not in playbook):
        path = Path(playbook).expanduser().absolute()
        if not path.is_file():
            raise UsageError(f"the playbook {playbook} does not exist", hint=f"it was looked for at {path}")
        return path
    folder.mkdir(mode=0o700)
    for each in Path.cwd().iterdir():
        (folder / each.name).symlink_to(each)
    if isinstance(playbook, str):
        name, text = "playbook.yml", playbook
    else:
        name, text = "playbook.json", as_json("the playbook", [playbook] if isinstance(playbook, Mapping) else playbook)
    path = folder / name
    path.unlink(missing_ok=True)
    path.write_text(text)
    return path


def as_json(what: str, data: object) -> str:
    """``data`` as JSON; raises `UsageError` for what is none."""
    try:
        return json.dumps(data, indent=1)
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"{what} cannot be given to Ansible: {error}", hint="text, numbers, lists and dicts"
        ) from error
