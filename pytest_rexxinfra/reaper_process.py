"""The tiny process that outlives a run: it reads from a pipe of the run, and acts when the pipe ends.

It is started as a file, without the site packages, and imports nothing of ours: it only remembers. What
has to be removed is done by `sweeper`, which it becomes. One message a line:

``open LEASE JSON``, ``close LEASE…``   a resource is about to be made; resources are gone, or kept
``keep LEASE…``                         these stay, whatever the system lists
``member PID START``                    a process of the run that must not make anything any more
``bye``                                 the run has removed everything itself
"""

import os
import signal
import sys


def main(argv: list[str]) -> None:
    """Run until the pipe ends; ``argv`` is the command of the sweeper."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    leases: dict[bytes, bytes] = {}
    kept: set[bytes] = set()
    members: list[bytes] = []
    for line in os.fdopen(0, "rb", closefd=False):
        word, _, rest = line.rstrip(b"\n").partition(b" ")
        if word == b"open":
            lease, _, text = rest.partition(b" ")
            leases[lease] = text
        elif word in (b"close", b"keep"):
            for lease in rest.split():
                leases.pop(lease, None)
            if word == b"keep":
                kept.update(rest.split())
        elif word == b"member":
            members.append(rest)
        elif word == b"bye":
            return
    os.dup2(_told(list(leases.values()), members, kept), 0)
    os.execv(argv[0], argv)


def _told(leases: list[bytes], members: list[bytes], kept: set[bytes]) -> int:
    """A file in memory with what the sweeper reads."""
    lines = [b"lease " + text for text in leases]
    lines += [b"member " + text for text in members]
    lines += [b"keep " + lease for lease in kept]
    descriptor = os.memfd_create("leases")
    os.write(descriptor, b"".join(line + b"\n" for line in lines))
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


if __name__ == "__main__":
    main(sys.argv[1:])
