"""The images of an incus: ours imported once for all processes, machines published, old ones trimmed."""

from __future__ import annotations

import io
import json
import platform
import secrets
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..deadline import Deadline
from ..errors import ImageError
from ..images.store import Archive
from ..locks import locked_key
from ..model import LABEL_PREFIX
from .base import Surroundings
from .incus_api import NOT_FOUND, IncusApi, Refused, place

_KEY = f"{LABEL_PREFIX}key"
_GROUP = f"{LABEL_PREFIX}group"
_BAKED = "baked"
_BAKED_KEPT = 12
_IMPORTS_KEPT = 3
_COPY_SIZE = 1 << 20
_SNAPSHOT = "rexxinfra-publish"


class IncusImages:
    """Finds the image that a user names, and makes it available. Images are known by their fingerprint."""

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
        alias = self._api.find(place("images", "aliases", wanted))
        found = self._api.find(place("images", alias["target"] if alias else wanted))
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
                self._imports[digest] = self._keyed(digest) or self._import(archive, deadline)
        return self._imports[digest]

    def _import(self, archive: Archive, deadline: Deadline) -> str:
        path, name, digest = archive
        group = f"image/{name}"
        boundary = secrets.token_hex(16)
        metadata = _metadata({"description": f"rexxinfra {name} {digest[:16]}", _KEY: digest, _GROUP: group})
        head = _part(boundary, "metadata") + metadata + b"\r\n" + _part(boundary, "rootfs")
        tail = f"\r\n--{boundary}--\r\n".encode()
        headers = {
            "Content-Type": f"multipart/form-data; boundary={boundary}",
            "Content-Length": str(len(head) + path.stat().st_size + len(tail)),
        }
        if not tarfile.is_tarfile(path):
            raise ImageError(f"{path} is no tar archive", where="incus", hint="it must be a tar of a root file system")
        with self._around.events.step("incus", f"import {name}"):
            made = self._api.upload("/1.0/images", _pieces(head, path, tail), headers, deadline)
        self.trim(group, _IMPORTS_KEPT, deadline)
        fingerprint: str = made["fingerprint"]
        return fingerprint

    def baked(self, key: str) -> str | None:
        """Fingerprint of the image baked under ``key``, or ``None``."""
        return self._keyed(f"{_BAKED}/{key}")

    def bake(self, instance: str, key: str, deadline: Deadline) -> str:
        """Save an instance as the image that `baked` finds under ``key``."""
        properties = {"description": f"rexxinfra baked {key}", _KEY: f"{_BAKED}/{key}", _GROUP: _BAKED}
        fingerprint = self._publish(instance, properties, [], deadline)
        self.trim(_BAKED, _BAKED_KEPT, deadline)
        return fingerprint

    def has(self, alias: str) -> bool:
        """Whether there is an image with that alias."""
        return self._api.find(place("images", "aliases", alias)) is not None

    def commit(self, instance: str, image: str, deadline: Deadline) -> str:
        """Save an instance as an image with the alias ``image``; an older one of that name is replaced."""
        self.remove(image, deadline)
        properties = {"description": f"rexxinfra {image}", _GROUP: image.partition(":")[0]}
        self._publish(instance, properties, [image], deadline)
        return image

    def _publish(self, instance: str, properties: Mapping[str, str], aliases: list[str], deadline: Deadline) -> str:
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
                    "properties": properties,
                    "aliases": [{"name": alias} for alias in aliases],
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
        alias = self._api.find(place("images", "aliases", image))
        if alias:
            self._delete(alias["target"], deadline)

    def _delete(self, fingerprint: str, deadline: Deadline) -> None:
        try:
            self._api.run("DELETE", place("images", fingerprint), deadline=deadline)
        except Refused as refusal:
            if refusal.code != NOT_FOUND:
                raise

    def _keyed(self, key: str) -> str | None:
        images = self._api.get("/1.0/images?recursion=1")
        return next((each["fingerprint"] for each in images if each["properties"].get(_KEY) == key), None)

    def trim(self, group: str, most: int, deadline: Deadline) -> None:
        """Remove the oldest images of a group, so that changing builds do not fill the disk."""
        images: list[dict[str, Any]] = self._api.get("/1.0/images?recursion=1")
        grouped = [each for each in images if each["properties"].get(_GROUP) == group]
        for each in sorted(grouped, key=lambda each: str(each["uploaded_at"]), reverse=True)[most:]:
            # One that a machine is being made from stays until a later turn.
            with suppress(Refused):
                self._delete(each["fingerprint"], deadline)


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
