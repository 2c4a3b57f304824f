"""Waits until a network's name server knows a name: ``python podman_names.py SERVER NAME SECONDS``.

It runs in the network of a machine, so it is started as a file and imports nothing of ours. It ends with
status 0 when the name is known, else with 1 when the time is over. See RFC 1035, section 4.
"""

import socket
import struct
import sys
import time

_PORT = 53
_PAUSE = 0.02
_PATIENCE = 0.2
_RECURSION, _ADDRESS, _INTERNET = 0x100, 1, 1


def known(server: str, name: str) -> bool:
    """Whether the server has an address for a name; one that does not answer has none."""
    question = b"".join(bytes([len(part)]) + part.encode() for part in name.split(".")) + b"\0"
    query = struct.pack(">6H", 1, _RECURSION, 1, 0, 0, 0) + question + struct.pack(">2H", _ADDRESS, _INTERNET)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as connection:
        connection.settimeout(_PATIENCE)
        try:
            connection.connect((server, _PORT))
            connection.send(query)
            answers: int = struct.unpack(">6H", connection.recv(512)[:12])[3]
        except OSError:
            return False
    return answers > 0


def main(server: str, name: str, seconds: str) -> int:
    end = time.monotonic() + float(seconds)
    while not known(server, name):
        if time.monotonic() > end:
            return 1
        time.sleep(_PAUSE)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
