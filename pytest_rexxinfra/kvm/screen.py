"""The screen of a machine: where it is, and a picture of it."""

from __future__ import annotations

import io
import struct
import zlib

from ..errors import ProvisionError, UsageError
from .node import module
from .vm import Vm

_CHUNK = 1 << 18
_PNG = b"\x89PNG\r\n\x1a\n"


def vnc(vm: Vm) -> tuple[str, int]:
    """Host and port at which the node shows the machine's screen; raises `UsageError` without one."""
    graphics = vm.xml().find("devices/graphics")
    if graphics is None:
        raise _no_screen(vm)
    return graphics.get("listen", "127.0.0.1"), int(graphics.get("port", "0"))


def screenshot(vm: Vm) -> bytes:
    """What is on the screen, as PNG. Raises `UsageError` for a machine without one."""
    vnc(vm)
    libvirt = module(vm.where)
    stream = vm.node.connection.newStream(0)
    kind = vm.node.ask(vm.domain.screenshot, stream, 0, 0)
    picture = bytearray()
    try:
        while data := stream.recv(_CHUNK):
            picture += data
        stream.finish()
    except libvirt.libvirtError as error:
        raise ProvisionError(f"the screen cannot be had: {error}", where=vm.where) from error
    return bytes(picture) if kind == "image/png" else png_of(bytes(picture))


def _no_screen(vm: Vm) -> UsageError:
    return UsageError("the machine has no screen", where=vm.where, hint="give it one with vnc=True")


def png_of(pixmap: bytes) -> bytes:
    """A picture in the format PNG (RFC 2083) from one in the binary format PPM, with 8 bits a colour."""
    source = io.BytesIO(pixmap)
    words: list[bytes] = []
    while len(words) < 4:
        words += source.readline().partition(b"#")[0].split()
    kind, width, height, most = words[0], *map(int, words[1:4])
    pixels = source.read()
    if kind != b"P6" or most != 255 or len(pixels) < 3 * width * height:
        raise UsageError(f"a picture of the format {kind!r} with {most} shades is none that is understood")
    rows = b"".join(b"\0" + pixels[3 * width * row : 3 * width * (row + 1)] for row in range(height))
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return _PNG + b"".join(_chunk(kind, data) for kind, data in chunks)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
