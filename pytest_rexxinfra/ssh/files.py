"""Files to a host over SFTP, which is quicker for large ones than a shell."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import BinaryIO

import paramiko

from ..deadline import Deadline
from ..errors import CommandFailed

_REQUEST = 200 << 10
"""Bytes in one request; OpenSSH takes 256 KiB with all that is around them (SFTP_MAX_MSG_LENGTH)."""


class Files:
    """The SFTP of one host: as many clients as files come at once, which stay for the next ones."""

    def __init__(self, session: Callable[[Deadline], paramiko.Channel], where: str) -> None:
        self._session = session
        self._where = where
        self._idle: list[paramiko.SFTPClient] = []

    def upload(self, source: BinaryIO, draft: str, target: str, mode: int, deadline: Deadline) -> None:
        """Write a file as ``draft``, and rename that; raises `CommandFailed` when the host does not do it."""
        try:
            with self._client(deadline) as sftp:
                with sftp.open(draft, "wb") as file:
                    file.set_pipelined(True)
                    file.MAX_REQUEST_SIZE = _REQUEST
                    size = 0
                    while block := source.read(_REQUEST):
                        file.write(block)
                        size += len(block)
                    # Of a full disk nothing is heard before.
                    there = file.stat().st_size
                    if there != size:
                        raise OSError(f"{there} bytes of {size} are there")
                sftp.chmod(draft, mode)
                sftp.posix_rename(draft, target)
        except (paramiko.SSHException, EOFError, OSError) as error:
            raise CommandFailed(f"{target} cannot be written over SFTP: {error}", where=self._where) from error

    @contextmanager
    def _client(self, deadline: Deadline) -> Iterator[paramiko.SFTPClient]:
        """A client that nobody else uses meanwhile; it stays for the next file, unless something went wrong."""
        client = self._idle_one() or self._new(deadline)
        try:
            client.get_channel().settimeout(deadline.remaining())  # type: ignore[union-attr]
            yield client
        except BaseException:
            client.close()
            raise
        self._idle.append(client)

    def _idle_one(self) -> paramiko.SFTPClient | None:
        while self._idle:
            with suppress(IndexError):  # another thread was quicker
                client = self._idle.pop()
                channel = client.get_channel()
                if channel is not None and not channel.closed:
                    return client
        return None

    def _new(self, deadline: Deadline) -> paramiko.SFTPClient:
        channel = self._session(deadline)
        channel.settimeout(deadline.remaining())
        channel.invoke_subsystem("sftp")
        return paramiko.SFTPClient(channel)

    def forget(self) -> None:
        """Let go of the clients, whose connections are being closed."""
        self._idle.clear()
