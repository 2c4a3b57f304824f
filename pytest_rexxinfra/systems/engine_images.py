"""The images of an engine: ours imported, Dockerfiles built, others pulled, builds baked on top."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import requests.exceptions
from docker.errors import APIError, ImageNotFound, NotFound

from ..deadline import Deadline
from ..errors import ImageError
from ..images.store import Archive
from ..locks import locked_key
from ..model import LABEL_PREFIX
from .base import Surroundings
from .engine import Engine, explanation

_BAKED = "rexxinfra/baked"
_BAKED_KEPT = 12
_IMPORTS_KEPT = 3


class EngineImages:
    """Finds the image that a user names, and makes it available in the engine."""

    def __init__(self, engine: Engine, around: Surroundings) -> None:
        self._engine = engine
        self._around = around
        self._imports: dict[str, str] = {}
        self._nameless: set[str] = set()
        self.names: dict[str, str] = {}
        """What the images that were obtained are called in the engine, by their ids."""

    def obtain(self, wanted: str, deadline: Deadline) -> str:
        """Id of the image that ``wanted`` names, in this order: a recipe of ours, a root file system
        archive, a directory with a Dockerfile, an image the engine has, one that it can pull.

        Raises `ImageError`.
        """
        archive = self._around.images.archive(wanted, deadline)
        if archive is not None:
            return self._imported(archive, deadline)
        path = Path(wanted)
        if (path / "Dockerfile").is_file():
            folder = path.resolve()
            tag = hashlib.sha256(str(folder).encode()).hexdigest()[:16]
            wanted = self.build(folder, f"rexxinfra/dockerfile:{tag}", deadline)
        elif wanted.startswith((".", "/")):
            raise ImageError(
                f"there is no Dockerfile in {path.absolute()}",
                where=self._engine.name,
                hint="an image is one of ours, a reference, a directory with a Dockerfile, or a .tar",
            )
        found = self._engine.image_id(wanted)
        if found is None:
            self._pull(wanted, deadline)
            found = self._engine.image_id(wanted)
        if found is None:
            raise ImageError(f"image {wanted!r} is gone again", where=self._engine.name)
        self.names[found] = wanted
        return found

    def build(self, folder: Path, image: str, deadline: Deadline, dockerfile: str = "Dockerfile") -> str:
        """Build ``folder`` with its Dockerfile and name the result ``image``; raises `ImageError` with the log."""
        log: list[str] = []
        with (
            self._around.events.step(self._engine.name, f"build {folder}"),
            self._engine.translated(f"building {image}"),
            self._engine.patient(deadline),
        ):
            steps = self._engine.api.build(
                path=str(folder), tag=image, dockerfile=dockerfile, rm=True, forcerm=True, decode=True
            )
            for step in steps:
                log.append(step.get("stream", ""))
                if "error" in step:
                    raise ImageError(
                        f"building {folder} failed: {step['error']}",
                        output="".join(log),
                        hint=f"{self._engine.name} build {shlex.quote(str(folder))}",
                    )
        return image

    def _imported(self, archive: Archive, deadline: Deadline) -> str:
        """Id of the image made from a root file system archive, imported once for all processes."""
        if archive.digest not in self._imports:
            self._imports[archive.digest] = self._import(archive, deadline)
        return self._imports[archive.digest]

    def _import(self, archive: Archive, deadline: Deadline) -> str:
        path, name, digest = archive
        repository, tag = f"rexxinfra/{name.lower()}", digest[:16]
        image = f"{repository}:{tag}"
        with locked_key("import", tag, deadline=deadline, what=f"the import of {name}"):
            found = self._engine.image_id(image)
            if found is not None:
                self.names[found] = image
                return found
            changes = [
                "ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                f"LABEL {LABEL_PREFIX}image={name}",
            ]
            with (
                self._around.events.step(self._engine.name, f"import {name}"),
                self._engine.translated(f"importing {name}"),
                self._engine.patient(deadline),
            ):
                self._engine.import_image(path, image, changes)
            self.trim(repository, _IMPORTS_KEPT)
            found = self._engine.image_id(image)
        if found is None:
            raise ImageError(
                f"{archive} could not be imported as an image",
                where=self._engine.name,
                hint="it must be a tar of a root file system",
            )
        self.names[found] = image
        return found

    def _pull(self, name: str, deadline: Deadline) -> None:
        ours = ", ".join(sorted(self._around.images.recipes()))
        hint = f"names of our own images: {ours}; or see what the engine itself says: {self._engine.name} pull {name}"

        def refused(reason: object) -> ImageError:
            return ImageError(f"image {name!r} cannot be had: {reason}", where=self._engine.name, hint=hint)

        with self._around.events.step(self._engine.name, f"pull {name}"):
            try:
                lines: list[Mapping[str, Any]] = self._engine.api.pull(name, stream=True, decode=True)
                for line in lines:
                    deadline.check(f"pulling {name}", hint=hint)
                    if "error" in line:
                        raise refused(line["error"])
            except (APIError, requests.exceptions.RequestException) as error:
                raise refused(explanation(error)) from error

    def baked(self, key: str) -> str | None:
        """Name of the image baked under ``key``, or ``None``."""
        image = f"{_BAKED}:{key}"
        return None if self._engine.image_id(image) is None else image

    def commit(self, container: str, image: str, deadline: Deadline) -> str:
        """Save a container's file system as ``image``."""
        repository, _, tag = image.rpartition(":") if ":" in image else (image, "", "latest")
        changes = [f"LABEL {LABEL_PREFIX}image={image}"]
        name = f"{repository}:{tag}"
        replaced = self._engine.image_id(name)
        with self._engine.translated(f"committing {image}"), self._engine.patient(deadline):
            self._engine.api.commit(container, repository, tag, pause=self._engine.limits, changes=changes)
        if replaced:
            self._nameless.add(replaced)
            self.remove_nameless()
        return name

    def bake(self, container: str, key: str, deadline: Deadline) -> str:
        """Save a container as the image that `baked` finds under ``key``."""
        image = self.commit(container, f"{_BAKED}:{key}", deadline)
        self.trim(_BAKED, _BAKED_KEPT)
        return image

    def remove(self, image: str) -> None:
        """Remove an image; one that is gone is no error."""
        found = self._engine.image_id(image)
        with self._engine.translated(f"removing image {image}"), suppress(NotFound):
            self._engine.forget_image(image)
        if found:
            self._nameless.add(found)

    def remove_nameless(self) -> None:
        """Remove images of ours that lost their names here while containers used them, unless some still do."""
        for image in list(self._nameless):
            try:
                found = self._engine.api.inspect_image(image)
                if not found["RepoTags"] and f"{LABEL_PREFIX}image" in (found["Config"]["Labels"] or {}):
                    self._engine.api.remove_image(image)
            except ImageNotFound:
                pass
            except (APIError, requests.exceptions.RequestException):
                # One that is still used stays until a later turn.
                continue
            self._nameless.discard(image)

    def remove_unused(self, image: str) -> None:
        """Remove an image unless a container uses it."""
        with self._engine.translated(f"removing image {image}"), suppress(APIError):
            self._engine.api.remove_image(image)

    def trim(self, repository: str, most: int) -> None:
        """Remove the oldest of our images of one name, so that changing builds do not fill the disk."""
        with self._engine.translated(f"listing images of {repository}"):
            tags = [image["RepoTags"][0] for image in self._engine.api.images(repository)]
            # Only here the time of creation has fractions of a second.
            made = {tag: self._engine.api.inspect_image(tag)["Created"] for tag in tags}
        for tag in sorted(tags, key=lambda tag: made[tag], reverse=True)[most:]:
            # One that a container still uses stays until a later turn.
            with suppress(APIError):
                self._engine.api.remove_image(tag)
