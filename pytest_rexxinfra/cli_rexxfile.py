"""``rexxinfra compile``: a Rexxfile as the REXX script that does the same."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from .console import pairs, plain_errors, standard_input
from .errors import UsageError


@click.command("compile")
@click.option("-a", "--arg", multiple=True, metavar="NAME=VALUE", help="Value of an ARG; repeatable.")
@click.option("-o", "--output", default=None, metavar="FILE", help="Where to write it.  [default: standard output]")
@click.argument("rexxfile", metavar="REXXFILE")
@plain_errors
def compile_(arg: Sequence[str], output: str | None, rexxfile: str) -> None:
    """Write a REXX script that does what REXXFILE says, with ADDRESS SYSTEM commands.

    REXXFILE is a file, or - for standard input. The script has all files in it that the Rexxfile names, runs with
    RexxJS and with Regina, and stops at the first command that fails.
    """
    from .rexxfile import compile_rexx, read_plan

    text = standard_input() if rexxfile == "-" else None
    script = compile_rexx(read_plan(rexxfile, pairs("--arg", arg), text=text))
    if output is None:
        click.echo(script, nl=False)
        return
    try:
        Path(output).write_text(script, "utf-8")
    except OSError as error:
        raise UsageError(f"{output} cannot be written: {error.strerror}") from error


COMMANDS = (compile_,)
