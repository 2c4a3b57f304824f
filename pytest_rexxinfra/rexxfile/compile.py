"""A plan as a REXX script that does the same, on the computer it runs on, with nothing but a POSIX shell."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import re
import shlex
import tarfile
from collections.abc import Iterator
from importlib.resources import files

from ..errors import UsageError
from . import templates
from .apply import interpreter
from .instructions import Checkpoint, CopyBuild, Expect, Put, Run, RunRexx, RunScript, Workdir
from .plan import Plan, Task
from .sources import Source

_PIECE = 800
"""Most characters of a command; Regina has a limit of 1024 for the whole clause."""

_REXX = "${REXX:-rexx}"
"""What runs the scripts of RUN_REXX: a command in the variable REXX, split at blanks."""

_NOT_POSIX = re.compile(r"\\[A-Za-z0-9]|\(\?(?!i\))|[*+?}]\?")
"""What a pattern of Python may have and one of ``grep -E`` has not."""


def compile_rexx(plan: Plan, target: str = "local") -> str:
    """The plan as a REXX script with ADDRESS SYSTEM commands, for RexxJS and Regina.

    The script has all sources in it, runs where it is started, and stops with a message at the first command that
    fails. ``target`` is what templates get as name and system of the machine.

    Raises `UsageError` for what has no equivalent: COPY_BUILD, and patterns that ``grep -E`` does not know.
    """
    return "\n".join([*_Writer(plan, target).lines(), ""])


class _Writer:
    def __init__(self, plan: Plan, target: str) -> None:
        self._plan = plan
        self._target = target
        self._here = f"/tmp/rexxfile-{plan.digest[:16]}"
        self._env = ""

    def lines(self) -> Iterator[str]:
        helper = (files(__package__) / "compiled.sh").read_bytes()
        yield f"/* {_plain(self._plan.name)}, compiled by rexxinfra */"
        yield "/* RexxJS leaves PARSE VERSION undone, and ends commands after 30 s unless it is told otherwise. */"
        yield "version = ''"
        yield "PARSE VERSION version"
        yield "ADDRESS SYSTEM"
        yield "IF version = '' THEN DO"
        yield '  "@options timeout=0"'
        yield "END"
        yield f'"rm -rf {self._here} && mkdir -m 711 {self._here}"'
        yield from self._checked(f"{self._here} cannot be made")
        yield from self._pieces(helper)
        yield f'"base64 -d <{self._here}/pieces >{self._here}/do"'
        yield from self._checked(f"{self._here}/do cannot be written")
        for task in self._plan.tasks:
            yield f"/* {task.line}: {_plain(task.text)} */"
            yield from self._task(task)
        yield f'"rm -rf {self._here}"'
        yield "EXIT 0"

    def _task(self, task: Task) -> Iterator[str]:
        match task.action:
            case Run(command, any_status):
                yield from self._run(task, command, any_status)
            case RunScript(source, arguments, any_status):
                yield from self._script(task, source, interpreter(source), arguments, any_status)
            case RunRexx(script, arguments, any_status):
                yield from self._script(task, script, _REXX, arguments, any_status)
            case Workdir(path):
                yield from self._do(task, "workdir", task.user or "", path)
            case Put() as put:
                yield from self._put(task, put)
            case Expect() as expect:
                yield from self._expect(task, expect)
            case Checkpoint(line):
                parts = re.findall(r"""[^"]+|"+""", line)
                yield f"SAY {' || '.join(map(_literal, parts))}"
            case CopyBuild():
                raise UsageError(
                    f"{self._plan.name}:{task.line}: COPY_BUILD cannot be compiled",
                    hint="the script is itself run by a build; leave the line out",
                )

    def _run(self, task: Task, command: str, any_status: bool) -> Iterator[str]:
        env = [f"export {name}={shlex.quote(value)}" for name, value in task.env.items()]
        text = "\n".join([*env, "" if task.cwd is None else f"cd {shlex.quote(task.cwd)} || exit 125", ""])
        if text != self._env:
            yield from self._keep(task, "env", text.encode())
            self._env = text
        yield from self._do(task, "run", "any" if any_status else "zero", task.user or "", command)

    def _script(
        self, task: Task, script: str | Source, program: str, arguments: tuple[str, ...], any_status: bool
    ) -> Iterator[str]:
        name = "script.rexx" if isinstance(script, str) else f"script-{script.entries[0].name}"
        yield from self._keep(task, name, script.encode() if isinstance(script, str) else script.path.read_bytes())
        command = f"{program} {shlex.join([f'{self._here}/{name}', *arguments])}"
        yield from self._run(task, command, any_status)

    def _put(self, task: Task, put: Put) -> Iterator[str]:
        owner = put.owner or ""
        if put.source.is_tree:
            content = _tree(put.source)
            words = ["tree", put.target, owner]
        else:
            entry = put.source.entries[0]
            mode = entry.permissions if put.mode is None else put.mode
            words = ["put", put.target, entry.name, f"{mode:o}", owner]
            content = put.source.path.read_bytes()
            if put.template:
                content = templates.render(put.source, put.variables, self._target, self._target)
        yield from self._keep(task, "content", content)
        yield from self._do(task, *words)

    def _expect(self, task: Task, expect: Expect) -> Iterator[str]:
        kind, wanted = expect.what, expect.wanted
        if kind == "pattern":
            if _NOT_POSIX.search(wanted):
                raise UsageError(
                    f"{self._plan.name}:{task.line}: the pattern /{wanted}/ cannot be compiled",
                    hint="write it so that `grep -E` knows it, for example [0-9] for \\d",
                )
            if wanted.startswith("(?i)"):
                kind, wanted = "PATTERN", wanted.removeprefix("(?i)")
        negated = "not" if expect.negated else "is"
        yield from self._do(task, "expect", negated, kind, "out" if expect.stream == 1 else "err", wanted)

    def _keep(self, task: Task, name: str, content: bytes) -> Iterator[str]:
        yield from self._pieces(content)
        yield from self._do(task, "keep", name, hashlib.sha256(content).hexdigest())

    def _pieces(self, content: bytes) -> Iterator[str]:
        """Commands that bring a file of any size and kind."""
        text = base64.b64encode(content).decode()
        yield f'": >{self._here}/pieces"'
        for start in range(0, len(text), _PIECE):
            yield f'"printf %s {text[start : start + _PIECE]} >>{self._here}/pieces"'

    def _do(self, task: Task, *words: str) -> Iterator[str]:
        """A command that has to succeed."""
        line = shlex.join(["sh", f"{self._here}/do", *words])
        if len(line) > _PIECE or not line.isprintable() or {"'", '"'} <= {*line}:
            content = shlex.join(words).encode()
            yield from self._pieces(content)
            line = shlex.join(["sh", f"{self._here}/do", "words", hashlib.sha256(content).hexdigest()])
        yield _literal(line)
        ended = "not as expected" if words[0] == "expect" else "ended with status"
        yield from self._checked(f"{self._plan.name}:{task.line}: {task.text}: {ended}")

    def _checked(self, message: str) -> Iterator[str]:
        yield "IF RC <> 0 THEN DO"
        yield "  status = RC"
        yield f"  SAY {_literal(_plain(message))} status"
        yield f'  "rm -rf {self._here}"'
        yield "  EXIT status"
        yield "END"


def _literal(text: str) -> str:
    """A string of REXX with at most one kind of quotes in it, for RexxJS does not read a doubled one as one."""
    return f"'{text}'" if '"' in text else f'"{text}"'


def _plain(text: str) -> str:
    """A text for a person, as something that may be in a literal and in a comment."""
    line = "".join(letter if letter.isprintable() else " " for letter in text)[:_PIECE]
    return line.replace('"', "'").replace("*/", "* /").replace("/*", "/ *")


def _tree(source: Source) -> bytes:
    packed = io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb", mtime=0) as file, tarfile.open(fileobj=file, mode="w") as tar:
        for entry in source.entries:
            tar.add(source.path / entry.name, arcname=entry.name, recursive=False)
    return packed.getvalue()
