"""The cache of built images: each is built once per computer and user, whoever asks first."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ..deadline import Deadline
from ..errors import CommandFailed, DeadlineExceeded, ImageError
from ..events import Events
from ..idmap import IdMap
from ..locks import locked, try_lock
from ..paths import cache_dir
from ..tools import run_tool
from .builder import builder_for, image_name
from .recipe import Recipe, built_in_recipes, host_arch
from .roots import Roots, removed

log = logging.getLogger(__name__)

_METADATA = "image.json"
_TAR = "rootfs.tar"
_ARCHIVES = (".tar", ".tar.gz", ".tgz", ".tar.xz")
_AS_MAPPED = ("--exclude=./dev/*", "--exclude=dev/*", "--anchored", "--xattrs", "--xattrs-include=security.capability")
"""A container's root may make no devices; its own capabilities of files are other than the controller's."""
_UNPACK_SECONDS = 600.0
_REMOVE_SECONDS = 10.0
_TOUCHED = "its tar was touched"


@dataclass(frozen=True)
class RootfsImage:
    """A built root file system: ``tar`` is an uncompressed tar of ``size`` bytes with SHA-256 ``digest``.

    ``key`` is that of the recipe it was made from, ``created`` in seconds since 1970, ``node`` the
    version of node in it (``None`` for none), ``arch`` in Debian's and OCI's words.
    """

    name: str
    key: str
    digest: str
    tar: Path
    size: int
    created: float
    node: str | None
    arch: str


class Archive(NamedTuple):
    """A root file system in a tar, and the SHA-256 of that file."""

    path: Path
    name: str
    digest: str


class ImageStore:
    """Finds recipes, builds their images once and keeps them below ``root``.

    Safe for several processes and threads at once. Whatever is damaged is built again, with a warning in
    the log.
    """

    def __init__(self, root: Path | None = None, *, events: Events | None = None) -> None:
        self.root = root or cache_dir() / "images"
        self.events = events or Events()
        self._roots = Roots(self.root / ".roots")

    def recipes(self) -> dict[str, Recipe]:
        """The built-in recipes by name."""
        return built_in_recipes()

    def find(self, name_or_path: str) -> Recipe | None:
        """The built-in recipe of that name, or the one in a file ``*.toml``; ``None`` when it is neither.

        Raises `UsageError` for a file that is missing or wrong.
        """
        if name_or_path.endswith(".toml"):
            return Recipe.read(Path(name_or_path))
        return self.recipes().get(name_or_path)

    def ensure(self, recipe: Recipe, deadline: Deadline) -> RootfsImage:
        """The image of ``recipe``, from the cache or newly built.

        Raises `ImageError` when it cannot be built, `SystemUnavailable` when a needed tool is missing,
        `DeadlineExceeded`; nothing half-built stays.
        """
        key = recipe.key(host_arch())
        home = self._home(recipe.name, key)
        image = None if _doubt(home) else _load(home)
        if image is not None:
            return image
        with self._lock(key, image_name(recipe), deadline):
            return _checked(home) or self._build(recipe, key, home, deadline)

    def obtain(self, name_or_path: str, deadline: Deadline) -> RootfsImage:
        """The image of a recipe, as `ensure` gives it, or one that `commit` saved under that name.

        Raises `ImageError` when it is neither, and what `find` and `ensure` raise.
        """
        recipe = self.find(name_or_path)
        if recipe is not None:
            return self.ensure(recipe, deadline)
        image = _load(self._committed(name_or_path))
        if image is None:
            known = {*self.recipes(), *(each.name for each in self.list())}
            raise ImageError(f"there is no image {name_or_path!r}", hint=f"images: {', '.join(sorted(known))}")
        return image

    def archive(self, wanted: str, deadline: Deadline) -> Archive | None:
        """What an engine can import: the tar of a recipe's image, or a user's own; ``None`` when it is neither.

        Raises what `find` and `ensure` raise.
        """
        recipe = self.find(wanted)
        if recipe is not None:
            image = self.ensure(recipe, deadline)
            return Archive(image.tar, image.name, image.digest)
        path = Path(wanted)
        if wanted.endswith(_ARCHIVES) and path.is_file():
            return Archive(path, "rootfs", _digest(path))
        return None

    def commit(self, name: str, pack: Callable[[Path], None], deadline: Deadline) -> RootfsImage:
        """Save a root file system under a name, which `obtain` finds; an older one of that name is replaced.

        ``pack`` writes it to a file, as an uncompressed tar. Raises `ImageError` for the name of a recipe.
        """
        if self.find(name) is not None:
            raise ImageError(f"{name!r} is a recipe", hint="choose another name for the image")
        home = self._committed(name)
        key = hashlib.sha256(f"committed {name}".encode()).hexdigest()
        with self._lock(key, f"image:{name}", deadline), self._scratch(key) as scratch:
            new = scratch / "image"
            new.mkdir()
            tar = new / _TAR
            pack(tar)
            return self._keep(tar, home, name, key)

    def has_committed(self, name: str) -> bool:
        """Whether there is an image that `commit` saved under that name."""
        return _load(self._committed(name)) is not None

    def _committed(self, name: str) -> Path:
        return self.root / f"committed-{hashlib.sha256(name.encode()).hexdigest()[:16]}"

    def list(self) -> tuple[RootfsImage, ...]:
        """All images in the cache, by name, the newest first; damaged ones are left out."""
        homes = [path for path in _entries(self.root) if not path.name.startswith(".")]
        images = [image for image in map(_load, homes) if image is not None]
        return tuple(sorted(images, key=lambda image: (image.name, -image.created)))

    def remove(self, name: str) -> tuple[RootfsImage, ...]:
        """Remove every image of that name; returns what was removed.

        Machines that run on it go on. What they share is removed when they are gone, with the next image
        that is removed or replaced. Raises `ImageError` when something is mounted in it here.
        """
        found = tuple(image for image in self.list() if image.name == name)
        for image in found:
            _refuse_mounts(self._roots.home(image.digest))
            with self._lock(image.key, f"image:{name}", Deadline(_UNPACK_SECONDS)):
                self._discard(image.tar.parent, image.key)
        self._drop_unused()
        return found

    def trim(self, repository: str, most: int) -> None:
        """Remove the oldest images named ``repository:TAG``, but for so many; one that is mounted stays."""
        named = [image for image in self.list() if image.name.startswith(f"{repository}:")]
        for image in sorted(named, key=lambda image: -image.created)[most:]:
            with suppress(ImageError):
                self.remove(image.name)

    def rootfs(self, image: RootfsImage, deadline: Deadline | None = None, idmap: IdMap | None = None) -> Path:
        """The image unpacked as a directory that is shared by all: nobody may write into it.

        As root it has the owners of the image, with ``idmap`` what they are outside of a container with
        that map; for an ordinary user everything is the user's own.
        Raises `ImageError` when the image is no longer there or tar fails, `DeadlineExceeded`.
        """
        deadline = deadline or Deadline(_UNPACK_SECONDS)
        where = f"image:{image.name}"
        place = self._roots.place(image.digest, idmap)
        if not image.tar.is_file():
            raise removed(where)
        if place.is_dir():
            return place
        key = _lock_of(image.digest)
        with self._lock(key, where, deadline):
            if place.is_dir():
                return place
            with self.events.step(where, "unpack"), self._scratch(key) as scratch:
                folder = scratch / place.name
                folder.mkdir()
                source = image.tar.absolute()
                command: list[str | Path] = ["tar", "--extract", "--numeric-owner", "--preserve-permissions"]
                if idmap:
                    # From standard input into the current directory, for the mapped root can open neither.
                    os.chown(folder, idmap.uid, idmap.gid)
                    command = ["sh", "-c", 'exec "$@" <"$0"', source, *idmap.command, *command, *_AS_MAPPED]
                else:
                    command += ["--file", source]
                try:
                    run_tool(command, deadline=deadline, where=where, cwd=folder)
                except CommandFailed as error:
                    raise ImageError(
                        "the image cannot be unpacked",
                        command=error.command,
                        output=error.output,
                        hint=f"is there room on the disk of {self.root}?",
                        where=where,
                    ) from error
                place.parent.mkdir(parents=True, exist_ok=True)
                folder.rename(place)
        return place

    def _drop_unused(self) -> None:
        """Remove unpacked file systems of images that are gone, but for those that machines run on."""
        for home in self._roots.unused({image.digest for image in self.list()}):
            key = _lock_of(home.name)
            # Who has the lock is unpacking something; then the next one removes this.
            with suppress(DeadlineExceeded), self._lock(key, "images", Deadline(0)), self._scratch(key) as scratch:
                home.rename(scratch / home.name)

    def _home(self, name: str, key: str) -> Path:
        return self.root / f"{name}-{key[:16]}"

    @contextmanager
    def _lock(self, key: str, where: str, deadline: Deadline) -> Iterator[None]:
        with ExitStack() as stack:
            with self.events.step(where, "wait for other processes"):
                stack.enter_context(locked(self.root / ".locks" / key, deadline=deadline, what=where))
            yield

    def _build(self, recipe: Recipe, key: str, home: Path, deadline: Deadline) -> RootfsImage:
        where = image_name(recipe)
        self._sweep(key)
        with self.events.step(where, "build"), self._scratch(key) as scratch:
            work, new = scratch / "work", scratch / "image"
            work.mkdir()
            new.mkdir()
            made = work / _TAR
            try:
                node = builder_for(recipe).build(recipe, made, events=self.events, deadline=deadline)
            except CommandFailed as error:
                raise ImageError(
                    f"the image {recipe.name} cannot be built: {error.message}",
                    command=error.command,
                    output=error.output,
                    hint=error.hint,
                    where=where,
                ) from error
            return self._keep(made.rename(new / _TAR), home, recipe.name, key, node)

    def _keep(self, tar: Path, home: Path, name: str, key: str, node: str | None = None) -> RootfsImage:
        """Let the folder of a new tar become the image's home, in place of an older one."""
        image = RootfsImage(
            name=name,
            key=key,
            digest=_digest(tar),
            tar=home / _TAR,
            size=tar.stat().st_size,
            created=time.time(),
            node=node,
            arch=host_arch(),
        )
        _save(image, tar.parent)
        self._discard(home, key)
        tar.parent.rename(home)
        self._drop_unused()
        return image

    @contextmanager
    def _scratch(self, key: str) -> Iterator[Path]:
        """A directory for work under the lock of ``key``, which does not outlive the block."""
        self.root.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".tmp-{key}-", dir=self.root))
        try:
            # Only root's tools enter as other users (apt's own); nothing in here is secret.
            scratch.chmod(0o755)
            yield scratch
        finally:
            _remove(scratch)

    def _sweep(self, held: str) -> None:
        """Remove what killed builds left: directories of the key that is held here or by nobody."""
        for path in _entries(self.root):
            if not path.name.startswith(".tmp-"):
                continue
            key = path.name.split("-")[1]
            if key == held:
                _remove(path)
                continue
            (self.root / ".locks").mkdir(exist_ok=True)
            with (self.root / ".locks" / key).open("a") as file:
                if try_lock(file.fileno()):
                    _remove(path)

    def _discard(self, home: Path, key: str) -> None:
        """Take an image out of the cache, in one step for those who look at it."""
        if not home.exists():
            return
        _refuse_mounts(home)
        with self._scratch(key) as scratch:
            home.rename(scratch / home.name)


