"""A program of a few bytes for guests that have the memory of another one: it renews what must not be shared.

``renew NANOSECONDS [ADDRESS INTERFACE]`` sets the time, counted since 1970, gives the network interface its MAC address
(as a number, of which the lowest byte is the first one), and mixes its input, 256 bytes at most, into the kernel's
random number generator. A clone has the generator of the machine whose memory it has, and would give the same numbers
for up to a minute whatever is written to ``/dev/urandom``, so the program lets Linux renew it (random(4),
RNDRESEEDCRNG), for which there is no usual program. Each program that is started costs an emulated clone much, and no
compiler is to be needed, so these are the instructions themselves, for x86-64.
"""

from __future__ import annotations

import struct

_BASE = 0x400000
_HEADERS = 64 + 56

_CODE = (
    bytes.fromhex(
        # clock_settime(CLOCK_REALTIME, {number / 1e9, number % 1e9})
        "488d6c2410"  # lea rbp, [rsp+16]
        "488b7500"  # mov rsi, [rbp]
        "e8c1000000"  # call number
        "31d2"  # xor edx, edx
        "b900ca9a3b"  # mov ecx, 1000000000
        "48f7f1"  # div rcx
        "52"  # push rdx
        "50"  # push rax
        "4889e6"  # mov rsi, rsp
        "31ff"  # xor edi, edi
        "b8e3000000"  # mov eax, 227
        "0f05"  # syscall
        # ioctl(socket(AF_INET, SOCK_DGRAM, 0), SIOCSIFHWADDR, {name, ARPHRD_ETHER, address})
        "488b7508"  # mov rsi, [rbp+8]
        "4885f6"  # test rsi, rsi
        "744e"  # jz mix
        "e89b000000"  # call number
        "50"  # push rax
        "4c8b4510"  # mov r8, [rbp+16]
        "4883ec28"  # sub rsp, 40
        "4d8b08"  # mov r9, [r8]
        "4c890c24"  # mov [rsp], r9
        "4d8b4808"  # mov r9, [r8+8]
        "4c894c2408"  # mov [rsp+8], r9
        "66c74424100100"  # mov word [rsp+16], 1
        "4889442412"  # mov [rsp+18], rax
        "b829000000"  # mov eax, 41
        "bf02000000"  # mov edi, 2
        "be02000000"  # mov esi, 2
        "31d2"  # xor edx, edx
        "0f05"  # syscall
        "89c7"  # mov edi, eax
        "be24890000"  # mov esi, 0x8924
        "4889e2"  # mov rdx, rsp
        "b810000000"  # mov eax, 16
        "0f05"  # syscall
        # mix: ebx = open("/dev/urandom", O_WRONLY)
        "b802000000"  # mov eax, 2
        "488d3d5f000000"  # lea rdi, [path]
        "be01000000"  # mov esi, 1
        "0f05"  # syscall
        "89c3"  # mov ebx, eax
        # write(ebx, buffer, read(0, buffer, 256))
        "4881ec00010000"  # sub rsp, 256
        "31c0"  # xor eax, eax
        "31ff"  # xor edi, edi
        "4889e6"  # mov rsi, rsp
        "ba00010000"  # mov edx, 256
        "0f05"  # syscall
        "4889c2"  # mov rdx, rax
        "b801000000"  # mov eax, 1
        "89df"  # mov edi, ebx
        "4889e6"  # mov rsi, rsp
        "0f05"  # syscall
        # exit(-ioctl(ebx, RNDRESEEDCRNG)): the error of the kernel, or 0
        "b810000000"  # mov eax, 16
        "89df"  # mov edi, ebx
        "be07520000"  # mov esi, 0x5207
        "0f05"  # syscall
        "f7d8"  # neg eax
        "89c7"  # mov edi, eax
        "b83c000000"  # mov eax, 60
        "0f05"  # syscall
        # number: rax = the decimal number at rsi
        "31c0"  # xor eax, eax
        "0fb60e"  # digit: movzx ecx, byte [rsi]
        "85c9"  # test ecx, ecx
        "740f"  # jz end
        "83e930"  # sub ecx, '0'
        "486bc00a"  # imul rax, rax, 10
        "4801c8"  # add rax, rcx
        "48ffc6"  # inc rsi
        "ebea"  # jmp digit
        "c3"  # end: ret
    )
    + b"/dev/urandom\0"
)  # path


def renewal_program() -> bytes:
    """The program as a static ELF file."""
    size = _HEADERS + len(_CODE)
    ident = b"\x7fELF\x02\x01\x01" + bytes(9)
    header = struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, _BASE + _HEADERS, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, _BASE, _BASE, size, size, 0x1000)
    return ident + header + segment + _CODE
