"""Reading a Rexxfile: from text to a plan, or to one error with every mistake in it."""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..rexx import checkpoints
from . import templates
from .instructions import Action, Checkpoint, CopyBuild, Expect, Put, Run, RunRexx, RunScript, Workdir
from .lines import Instruction, instructions
from .plan import Plan, Task
from .problems import Problem, Wrong, as_error
from .sources import Source
from .words import NAME, Word, split, suggestion

_FORMAT = "1"
"""Part of every digest; changed when an instruction comes to mean something else."""

_MODE = re.compile(r"[0-7]{3,4}")
_OWNER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(?::[A-Za-z0-9_][A-Za-z0-9_.-]*)?")
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_PATTERN = re.compile(r"/(.*)/(i?)", re.DOTALL)


def read_plan(path: str | Path, args: Mapping[str, str] | None = None, *, text: str | None = None) -> Plan:
    """Read a Rexxfile with all that it names on the controller; ``args`` are values for its ARGs.

    With ``text``, ``path`` is only what messages call it, and sources are relative to the current directory, else
    to that of the file. Nothing is done to any machine.

    Raises `UsageError` with every mistake in the file: line, column, and a mark below the place.
    """
    name = "stdin" if str(path) == "-" else str(path)
    folder = Path() if text is not None else Path(path).parent
    content = _content(name, Path(path)) if text is None else text
    if any("\ud800" <= letter <= "\udfff" for letter in content):
        raise UsageError(f"{name} has half a surrogate pair, which is no character")
    lines = content.removeprefix("\ufeff").replace("\r\n", "\n").split("\n")
    for number, line in enumerate(lines, 1):
        if "\0" in line:
            raise UsageError(f"{name}:{number}:{line.index(chr(0)) + 1}: there is a NUL character; a Rexxfile is text")
    reader = _Reader(name, folder, dict(args or {}))
    for instruction in instructions(lines):
        reader.read(instruction)
    return reader.plan(lines)


def _content(name: str, path: Path) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        reason = "does not exist" if isinstance(error, FileNotFoundError) else f"cannot be read: {error.strerror}"
        raise UsageError(f"Rexxfile {name} {reason}", hint=f"it was looked for at {path.absolute()}") from error
    except ValueError as error:
        raise UsageError(f"Rexxfile {name!r}: {error}") from error
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        before = data[: error.start]
        line, column = before.count(b"\n") + 1, len(before.rpartition(b"\n")[2].decode()) + 1
        raise UsageError(f"{name}:{line}:{column}: this byte is not UTF-8: 0x{data[error.start]:02x}") from error