def _checked(home: Path) -> RootfsImage | None:
    """The image in ``home`` if it is whole; a damaged one is reported. Only for the holder of its lock."""
    if not home.exists():
        return None
    image, doubt = _load(home), _doubt(home)
    if image is not None and doubt == _TOUCHED:
        if _digest(image.tar) == image.digest:
            _save(image)
            return image
        doubt = "its tar does not have the bytes that were built"
    if image is None or doubt:
        reason = doubt or f"{_METADATA} is incomplete"
        log.warning("%s is damaged in the cache and built again: %s", home.name, reason)
        return None
    return image


def _doubt(home: Path) -> str | None:
    """Why the image in ``home`` cannot be trusted unread, ``None`` when it can."""
    try:
        metadata = json.loads((home / _METADATA).read_text("utf-8"))
        status = (home / _TAR).stat()
        size, touched = metadata["size"], metadata["touched"]
    except OSError as error:
        return f"{Path(str(error.filename)).name}: {error.strerror}"
    except (ValueError, KeyError, TypeError) as error:
        return f"{_METADATA} is not readable: {error!r}"
    if status.st_size != size:
        return f"its tar has {status.st_size} bytes instead of {size}"
    return None if status.st_mtime_ns == touched else _TOUCHED


def _load(home: Path) -> RootfsImage | None:
    """The image that the metadata in ``home`` describe, ``None`` when they are missing or wrong."""
    try:
        metadata: dict[str, Any] = json.loads((home / _METADATA).read_text("utf-8"))
        metadata.pop("touched")
        image = RootfsImage(tar=home / _TAR, **metadata)
        whole = image.tar.stat().st_size == image.size
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return image if whole else None


