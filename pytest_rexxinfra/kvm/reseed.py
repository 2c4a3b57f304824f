"""A program of a few bytes for guests: it lets Linux renew its random number generator now.

A clone has the generator of the machine whose memory it has, and would give the same numbers for up to a minute,
whatever is written to ``/dev/urandom``. No usual program asks for the renewal (random(4), RNDRESEEDCRNG), and no
compiler is to be needed, so these are the instructions themselves, for x86-64.
"""

from __future__ import annotations

import struct

_BASE = 0x400000
_HEADERS = 64 + 56
_RNDRESEEDCRNG = 0x5207

_CODE = b"".join(
    (
        b"\xb8\x02\x00\x00\x00",  # mov eax, 2        open(
        b"\x48\x8d\x3d\x1d\x00\x00\x00",  # lea rdi, [path]   "/dev/urandom",
        b"\x31\xf6",  # xor esi, esi      O_RDONLY)
        b"\x0f\x05",  # syscall
        b"\x89\xc7",  # mov edi, eax      ioctl(that,
        b"\xbe" + struct.pack("<I", _RNDRESEEDCRNG),  # mov esi, …  RNDRESEEDCRNG)
        b"\xb8\x10\x00\x00\x00",  # mov eax, 16
        b"\x0f\x05",  # syscall
        b"\xf7\xd8",  # neg eax           the error, or 0
        b"\x89\xc7",  # mov edi, eax      exit(that)
        b"\xb8\x3c\x00\x00\x00",  # mov eax, 60
        b"\x0f\x05",  # syscall
        b"/dev/urandom\0",
    )
)


def reseed_program() -> bytes:
    """The program as a static ELF file; its status is 0, or the error number of the kernel."""
    size = _HEADERS + len(_CODE)
    ident = b"\x7fELF\x02\x01\x01" + bytes(9)
    header = struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, _BASE + _HEADERS, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, _BASE, _BASE, size, size, 0x1000)
    return ident + header + segment + _CODE
