"""What is known about a build: from its files at once, and from running it once on this computer."""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import platform
import re
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from ..deadline import Deadline
from ..errors import BuildError
from ..events import Events
from ..processor import elf_machine
from . import store, tree
from .build import EXIT_VALUE_HOOK, Build
from .probe import Answer, ProbeFailed, ask

RUNS = 5
"""So many timed starts make the start-up time, after one that does not count."""

_FORMAT = 1
_ROUTINE = "CALL FooTest\nEXIT\nFooTest:\nSAY 'hi'\nRETURN\n"
_LONGEST_VERSION = 100
_VERSION = re.compile(r"\d+\.\d+")
_NODE_VERSION = re.compile(r"v(\d+\.\d+\.\d+)")
_NODE_URL = re.compile(rb"nodejs\.org/download/release/v(\d+\.\d+\.\d+)/")


@dataclass(frozen=True)
class BuildFacts:
    """What is known about a build. The fields up to ``node`` need no run; the others are ``None`` without one.

    ``size`` is in bytes and ``files`` a number, of the files that belong to the build. ``node`` is the
    version that runs it here, or that is inside it. ``asked`` is when the build was run to learn the rest,
    in seconds since 1970. ``version`` is what it prints for ``--version``, ``language`` what PARSE VERSION
    gives, both ``None`` if nothing. ``startup_median`` and ``startup_best`` are the seconds of a script
    that says hello.

    ``exit_status``, ``return_status`` and ``error_status`` are the process's status after EXIT 3, RETURN 4
    and a division by zero, ``None`` if it did not end in time. ``exit_value`` is what is told after EXIT 3
    by other means than the status. ``test_runner`` says whether ``REXXJS_TEST_RUNNER`` makes a test runner
    of it.
    """

    label: str
    kind: str
    dialect: str
    commit: str | None
    size: int
    files: int
    sha256: str
    root: str
    node: str | None = None
    asked: float | None = None
    version: str | None = None
    language: str | None = None
    startup_median: float | None = None
    startup_best: float | None = None
    exit_status: int | None = None
    return_status: int | None = None
    error_status: int | None = None
    exit_value: str | None = None
    test_runner: bool | None = None

    @property
    def exit_reaches_status(self) -> bool | None:
        """Whether EXIT 3 ends with status 3; ``None`` if that is not known."""
        return None if self.exit_status is None else self.exit_status == 3

    @property
    def return_reaches_status(self) -> bool | None:
        """Whether RETURN 4 ends with status 4; ``None`` if that is not known."""
        return None if self.return_status is None else self.return_status == 4

    def summary(self) -> str:
        """The build beside its label, in a short line: ``sha256 876776d2, node v20.19, …``."""
        parts = [f"sha256 {self.sha256[:8]}"]
        if self.node:
            parts.append(f"node v{'.'.join(self.node.split('.')[:2])}")
        if self.exit_reaches_status is not None:
            parts.append(f"EXIT values {'reach' if self.exit_reaches_status else 'do not reach'} the status")
        return ", ".join(parts)

    def as_json(self) -> dict[str, Any]:
        """All facts by name, ready for JSON."""
        reaches = {name: getattr(self, name) for name in ("exit_reaches_status", "return_reaches_status")}
        return {**asdict(self), **reaches}

    def report(self) -> str:
        """All facts for a person, one in a line."""
        rows = [
            ("label", self.label),
            ("kind", self.kind),
            ("dialect", self.dialect),
            ("commit", self.commit or "none"),
            ("size", f"{self.size} bytes in {self.files} {'file' if self.files == 1 else 'files'}"),
            ("sha256", self.sha256),
            ("root", self.root),
            ("node", self.node or "none"),
        ]
        if self.asked is None:
            rows.append(("asked", "never: it does not run on this computer"))
        else:
            rows += self._answers()
            rows.append(("asked", time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.asked))))
        width = max(len(name) for name, _ in rows) + 2
        return "\n".join(f"{f'{name}:':<{width}}{value}" for name, value in rows)

    def _answers(self) -> list[tuple[str, str]]:
        if self.exit_value is not None:
            value = f"{self.exit_value} is told after EXIT 3"
        else:
            value = "by the status alone" if self.exit_reaches_status else "none"
        return [
            ("version", self.version or "none"),
            ("language", self.language or "none"),
            ("start-up", f"{self.startup_median:.3f} s, best {self.startup_best:.3f} s, of {RUNS} runs"),
            ("exit status", _reached(self.exit_reaches_status, f"EXIT 3 ends with status {self.exit_status}")),
            ("return status", _reached(self.return_reaches_status, f"RETURN 4 ends with status {self.return_status}")),
            ("error status", "none, it does not end" if self.error_status is None else str(self.error_status)),
            ("exit value", value),
            ("test runner", "yes" if self.test_runner else "no"),
        ]


