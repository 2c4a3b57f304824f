"""A program of a few bytes for guests that have the memory of another one: it renews what must not be shared.

It waits for lines ``NANOSECONDS ADDRESS INTERFACE NOISE``. For each it sets the time, counted since 1970, gives the
network interface its MAC address (as a number, of which the lowest byte is the first one; none if it is 0), mixes the
noise into the kernel's random number generator, and answers with a line: ``0``, or ``1`` when something failed. A clone
has the generator of the machine whose memory it has, and would give the same numbers for up to a minute whatever is
written to ``/dev/urandom``, so the program lets Linux renew it (random(4), RNDRESEEDCRNG), for which there is no usual
program. Each program that is started costs an emulated clone much, and no compiler is to be needed, so this one is
there before, and these are the instructions themselves, for x86-64.
"""

from __future__ import annotations

import struct

_BASE = 0x400000
_HEADERS = 64 + 56

_CODE = (
    bytes.fromhex(
        "4881ec00040000"  # sub rsp, 1024
        # next: one request, read(0, buffer, 1023)
        "31c0"  # next: xor eax, eax
        "31ff"  # xor edi, edi
        "4889e6"  # mov rsi, rsp
        "baff030000"  # mov edx, 1023
        "0f05"  # syscall
        "85c0"  # test eax, eax
        "0f8e07010000"  # jle end
        "4c8d3404"  # lea r14, [rsp+rax]
        # clock_settime(CLOCK_REALTIME, {number / 1e9, number % 1e9})
        "4889e6"  # mov rsi, rsp
        "e804010000"  # call number
        "4989f5"  # mov r13, rsi
        "31d2"  # xor edx, edx
        "b900ca9a3b"  # mov ecx, 1000000000
        "48f7f1"  # div rcx
        "52"  # push rdx
        "50"  # push rax
        "4889e6"  # mov rsi, rsp
        "31ff"  # xor edi, edi
        "b8e3000000"  # mov eax, 227
        "0f05"  # syscall
        "4989c4"  # mov r12, rax
        "4883c410"  # add rsp, 16
        # the address, and the interface's name, made to end with a zero
        "4c89ee"  # mov rsi, r13
        "e8da000000"  # call number
        "4989f5"  # mov r13, rsi
        "48ffc6"  # scan: inc rsi
        "803e20"  # cmp byte [rsi], 32
        "77f8"  # ja scan
        "c60600"  # mov byte [rsi], 0
        "4c8d7e01"  # lea r15, [rsi+1]
        "4885c0"  # test rax, rax
        "7451"  # jz mix
        # ioctl(socket(AF_INET, SOCK_DGRAM, 0), SIOCSIFHWADDR, {name, ARPHRD_ETHER, address})
        "f3410f6f4500"  # movdqu xmm0, [r13]
        "4883ec28"  # sub rsp, 40
        "f30f7f0424"  # movdqu [rsp], xmm0
        "66c74424100100"  # mov word [rsp+16], 1
        "4889442412"  # mov [rsp+18], rax
        "b829000000"  # mov eax, 41
        "bf02000000"  # mov edi, 2
        "be02000000"  # mov esi, 2
        "31d2"  # xor edx, edx
        "0f05"  # syscall
        "89c3"  # mov ebx, eax
        "89c7"  # mov edi, eax
        "be24890000"  # mov esi, 0x8924
        "4889e2"  # mov rdx, rsp
        "b810000000"  # mov eax, 16
        "0f05"  # syscall
        "4909c4"  # or r12, rax
        "89df"  # mov edi, ebx
        "b803000000"  # mov eax, 3
        "0f05"  # syscall
        "4883c428"  # add rsp, 40
        # ebx = open("/dev/urandom", O_WRONLY); write(ebx, what is left)
        "b802000000"  # mix: mov eax, 2
        "488d3d7d000000"  # lea rdi, [rip+path]
        "be01000000"  # mov esi, 1
        "0f05"  # syscall
        "89c3"  # mov ebx, eax
        "89c7"  # mov edi, eax
        "b801000000"  # mov eax, 1
        "4c89fe"  # mov rsi, r15
        "4c89f2"  # mov rdx, r14
        "4c29fa"  # sub rdx, r15
        "0f05"  # syscall
        # ioctl(ebx, RNDRESEEDCRNG); close(ebx)
        "b810000000"  # mov eax, 16
        "89df"  # mov edi, ebx
        "be07520000"  # mov esi, 0x5207
        "0f05"  # syscall
        "4909c4"  # or r12, rax
        "89df"  # mov edi, ebx
        "b803000000"  # mov eax, 3
        "0f05"  # syscall
        # write(1, "0\n" if nothing failed, else "1\n")
        "31c0"  # xor eax, eax
        "4d85e4"  # test r12, r12
        "0f95c0"  # setnz al
        "05300a0000"  # add eax, 0x0a30
        "50"  # push rax
        "b801000000"  # mov eax, 1
        "bf01000000"  # mov edi, 1
        "4889e6"  # mov rsi, rsp
        "ba02000000"  # mov edx, 2
        "0f05"  # syscall
        "58"  # pop rax
        "e9e3feffff"  # jmp next
        "b83c000000"  # end: mov eax, 60
        "31ff"  # xor edi, edi
        "0f05"  # syscall
        # number: rax = the decimal number at rsi, which is after the byte that ends it then
        "31c0"  # number: xor eax, eax
        "0fb60e"  # digit: movzx ecx, byte [rsi]
        "48ffc6"  # inc rsi
        "83e930"  # sub ecx, 48
        "7209"  # jb ended
        "486bc00a"  # imul rax, rax, 10
        "4801c8"  # add rax, rcx
        "ebec"  # jmp digit
        "c3"  # ended: ret
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