class _Reader:
    """What was read so far: the tasks, the mistakes, and what is in force for the next instruction."""

    def __init__(self, name: str, folder: Path, given: dict[str, str]) -> None:
        self._name = name
        self._folder = folder
        self._given = given
        self._args: dict[str, str] = {}
        self._env: dict[str, str] = {}
        self._cwd: str | None = None
        self._user: str | None = None
        self._base: str | None = None
        self._count = 0
        self._tasks: list[Task] = []
        self._last: int | None = None
        self._problems: list[Problem] = []
        self._digest = hashlib.sha256(_FORMAT.encode())

    def read(self, instruction: Instruction) -> None:
        """Read the next instruction; what is wrong with it is kept for the end."""
        self._count += 1
        try:
            word, start = _next(instruction.text, 0)
            read = _WORDS.get(word)
            if read is None:
                # Nothing before the backslash of a continuation.
                raise Wrong(_unknown(word or "\\"))
            if not instruction.text[start:].strip() and word not in _ALONE:
                raise Wrong(f"{word} needs more: {_USAGE[word]}", len(word))
            action = read(self, instruction, start)
        except Wrong as wrong:
            self._problems.append(Problem(instruction.place(wrong.offset), wrong.message))
            return
        if action is not None:
            self._add(instruction, action)

    def plan(self, lines: list[str]) -> Plan:
        """What was read, when there was no mistake."""
        if self._problems:
            raise as_error(self._name, lines, self._problems)
        if not self._count:
            raise UsageError(f"{self._name} has no instruction", hint=f"instructions: {', '.join(_WORDS)}")
        unknown = [name for name in self._given if name not in self._args]
        if unknown:
            near = suggestion(unknown[0], self._args)
            raise UsageError(f"{self._name} has no ARG {unknown[0]}{near}", hint=f"its ARGs: {', '.join(self._args)}")
        for task in self._tasks:
            self._digest.update(task.identity.encode("utf-8", "backslashreplace"))
        self._digest.update(repr(self._base).encode("utf-8", "backslashreplace"))
        note = f"{self._name}: FROM {self._base} has a meaning only when the file is used as an image"
        return Plan(
            self._name,
            tuple(self._tasks),
            self._digest.hexdigest(),
            self._base,
            self._args,
            (note,) if self._base else (),
        )

    def _add(self, instruction: Instruction, action: Action) -> None:
        number = len(self._tasks) + 1
        task = Task(number, instruction.line, instruction.text, action, self._variables, self._cwd, self._user)
        self._tasks.append(task)
        if action.gives_output:
            self._last = len(self._tasks) - 1

    @property
    def _variables(self) -> dict[str, str]:
        return {**self._args, **self._env}

    def _words(self, instruction: Instruction, start: int) -> list[Word]:
        return split(instruction.text, start, self._variables)

    def _one(self, instruction: Instruction, start: int) -> Word:
        words = self._words(instruction, start)
        if len(words) > 1:
            raise Wrong("this is one argument too many; put quotes around blanks", words[1].offset)
        if not words[0].text:
            raise Wrong("this is empty", words[0].offset)
        return words[0]

    def _source(self, word: Word) -> Source:
        path = self._folder / word.text
        if not word.text:
            raise Wrong("the name of the file is empty", word.offset)
        try:
            return Source.read(path)
        except FileNotFoundError as error:
            where = f"; it was looked for at {path.absolute()}"
            raise Wrong(f"{error.filename or path} does not exist{where}", word.offset) from error
        except OSError as error:
            raise Wrong(f"{path} cannot be read: {error.strerror or error}", word.offset) from error
        except ValueError as error:
            raise Wrong(f"{word.text!r} is no name of a file: {error}", word.offset) from error

    def _file(self, word: Word) -> Source:
        source = self._source(word)
        if source.is_tree:
            raise Wrong(f"{source.path} is a directory, not a file", word.offset)
        return source

    # One method for each instruction. ``start`` is the offset at which its arguments may begin.

    def _from(self, instruction: Instruction, start: int) -> None:
        if self._count > 1:
            raise Wrong("FROM can only be the first instruction")
        self._base = self._one(instruction, start).text

    def _arg(self, instruction: Instruction, start: int) -> None:
        name, sign, default = self._pair("ARG", instruction, start)
        if name.text in self._given:
            default = self._given[name.text]
        elif not sign:
            # Defined all the same, so that its uses are not mistakes as well.
            self._args[name.text] = ""
            raise Wrong(f"ARG {name.text} has no value; give one with --arg {name.text}=…, or a default", name.offset)
        if "\0" in default:
            raise Wrong(f"the value of ARG {name.text} has a NUL character", name.offset)
        self._args[name.text] = default

    def _env_(self, instruction: Instruction, start: int) -> None:
        name, sign, value = self._pair("ENV", instruction, start)
        if not sign:
            raise Wrong("this is not NAME=value", name.offset)
        self._env[name.text] = value

    def _pair(self, word: str, instruction: Instruction, start: int) -> tuple[Word, str, str]:
        text = self._one(instruction, start)
        name, sign, value = text.text.partition("=")
        if not NAME.fullmatch(name):
            raise Wrong(f"{name!r} is no name for {word}: letters, digits and _, no digit in front", text.offset)
        return replace(text, text=name), sign, value

    def _workdir(self, instruction: Instruction, start: int) -> Action:
        path = self._one(instruction, start).text
        self._cwd = path if path.startswith("/") or self._cwd is None else f"{self._cwd.rstrip('/')}/{path}"
        return Workdir(self._cwd)

    def _user_(self, instruction: Instruction, start: int) -> None:
        if not instruction.text[start:].strip():
            self._user = None
            return
        name = self._one(instruction, start)
        if not _USER.fullmatch(name.text):
            raise Wrong(f"{name.text!r} is no name of a user", name.offset)
        self._user = name.text

    def _run(self, instruction: Instruction, start: int) -> Action:
        word, rest = _next(instruction.text, start)
        if word == "SCRIPT":
            words = self._words(instruction, rest)
            if not words:
                raise Wrong("RUN SCRIPT needs the name of a file", len(instruction.text))
            return RunScript(self._file(words[0]), tuple(each.text for each in words[1:]))
        command = instruction.text[rest if word == "CMD" else start :].strip()
        if not command:
            raise Wrong("RUN CMD needs a command", len(instruction.text))
        return Run(command)

    def _run_rexx(self, instruction: Instruction, start: int) -> Action:
        if self._user is not None:
            raise Wrong(f"RUN_REXX cannot run as {self._user}; write USER alone before it, for the machine's own user")
        # A script is taken as it is: its values come as variables of the environment, never as text in its source.
        first = _first(instruction.text, start)
        if first.quoted:
            script: str | Source = first.text
            words = self._words(instruction, first.end)
        else:
            name, *words = self._words(instruction, start)
            script = self._file(name)
        return RunRexx(script, tuple(each.text for each in words))

    def _put(self, instruction: Instruction, start: int) -> Action:
        words = self._words(instruction, start)
        template, owner = False, None
        while words and words[0].text.startswith("--") and not words[0].quoted:
            option = words.pop(0)
            if option.text == "--template":
                template = True
            elif option.text == "--owner":
                if not words or not _OWNER.fullmatch(words[0].text):
                    raise Wrong("--owner needs USER or USER:GROUP", words[0].offset if words else option.offset)
                owner = words.pop(0).text
            else:
                known = ["--template", "--owner"]
                raise Wrong(f"PUT has no option {option.text}{suggestion(option.text, known)}", option.offset)
        if len(words) < 2:
            raise Wrong(
                f"PUT needs {'a target' if words else 'a source and a target'}: {_USAGE['PUT']}", len(instruction.text)
            )
        if len(words) > 3:
            raise Wrong("this is one argument too many; put quotes around blanks", words[3].offset)
        if not words[1].text:
            raise Wrong("the target is empty", words[1].offset)
        source = self._source(words[0])
        mode = self._mode(words[2], source) if len(words) == 3 else None
        target = words[1].text
        if self._cwd is not None and not target.startswith("/"):
            target = f"{self._cwd.rstrip('/')}/{target}"
        if template:
            if source.is_tree:
                raise Wrong("a directory is no template", words[0].offset)
            templates.check(source, self._variables, words[0].offset)
        return Put(source, target, mode, owner, template, self._variables if template else {})

    def _mode(self, word: Word, source: Source) -> int:
        if not _MODE.fullmatch(word.text):
            raise Wrong(f"{word.text!r} is no mode; write three or four octal digits, for example 0644", word.offset)
        if source.is_tree:
            raise Wrong("the files of a directory keep their modes; leave this out", word.offset)
        return int(word.text, 8)

    def _copy_build(self, instruction: Instruction, start: int) -> Action:
        if not instruction.text[start:].strip():
            return CopyBuild()
        target = self._one(instruction, start).text
        if self._cwd is not None and not target.startswith("/"):
            target = f"{self._cwd.rstrip('/')}/{target}"
        return CopyBuild(target)

    def _expect(self, instruction: Instruction, start: int) -> Action:
        if self._last is None:
            raise Wrong("EXPECT looks at the last output, and nothing before it gives any; put it behind a RUN")
        expect = self._expectation(instruction, start)
        if expect.what == "status":
            judged: Any = self._tasks[self._last]
            self._tasks[self._last] = replace(judged, action=replace(judged.action, any_status=True))
        return expect

    def _expectation(self, instruction: Instruction, start: int) -> Expect:
        text = instruction.text
        word, rest = _next(text, start)
        negated = word == "NOT"
        if negated:
            start = rest
            word, rest = _next(text, start)
        if word == "STATUS":
            number = self._one(instruction, rest) if text[rest:].strip() else Word("", len(text), len(text))
            if not re.fullmatch(r"\d{1,3}", number.text, re.ASCII) or int(number.text) > 255:
                raise Wrong("EXPECT STATUS needs a number from 0 to 255", number.offset)
            return Expect("status", number.text, negated=negated)
        stream = 2 if word == "STDERR" else 1
        start = rest if stream == 2 else start
        start += len(text[start:]) - len(text[start:].lstrip())
        if text.startswith("/", start):
            return self._pattern(text, start, stream, negated)
        wanted = self._words(instruction, start)
        if not wanted or not wanted[0].quoted:
            raise Wrong(f"EXPECT needs {_USAGE['EXPECT']}", wanted[0].offset if wanted else len(text))
        if len(wanted) > 1:
            raise Wrong("this is one argument too many", wanted[1].offset)
        return Expect("text", wanted[0].text, stream, negated)

    def _pattern(self, text: str, start: int, stream: int, negated: bool) -> Expect:
        found = _PATTERN.fullmatch(text, start)
        if found is None:
            raise Wrong("the pattern does not end in /", start)
        pattern = f"(?i){found[1]}" if found[2] else found[1]
        try:
            with warnings.catch_warnings(action="ignore"):
                re.compile(pattern, re.MULTILINE)
        except (re.error, OverflowError, RecursionError) as error:
            at = getattr(error, "pos", None) or 0
            raise Wrong(f"the pattern is wrong: {error}", min(found.start(1) + at, len(text))) from error
        return Expect("pattern", pattern, stream, negated)

    def _checkpoint(self, instruction: Instruction, start: int) -> Action:
        words = self._words(instruction, start)
        name, said = words[0].text, [word.text for word in words[1:]]
        pairs = dict(text.partition("=")[::2] for text in said if "=" in text)
        if len(pairs) < len(said):
            pairs = {"text": " ".join(said)}
        line = " ".join(["CHECKPOINT", name, *(f"{key}={_value(text)}" for key, text in pairs.items())])
        try:
            checkpoints.parse(line)
        except checkpoints.Malformed as error:
            raise Wrong(f"this is no checkpoint: {error}", words[0].offset) from error
        return Checkpoint(line)


