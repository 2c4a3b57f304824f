"""The bytes of volumes, to and from a libvirt host, over its own connection."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, BinaryIO

from ..deadline import Deadline
from .node import LibvirtError, Node, module

if TYPE_CHECKING:
    import libvirt

_CHUNK = 256 * 1024
"""Bytes at a time; less than the limit of one packet in every version of libvirt."""
_FULL = "is the file system of the pool full? virsh -c {uri} pool-info {pool} says what is available"


def send(
    node: Node, volume: libvirt.virStorageVol, file: BinaryIO, deadline: Deadline, pool: str = "rexxinfra"
) -> None:
    """Write a file of the controller into a volume of ``pool``, from its beginning, holes as holes.

    Raises `DeadlineExceeded`, and `LibvirtError` with the reason of the daemon, for example that its disk is full.
    """
    sparse = module(node.uri).VIR_STORAGE_VOL_UPLOAD_SPARSE_STREAM
    stream = node.connection.newStream(0)

    def upload_data() -> None:
        for data in _pieces(file):
            deadline.check(f"uploading {volume.name()}")
            if isinstance(data, int):
                stream.sendHole(data)
            while isinstance(data, bytes) and data:
                data = data[stream.send(data) :]
        stream.finish()

    try:
        node.ask(volume.upload, stream, 0, 0, sparse)
        node.ask(upload_data)
    except BaseException as error:
        _abort(stream)
        if isinstance(error, LibvirtError):
            error.hint = _FULL.format(uri=node.uri, pool=pool)
        raise


def receive(node: Node, volume: libvirt.virStorageVol, target: BinaryIO, limit: int | None = None) -> int:
    """Read a volume, or its first ``limit`` bytes, into a file of the controller; returns how many they were."""
    if limit == 0:
        return 0
    stream = node.connection.newStream(0)

    def download_data() -> int:
        count = 0
        while data := stream.recv(_CHUNK):
            count += target.write(data)
        stream.finish()
        return count

    try:
        node.ask(volume.download, stream, 0, limit or 0, 0)
        return node.ask(download_data)
    except BaseException:
        _abort(stream)
        raise


def receive_sparsely(node: Node, volume: libvirt.virStorageVol, target: BinaryIO, deadline: Deadline) -> None:
    """Read a volume into an empty file of the controller, holes as holes; raises `DeadlineExceeded`."""
    libvirt = module(node.uri)
    stream = node.connection.newStream(0)

    def download_data() -> None:
        while data := stream.recvFlags(_CHUNK, libvirt.VIR_STREAM_RECV_STOP_AT_HOLE):
            deadline.check(f"downloading {volume.name()}")
            if isinstance(data, bytes):
                target.write(data)
            else:
                target.seek(stream.recvHole(), os.SEEK_CUR)
        stream.finish()
        target.truncate()

    try:
        node.ask(volume.download, stream, 0, 0, libvirt.VIR_STORAGE_VOL_DOWNLOAD_SPARSE_STREAM)
        node.ask(download_data)
    except BaseException:
        _abort(stream)
        raise


def _abort(stream: libvirt.virStream) -> None:
    with suppress(Exception):
        stream.abort()


def _pieces(file: BinaryIO) -> Iterator[bytes | int]:
    """The parts of a file: bytes, or how long a hole is (lseek(2), SEEK_HOLE)."""
    descriptor = file.fileno()
    end = os.fstat(descriptor).st_size
    at = 0
    while at < end:
        try:
            data = os.lseek(descriptor, at, os.SEEK_DATA)
        except OSError:
            data = end
        if data > at:
            yield data - at
        hole = os.lseek(descriptor, data, os.SEEK_HOLE) if data < end else end
        at = data
        while at < hole:
            piece = os.pread(descriptor, min(_CHUNK, hole - at), at)
            if not piece:
                return
            yield piece
            at += len(piece)
