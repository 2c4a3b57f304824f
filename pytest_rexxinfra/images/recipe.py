"""What goes into an image: recipes in TOML, ours and the user's."""

from __future__ import annotations

import difflib
import hashlib
import json
import platform
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from ..errors import UsageError
from ..node import NODE_VERSION
from ..packages import PACKAGE_NAME

FORMAT_VERSION = 1
"""Part of every key: raise it when a builder makes something else of the same recipe."""

KINDS = ("busybox", "mmdebstrap")
NODES = ("wheel", "package", "none")

_KEYS = ("name", "kind", "description", "suite", "mirror", "packages", "node", "env", "files")
_FILE_KEYS = ("text", "source", "mode")
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_BUILT_IN = Path(__file__).with_name("recipes")

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")
_SUITE = re.compile(r"[a-z0-9][a-z0-9.-]*")
_MIRROR = re.compile(r"(https?|file|copy)://?[^\s]+")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PLAIN = re.compile(r"[^\x00-\x1f\"'`$\\#]*")


@dataclass(frozen=True)
class RecipeFile:
    """A file that a recipe adds: where it goes (absolute), what is in it, its mode; it belongs to root."""

    path: str
    data: bytes
    mode: int = 0o644


@dataclass(frozen=True)
class Recipe:
    """What an image is made of.

    ``kind`` says who builds it: ``busybox`` (static busybox, just the named packages, no root needed) or
    ``mmdebstrap`` (a Debian or Ubuntu ``suite``, from ``mirror`` or the tool's default one). ``node`` is
    ``wheel`` (the pinned version), ``package`` (the distribution's) or ``none``. ``env`` goes into
    ``/etc/environment`` and the login shell's profile.
    """

    name: str
    kind: str
    description: str = ""
    suite: str | None = None
    mirror: str | None = None
    packages: tuple[str, ...] = ()
    node: str = "wheel"
    env: tuple[tuple[str, str], ...] = ()
    files: tuple[RecipeFile, ...] = ()

    @classmethod
    def read(cls, path: Path) -> Recipe:
        """The recipe in a TOML file; sources of files are relative to it.

        Raises `UsageError` naming the file and the key that cannot be right.
        """
        try:
            text = path.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(
                f"{path}: the image recipe cannot be read: {error}",
                hint="an image that ends in .toml is the path of a recipe",
            ) from error
        try:
            table = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise UsageError(f"{path}: not TOML: {error}") from error
        return _Reader(path).recipe(table)

    def key(self, arch: str) -> str:
        """SHA-256 (hex) of all that decides what the image for ``arch`` contains; names it in the cache."""
        content = {
            "format": FORMAT_VERSION,
            "arch": arch,
            "name": self.name,
            "kind": self.kind,
            "suite": self.suite,
            "mirror": self.mirror,
            "packages": sorted(self.packages),
            "node": f"wheel {NODE_VERSION}" if self.node == "wheel" else self.node,
            "env": dict(self.env),
            "files": {file.path: [oct(file.mode), hashlib.sha256(file.data).hexdigest()] for file in self.files},
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def built_in_recipes() -> dict[str, Recipe]:
    """The recipes that come with the package, by name."""
    recipes = [Recipe.read(path) for path in sorted(_BUILT_IN.glob("*.toml"))]
    return {recipe.name: recipe for recipe in recipes}


def host_arch() -> str:
    """This computer's architecture in the words of Debian and OCI (``amd64``, ``arm64``)."""
    machine = platform.machine()
    return _ARCHITECTURES.get(machine, machine)


class _Reader:
    """Turns the table of one TOML file into a recipe, or into an error that names file and key."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def fail(self, key: str, problem: str, hint: str | None = None) -> NoReturn:
        raise UsageError(f"{self.path}: {key}: {problem}", hint=hint)

    def known(self, table: Mapping[str, Any], keys: tuple[str, ...], where: str = "") -> None:
        for key in table:
            if key not in keys:
                near = difflib.get_close_matches(key, keys, n=1)
                meant = f"did you mean {near[0]!r}? " if near else ""
                self.fail(where + key, "unknown key", f"{meant}known keys: {', '.join(keys)}")

    def text(self, table: Mapping[str, Any], key: str, pattern: re.Pattern[str] | None = None) -> str | None:
        value = table.get(key)
        if value is None:
            return None
        if not isinstance(value, str):
            self.fail(key, f"{value!r} is not a string")
        if pattern is not None and not pattern.fullmatch(value):
            self.fail(key, f"{value!r} is not possible here", f"it has to match {pattern.pattern}")
        return value

    def choice(self, table: Mapping[str, Any], key: str, choices: tuple[str, ...]) -> str | None:
        value = self.text(table, key)
        if value is not None and value not in choices:
            self.fail(key, f"{value!r} is not possible", f"choose one of: {', '.join(choices)}")
        return value

    def recipe(self, table: Mapping[str, Any]) -> Recipe:
        self.known(table, _KEYS)
        name = self.text(table, "name", _NAME)
        kind = self.choice(table, "kind", KINDS)
        if name is None:
            self.fail("name", "missing", "give the image a name of small letters, digits, '.', '_' and '-'")
        if kind is None:
            self.fail("kind", "missing", f"choose one of: {', '.join(KINDS)}")
        make = partial(
            Recipe,
            name=name,
            description=self.text(table, "description") or "",
            packages=self.packages(table),
            env=self.env(table),
            files=self.files(table),
        )
        node = self.choice(table, "node", NODES) or "wheel"
        suite = self.text(table, "suite", _SUITE)
        mirror = self.text(table, "mirror", _MIRROR)
        if kind == "mmdebstrap":
            if suite is None:
                self.fail("suite", "missing", "a mmdebstrap image needs a release such as bookworm")
            return make(kind=kind, node=node, suite=suite, mirror=mirror)
        for key in ("suite", "mirror"):
            if key in table:
                self.fail(key, "a busybox image has none", "use kind = 'mmdebstrap', or leave it out")
        if node == "package":
            self.fail("node", "a busybox image cannot have node as a package", "use 'wheel' or 'none'")
        return make(kind=kind, node=node)

    def packages(self, table: Mapping[str, Any]) -> tuple[str, ...]:
        value = table.get("packages", [])
        if not isinstance(value, list):
            self.fail("packages", f"{value!r} is not a list of package names")
        for package in value:
            if not isinstance(package, str) or not PACKAGE_NAME.fullmatch(package):
                self.fail("packages", f"{package!r} is not the name of a package")
        return tuple(value)

    def env(self, table: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
        value = table.get("env", {})
        if not isinstance(value, dict):
            self.fail("env", f"{value!r} is not a table")
        for name, content in value.items():
            if not _VARIABLE.fullmatch(name):
                self.fail(f"env.{name}", "not the name of a variable")
            if not isinstance(content, str) or not _PLAIN.fullmatch(content):
                self.fail(f"env.{name}", f"{content!r} is not a string without quotes, $, #, \\ and newlines")
        return tuple(sorted(value.items()))

    def files(self, table: Mapping[str, Any]) -> tuple[RecipeFile, ...]:
        value = table.get("files", {})
        if not isinstance(value, dict):
            self.fail("files", f"{value!r} is not a table", 'write [files."/path/in/the/image"]')
        return tuple(self.file(path, each) for path, each in sorted(value.items()))

    def file(self, path: str, entry: object) -> RecipeFile:
        key = f'files."{path}"'
        parts = path.split("/")
        if parts[0] != "" or len(parts) < 2 or any(part in ("", ".", "..") for part in parts[1:]):
            self.fail(key, "not an absolute path without '.', '..' and double slashes")
        if not isinstance(entry, dict):
            self.fail(key, "not a table", "give it text = '…' or source = 'a path next to the recipe'")
        self.known(entry, _FILE_KEYS, f"{key}.")
        text, source = self.text(entry, "text"), self.text(entry, "source")
        mode = self.text(entry, "mode", re.compile("[0-7]{3,4}")) or "0644"
        if (text is None) == (source is None):
            self.fail(key, "needs either text or source")
        if text is not None:
            return RecipeFile(path, text.encode(), int(mode, 8))
        try:
            data = (self.path.parent / str(source)).read_bytes()
        except OSError as error:
            self.fail(f"{key}.source", f"cannot be read: {error}", "it is relative to the recipe")
        return RecipeFile(path, data, int(mode, 8))