def _first(text: str, start: int) -> Word:
    """The word at ``start``, as it is."""
    return split(text, start, None)[0]


def _value(text: str) -> str:
    """A value as a checkpoint's line has it, in quotes if it must be."""
    if re.fullmatch(r"[^\s'\"]+", text):
        return text
    return '"' + re.sub(r'(["\\])', r"\\\1", text) + '"'


def _next(text: str, start: int) -> tuple[str, int]:
    """The word at ``start``, quotes and all, and the offset behind it."""
    found = re.compile(r"\s*(\S*)").match(text, start)
    assert found is not None
    return found[1], found.end()


def _unknown(word: str) -> str:
    meant = suggestion(word.upper(), _WORDS)
    return f"there is no instruction {word}{meant or '; instructions: ' + ', '.join(_WORDS)}"


_WORDS: dict[str, Callable[[_Reader, Instruction, int], Action | None]] = {
    "FROM": _Reader._from,
    "ARG": _Reader._arg,
    "ENV": _Reader._env_,
    "WORKDIR": _Reader._workdir,
    "USER": _Reader._user_,
    "RUN": _Reader._run,
    "RUN_REXX": _Reader._run_rexx,
    "PUT": _Reader._put,
    "COPY_BUILD": _Reader._copy_build,
    "EXPECT": _Reader._expect,
    "CHECKPOINT": _Reader._checkpoint,
}
_ALONE = ("COPY_BUILD", "USER")
_USAGE = {
    "FROM": "FROM image",
    "ARG": "ARG NAME[=default]",
    "ENV": "ENV NAME=value",
    "WORKDIR": "WORKDIR directory",
    "RUN": "RUN command, RUN CMD command or RUN SCRIPT file",
    "RUN_REXX": 'RUN_REXX "source" or RUN_REXX file [argument …]',
    "PUT": "PUT [--template] [--owner USER[:GROUP]] source target [mode]",
    "EXPECT": '[NOT] "text", /pattern/, STDERR "text", STDERR /pattern/ or STATUS number',
    "CHECKPOINT": "CHECKPOINT name [text]",
}