def _save(image: RootfsImage, folder: Path | None = None) -> None:
    folder = folder or image.tar.parent
    metadata = asdict(image)
    del metadata["tar"]
    metadata["touched"] = (folder / _TAR).stat().st_mtime_ns
    new = folder / f"{_METADATA}.new"
    new.write_text(json.dumps(metadata, indent=2) + "\n", "utf-8")
    new.rename(folder / _METADATA)


def _lock_of(digest: str) -> str:
    """The lock of what is unpacked from a content; few, for their files stay."""
    return digest[:2]


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except FileNotFoundError:
        return []


def _refuse_mounts(folder: Path) -> None:
    """Raise `ImageError` when something is mounted below: removing would reach into it."""
    inside = f"{os.path.realpath(folder)}/"
    mounts: list[str] = []
    with suppress(OSError):
        table = Path("/proc/self/mountinfo").read_text(errors="surrogateescape")
        mounts = [line.split(" ")[4].encode().decode("unicode_escape") for line in table.splitlines()]
    busy = [mount for mount in mounts if mount.startswith(inside)]
    if busy:
        raise ImageError(
            f"{folder} cannot be removed: {', '.join(busy)} is mounted in it",
            hint=f"sudo umount {' '.join(busy)}",
        )


def _remove(folder: Path) -> None:
    """Remove a directory of ours; one with mounts in it, or that does not go, stays, with a warning."""

    def gone() -> bool:
        # Before each try: a tool that outlived its killed build may still be mounting and writing there.
        _refuse_mounts(folder)
        shutil.rmtree(folder, ignore_errors=True)
        return not folder.exists()

    try:
        Deadline(_REMOVE_SECONDS).wait_for(gone, f"removing {folder}")
    except (DeadlineExceeded, ImageError) as error:
        log.warning("%s; the next build tries again", error)