_WITHOUT_RUN = ("label", "kind", "dialect", "commit", "files", "sha256", "root")
_KEPT = tuple(field.name for field in fields(BuildFacts) if field.name not in _WITHOUT_RUN)


def quick(build: Build, environ: Mapping[str, str] | None = None) -> BuildFacts:
    """What can be told without running anything. Raises `BuildError` when a file of the build is gone."""
    try:
        size = sum(os.lstat(f"{build.root}/{name}").st_size for name in build.files())
    except OSError as error:
        raise BuildError(f"cannot read the build {build.root}: {error}") from None
    return replace(_unasked(build), size=size, node=_node_of(build, os.environ if environ is None else environ))


def headline(build: Build, environ: Mapping[str, str] | None = None) -> str:
    """`BuildFacts.summary` of what is known about a build; runs nothing and looks at none of its files."""
    environ = os.environ if environ is None else environ
    return (known(build, environ) or replace(_unasked(build), node=_node_of(build, environ))).summary()


def known(build: Build, environ: Mapping[str, str] | None = None) -> BuildFacts | None:
    """What `inspect` learned about this build before, with the node of today; ``None`` if it did not.

    Runs nothing, and does not look at the files of the build.
    """
    node = _node_of(build, os.environ if environ is None else environ)
    return None if build.needs_node and node is None else _recall(build, node)


def inspect(
    build: Build, events: Events, deadline: Deadline, environ: Mapping[str, str], *, fresh: bool = False
) -> BuildFacts:
    """All facts about a build; it is run on this computer unless they are known, or if they are to be ``fresh``.

    Facts are known by the digest of the build and the version of node. A program for another processor is
    not run. Raises `BuildError` when the build cannot run a script, what `node_runtime` and `node_version`
    raise, and `DeadlineExceeded`.
    """
    program, node = _node(environ, events, deadline) if build.needs_node else ("node", None)
    found = None if fresh else _recall(build, node)
    if found is not None:
        return found
    with events.step("controller", f"ask {build.label} what it does"):
        facts = quick(build, environ)
        interpreter = _Interpreter(build, program, environ, deadline)
        if build.kind == "binary":
            node = _node_inside(build.root / build.entry) or interpreter.packed_node()
        facts = replace(facts, node=node)
        if _is_foreign(build):
            return facts
        facts = interpreter.answers(facts)
    _remember(build, facts)
    return facts


