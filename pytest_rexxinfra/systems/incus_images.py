"""The images of an incus: ours imported once for all processes, machines published, old ones trimmed."""

from __future__ import annotations

import hashlib
import io
import json
import platform
import secrets
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from ..deadline import Deadline
from ..errors import ImageError
from ..images.store import Archive
from ..locks import locked_key
from .base import Surroundings
from .incus_api import NOT_FOUND, IncusApi, Refused, place

_IMPORTED = "rexxinfra/image"
_BAKED = "rexxinfra/baked"
_BAKED_KEPT = 12
_IMPORTS_KEPT = 3
_COPY_SIZE = 1 << 20
_THERE = "same fingerprint already exists"
_SNAPSHOT = "rexxinfra-publish"


class IncusImages:
    """Finds the image that a user names, and makes it available. Images are known by their fingerprint.

    Ours have an alias each. Properties would not do: what is published of an instance inherits them from its image.
    """

    def __init__(self, api: IncusApi, around: Surroundings) -> None:
        self._api = api
        self._around = around
        self._imports: dict[str, str] = {}

    def obtain(self, wanted: str, deadline: Deadline) -> str:
        """Fingerprint of the image that ``wanted`` names, in this order: a recipe of ours, a root file system
        archive, an alias or a fingerprint that incus has.

        Raises `ImageError`.
        """
        archive = self._around.images.archive(wanted, deadline)
        if archive is not None:
            return self._imported(archive, deadline)
        found = self._api.find(place("images", self._named(wanted) or wanted))
        if found is None or found["type"] != "container":
            ours = ", ".join(sorted(self._around.images.recipes()))
            raise ImageError(
                f"image {wanted!r} is no container image of this incus",
                where="incus",
                hint=f"our own images: {ours}; or fetch one: incus image copy REMOTE:IMAGE local: --alias NAME",
            )
        fingerprint: str = found["fingerprint"]
        return fingerprint

    def _imported(self, archive: Archive, deadline: Deadline) -> str:
        """Fingerprint of the image made from a root file system archive, imported once for all processes."""
        digest = archive.digest
        if digest not in self._imports:
            what = f"the import of {archive.name}"
            with locked_key("incus-import", digest, deadline=deadline, what=what):
                self._imports[digest] = self._named(_alias(archive)) or self._import(archive, deadline)
        return self._imports[digest]

    def _import(self, archive: Archive, deadline: Deadline) -> str:
        path, name, digest = archive
        boundary = secrets.token_hex(16)
        metadata = _metadata({"description": f"rexxinfra {name} {digest[:16]}"})
        head = _part(boundary, "metadata") + metadata + b"\r\n" + _part(boundary, "rootfs")
        tail = f"\r\n--{boundary}--\r\n".encode()
        headers = {
            "Content-Type": f"multipart/form-data; boundary={boundary}",
            "Content-Length": str(len(head) + path.stat().st_size + len(tail)),
            "X-Incus-aliases": urlencode({"alias": _alias(archive)}),
        }
        if not tarfile.is_tarfile(path):
            raise ImageError(f"{path} is no tar archive", where="incus", hint="it must be a tar of a root file system")
        with self._around.events.step("incus", f"import {name}"):
            try:
                made = self._api.upload("/1.0/images", _pieces(head, path, tail), headers, deadline)
                fingerprint: str = made["fingerprint"]
            except Refused as refusal:
                if _THERE not in refusal.message:
                    raise
                # Somebody has taken its alias away.
                fingerprint = _fingerprint(metadata, path)
                alias = {"name": _alias(archive), "target": fingerprint}
                self._api.run("POST", place("images", "aliases"), alias, deadline=deadline)
        self.trim(f"{_IMPORTED}/{name}/", _IMPORTS_KEPT, deadline)
        return fingerprint

    def baked(self, key: str) -> str | None:
        """Fingerprint of the image baked under ``key``, or ``None``."""
        return self._named(f"{_BAKED}/{key}")

    def bake(self, instance: str, key: str, deadline: Deadline) -> str:
        """Save an instance as the image that `baked` finds under ``key``."""
        fingerprint = self._publish(instance, f"{_BAKED}/{key}", deadline)
        self.trim(f"{_BAKED}/", _BAKED_KEPT, deadline)
        return fingerprint

    def has(self, alias: str) -> bool:
        """Whether there is an image with that alias."""
        return self._named(alias) is not None

    def commit(self, instance: str, image: str, deadline: Deadline) -> str:
        """Save an instance as an image with the alias ``image``; an older one of that name is replaced."""
        self.remove(image, deadline)
        self._publish(instance, image, deadline)
        return image

    def _publish(self, instance: str, alias: str, deadline: Deadline) -> str:
        """Make an image of an instance, running or not, by way of a snapshot."""
        snapshots = place("instances", instance, "snapshots")
        with suppress(Refused):
            self._api.run("DELETE", f"{snapshots}/{_SNAPSHOT}", deadline=deadline)
        self._api.run("POST", snapshots, {"name": _SNAPSHOT}, deadline=deadline)
        try:
            made = self._api.run(
                "POST",
                "/1.0/images",
                {
                    "source": {"type": "snapshot", "name": f"{instance}/{_SNAPSHOT}"},
                    "properties": {"description": f"rexxinfra {alias}"},
                    "aliases": [{"name": alias}],
                    "compression_algorithm": "none",
                },
                deadline=deadline,
            )
        finally:
            self._api.run("DELETE", f"{snapshots}/{_SNAPSHOT}", deadline=Deadline(60))
        fingerprint: str = made["fingerprint"]
        return fingerprint

    def remove(self, image: str, deadline: Deadline) -> None:
        """Remove the image with an alias; one that is gone is no error."""
        found = self._named(image)
        if found:
            self._delete(found, deadline)

    def _delete(self, fingerprint: str, deadline: Deadline) -> None:
        try:
            self._api.run("DELETE", place("images", fingerprint), deadline=deadline)
        except Refused as refusal:
            if refusal.code != NOT_FOUND:
                raise

    def _named(self, alias: str) -> str | None:
        """Fingerprint of the image with an alias."""
        found = self._api.find(place("images", "aliases", alias))
        return found["target"] if found else None

    def trim(self, beginning: str, most: int, deadline: Deadline) -> None:
        """Remove the oldest images whose aliases begin so, and that have no others, lest builds fill the disk."""
        images: list[dict[str, Any]] = self._api.get("/1.0/images?recursion=1")
        ours = [
            each
            for each in images
            if each["aliases"] and all(alias["name"].startswith(beginning) for alias in each["aliases"])
        ]
        for each in sorted(ours, key=lambda each: str(each["uploaded_at"]), reverse=True)[most:]:
            # One that a machine is being made from stays until a later turn.
            with suppress(Refused):
                self._delete(each["fingerprint"], deadline)


