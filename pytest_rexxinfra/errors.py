"""The one tree of errors: each says what failed, where, with which output, and what to do next."""

from __future__ import annotations

import traceback
from collections.abc import Sequence

_OUTPUT_LIMIT = 4000


class RexxInfraError(Exception):
    """Base of every error this package raises on purpose.

    ``hint`` is the next step for the reader, ``command`` what was being run,
    ``output`` what it printed, ``where`` the machine or system it concerns.
    """

    def __init__(
        self,
        message: str,
        *,
        hint: str | None = None,
        command: str | Sequence[str] | None = None,
        output: str | None = None,
        where: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.command = command if command is None or isinstance(command, str) else " ".join(command)
        self.output = output
        self.where = where

    def __str__(self) -> str:
        parts = [f"[{self.where}] {self.message}" if self.where else self.message]
        if self.command:
            parts.append(f"  command: {shorten(self.command)}")
        if self.output and self.output.strip():
            parts.append("  output:")
            parts.extend(f"    {line}" for line in shorten(self.output.strip()).splitlines())
        if self.hint:
            parts.append(f"  hint: {self.hint}")
        return "\n".join(parts)


class UsageError(RexxInfraError):
    """The user asked for something that cannot be right: an option, a path, a size, a name."""


class SystemUnavailable(RexxInfraError):
    """The system exists but cannot be used on this computer now; ``hint`` holds the enabling command."""


class Unsupported(RexxInfraError):
    """The system lacks the capability that was asked for."""


class PolicyViolation(RexxInfraError):
    """The policy of the run refuses this: ``mode`` is how strict it is, ``rule`` what in it refuses."""

    def __init__(
        self,
        message: str,
        *,
        mode: str = "",
        rule: str = "",
        hint: str | None = None,
        command: str | Sequence[str] | None = None,
        where: str | None = None,
    ) -> None:
        super().__init__(message, hint=hint, command=command, where=where)
        self.mode = mode
        self.rule = rule


class ImageError(RexxInfraError):
    """An image cannot be found, pulled or built."""


class BuildError(RexxInfraError):
    """A REXX build cannot be found, fetched, recognised or deployed."""


class ProvisionError(RexxInfraError):
    """A machine could not be created or started; what was created has been removed again."""


class MachineDied(RexxInfraError):
    """The machine ended while it was being used."""


class ChannelClosed(RexxInfraError):
    """The way into the machine closed before the command ended; its outcome is unknown."""


class DeadlineExceeded(RexxInfraError):
    """An operation did not end before its deadline."""


class CommandTimeout(DeadlineExceeded):
    """A command ran past its timeout and was killed inside the machine."""


class CommandFailed(RexxInfraError):
    """A command that had to succeed ended with a status other than 0."""


def as_ours(error: Exception) -> RexxInfraError:
    """``error`` itself, or if it is none of ours, one that tells it with its traceback.

    For threads that others wait for: they must answer, whatever a driver raises.
    """
    if isinstance(error, RexxInfraError):
        return error
    story = "".join(traceback.format_exception(error))
    return RexxInfraError(f"unexpected {type(error).__name__}: {error}", output=story)


def shorten(text: str) -> str:
    """Keep the head and the tail of a long text: the cause is usually at one of the two."""
    if len(text) <= _OUTPUT_LIMIT:
        return text
    half = _OUTPUT_LIMIT // 2
    return f"{text[:half]}\n… {len(text) - _OUTPUT_LIMIT} characters left out …\n{text[-half:]}"