@dataclass(frozen=True)
class _Interpreter:
    """A build that is run on the controller, each time in a directory of its own."""

    build: Build
    node: str
    environ: Mapping[str, str]
    deadline: Deadline

    def answers(self, facts: BuildFacts) -> BuildFacts:
        """The facts together with those that running it gives. Raises `BuildError` if it cannot say hello."""
        self._hello()
        seconds = sorted(self._hello() for _ in range(RUNS))
        return replace(
            facts,
            asked=time.time(),
            version=self._version(),
            language=self._language(),
            startup_median=seconds[RUNS // 2],
            startup_best=seconds[0],
            exit_status=self._status("EXIT 3\n"),
            return_status=self._status("RETURN 4\n"),
            error_status=self._status("x = 1 / 0\nSAY x\n"),
            exit_value=self._exit_value(),
            test_runner=self._is_test_runner(),
        )

    def packed_node(self) -> str | None:
        """The version of the node in a program that ``pkg`` made: with this variable it is that node."""
        answer = self._ask(["--version"], variables={"PKG_EXECPATH": "PKG_INVOKE_NODEJS"})
        found = _NODE_VERSION.fullmatch(answer.stdout.strip()) if answer else None
        return found[1] if found else None

    def _hello(self) -> float:
        """How long a script that says hello takes, in seconds."""
        answer = self._run("SAY 'hello'\n")
        if answer is None or answer.status != 0 or answer.stdout.strip() != "hello":
            told = "it did not end" if answer is None else f"it ended with status {answer.status}"
            raise BuildError(
                f"{self.build.label} does not run a script that says hello: {told}",
                output=answer.text if answer else None,
                hint="look at the build, or name another one",
            )
        return answer.seconds

    def _version(self) -> str | None:
        answer = self._ask(["--version"])
        if answer is None or answer.status != 0:
            return None
        first = answer.stdout.strip().partition("\n")[0]
        return first if _VERSION.search(first) and len(first) <= _LONGEST_VERSION else None

    def _language(self) -> str | None:
        answer = self._run("v = 'untouched'\nPARSE VERSION v\nSAY v\n")
        text = answer.stdout.strip() if answer and answer.status == 0 else ""
        return None if text == "untouched" else text or None

    def _status(self, script: str) -> int | None:
        answer = self._run(script)
        return answer.status if answer else None

    def _exit_value(self) -> str | None:
        """What `EXIT_VALUE_HOOK` tells after EXIT 3."""
        if self.build.kind != "checkout":
            return None
        from .deployment import parse_exit_value

        told = "exit-value.json"
        hook = ["-r", str(EXIT_VALUE_HOOK)]
        answer = self._run("EXIT 3\n", before=hook, wanted=told, variables={"REXXINFRA_EXIT_VALUE": told})
        return parse_exit_value(answer.left.get(told, "").encode()) if answer else None

    def _is_test_runner(self) -> bool:
        told = "test-results.json"
        answer = self._run(_ROUTINE, wanted=told, variables={"REXXJS_TEST_RUNNER": "true"})
        try:
            return answer is not None and isinstance(json.loads(answer.left.get(told, "")), dict)
        except ValueError:
            return False

    def _run(
        self,
        script: str,
        *,
        before: Sequence[str] = (),
        wanted: str | None = None,
        variables: Mapping[str, str] | None = None,
    ) -> Answer | None:
        """How a script ended, ``None`` if it did not; ``before`` are arguments of node."""
        files = {"script.rexx": script}
        return self._ask(["./script.rexx"], before=before, files=files, wanted=wanted, variables=variables)

    def _ask(
        self,
        arguments: Sequence[str],
        *,
        before: Sequence[str] = (),
        files: Mapping[str, str] | None = None,
        wanted: str | None = None,
        variables: Mapping[str, str] | None = None,
    ) -> Answer | None:
        first, *rest = self.build.command(self.build.root, self.node)
        try:
            return ask(
                [first, *before, *rest, *arguments],
                "",
                self.environ,
                self.deadline,
                files=files,
                wanted=[wanted] if wanted else [],
                variables=variables,
            )
        except ProbeFailed:
            self.deadline.check(f"facts about {self.build.label}")
            return None


def _unasked(build: Build) -> BuildFacts:
    return BuildFacts(
        label=build.label,
        kind=build.kind,
        dialect=build.dialect,
        commit=build.commit,
        size=0,
        files=len(build.files()),
        sha256=build.digest,
        root=str(build.root),
    )


def _reached(reached: bool | None, seen: str) -> str:
    return "not known, it does not end" if reached is None else f"{'yes' if reached else 'no'}, {seen}"


def _node(environ: Mapping[str, str], events: Events, deadline: Deadline) -> tuple[str, str]:
    """The program and the version of the node that runs a checkout here: of PATH, else our own."""
    from ..node import NODE_VERSION, node_runtime, node_version

    found = shutil.which("node", path=environ.get("PATH", ""))
    if found is None:
        return str(node_runtime(events=events, deadline=deadline) / "bin/node"), NODE_VERSION
    program = Path(found)
    status = program.stat()
    mark = tree.stamp([(found, status)])
    version = store.recall(program, mark).get("version")
    if not isinstance(version, str):
        version = node_version(program)
        store.remember(program, mark, status.st_ctime_ns, version=version)
    return found, version


def _node_of(build: Build, environ: Mapping[str, str]) -> str | None:
    """The version that `_node` gives for a checkout, if that is known without running it."""
    from ..node import NODE_VERSION

    if not build.needs_node:
        return None
    found = shutil.which("node", path=environ.get("PATH", ""))
    if found is None:
        return NODE_VERSION
    with suppress(OSError):
        version = store.recall(Path(found), tree.stamp([(found, Path(found).stat())])).get("version")
        return version if isinstance(version, str) else None
    return None


def _node_inside(program: Path) -> str | None:
    """The version of the node in a program that was made of a released one, from the address in it."""
    with program.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        found = _NODE_URL.search(content)
        return found[1].decode() if found else None


def _is_foreign(build: Build) -> bool:
    """Whether a program is for another processor than this computer's."""
    return not build.needs_node and elf_machine(build.root / build.entry) not in (None, platform.machine())


def _file(build: Build, node: str | None) -> Path:
    return store.builds_dir() / "facts" / f"{build.digest[:32]}{f'-node-{node}' if node else ''}.json"


def _stamp(build: Build) -> str:
    """Changes when the same build and node would be asked otherwise."""
    hook = hashlib.sha256(EXIT_VALUE_HOOK.read_bytes()).hexdigest()[:16] if build.kind == "checkout" else ""
    return f"{_FORMAT}{hook}"


def _recall(build: Build, node: str | None) -> BuildFacts | None:
    """What was noted for this build and this version of the computer's node, if it needs that."""
    noted = store.read_facts(_file(build, node))
    if noted.keys() != {"stamp", *_KEPT} or noted.pop("stamp") != _stamp(build):
        return None
    return replace(_unasked(build), **noted)


def _remember(build: Build, facts: BuildFacts) -> None:
    kept = {name: getattr(facts, name) for name in _KEPT}
    with suppress(OSError):
        store.write_facts(_file(build, facts.node if build.needs_node else None), {"stamp": _stamp(build), **kept})