def _alias(archive: Archive) -> str:
    return f"{_IMPORTED}/{archive.name}/{archive.digest[:16]}"


def _fingerprint(metadata: bytes, archive: Path) -> str:
    """What incus knows an image by: the SHA-256 of its metadata and its root file system."""
    digest = hashlib.sha256(metadata)
    with archive.open("rb") as file:
        while piece := file.read(_COPY_SIZE):
            digest.update(piece)
    return digest.hexdigest()


def _metadata(properties: Mapping[str, str]) -> bytes:
    """The archive that incus wants beside a root file system; the same for the same properties."""
    text = json.dumps({"architecture": platform.machine(), "creation_date": 1, "properties": properties}).encode()
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        member = tarfile.TarInfo("metadata.yaml")
        member.size = len(text)
        tar.addfile(member, io.BytesIO(text))
    return packed.getvalue()


def _part(boundary: str, name: str) -> bytes:
    kind = "Content-Type: application/octet-stream"
    return (
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"; filename="{name}"\r\n{kind}\r\n\r\n'.encode()
    )


def _pieces(head: bytes, archive: Path, tail: bytes) -> Iterator[bytes]:
    yield head
    with archive.open("rb") as file:
        while piece := file.read(_COPY_SIZE):
            yield piece
    yield tail
