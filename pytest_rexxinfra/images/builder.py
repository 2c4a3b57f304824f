"""What a builder of images is, which one builds a recipe, and what all of them put into an image."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Protocol

from ..deadline import Deadline
from ..events import Events
from .recipe import Recipe
from .tarball import Tree

NODE_PATH = "usr/local/bin/node"


class Builder(Protocol):
    """Makes the root file system of one kind of recipe."""

    def build(self, recipe: Recipe, into: Path, *, events: Events, deadline: Deadline) -> str | None:
        """Write the tar ``into`` and return the version of node in it, ``None`` for none.

        The directory of ``into`` is the builder's own and may be littered. All owners and times in the
        tar come from the recipe and its packages, so that one recipe gives one sequence of bytes.
        Raises `RexxInfraError`.
        """
        ...


def builder_for(recipe: Recipe) -> Builder:
    """The builder of the recipe's kind."""
    if recipe.kind == "busybox":
        from .busybox import BusyboxBuilder

        return BusyboxBuilder()
    from .debian import DebianBuilder

    return DebianBuilder()


def image_name(recipe: Recipe) -> str:
    """How events and errors call the image of a recipe."""
    return f"image:{recipe.name}"


def add_settings(tree: Tree, recipe: Recipe) -> None:
    """Add what every image has alike: its name, the recipe's environment and the recipe's files."""
    tree.file("etc/hostname", f"{recipe.name}\n".encode())
    tree.file("etc/hosts", b"127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n")
    if recipe.env:
        plain = "".join(f"{name}={value}\n" for name, value in recipe.env)
        shell = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in recipe.env)
        tree.file("etc/environment", plain.encode())
        tree.file("etc/profile.d/rexxinfra.sh", shell.encode())
    for file in recipe.files:
        tree.file(file.path, file.data, file.mode)
