"""What a test holds: a machine in which commands run, files come and go, and REXX is spoken."""

from __future__ import annotations

import io
import itertools
import os
import shlex
import shutil
import socket
import stat
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import cached_property, partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, BinaryIO

from . import untar
from .audit import DETAIL_KEPT
from .channels.channel import KILL_GRACE, Channel, CommandOutput
from .channels.shell import INLINE_STDIN, kill_descendants, prepared
from .channels.stream import STDOUT, OnOutput, Stream, drain
from .deadline import Deadline
from .delivery import Delivery
from .errors import (
    ChannelClosed,
    CommandFailed,
    DeadlineExceeded,
    MachineDied,
    RexxInfraError,
    Unsupported,
    UsageError,
)
from .events import Events, Step
from .model import Capability, CommandResult, Phase, Power, Resource, Spec, Stats, Status, check_name
from .transcript import Transcript

if TYPE_CHECKING:
    from testinfra.host import Host

    from .ansible import AnsibleResult, Playbook
    from .audit import Audit, Deed
    from .policy import Policy
    from .rexx.checkpoints import Checkpoint
    from .rexx.runtime import RexxRuntime
    from .rexxfile import Applied
    from .systems.base import Driver

_OPENING = 30.0
_NOTICING = 2.0
_PROBING = 5.0
_COPYING = 300.0
_COPY_SIZE = 1 << 20
_CONSOLE_SHOWN = 4000
"""Characters of a console that an error shows."""

_WORTH_UPLOADING = 1 << 16
"""Bytes from which on a way of the system for files is quicker than the shell, where there is one."""


class Machine:
    """One provisioned thing in which commands run. Made by a `Lab`, which also takes it down."""

    def __init__(
        self,
        driver: Driver,
        resource: Resource,
        spec: Spec,
        name: str,
        *,
        events: Events,
        timeout: float,
        runtime: Callable[[Machine], RexxRuntime],
        clone: Callable[[Machine, str | None], Machine],
        reached: Callable[[Machine, Checkpoint], None],
        requested: Callable[[Machine], None],
        policy: Policy,
        audit: Audit,
    ) -> None:
        self.driver = driver
        self.resource = resource
        self.spec = spec
        self.name = name
        self.events = events
        self.timeout = timeout
        self.transcript = Transcript()
        self.transcript.hide(spec.env.values())
        self._make_runtime = runtime
        self._make_clone = clone
        self._reached = reached
        self._requested = requested
        self._policy = policy
        self._audit = audit
        self._idle: dict[str | None, list[Channel]] = {}
        self._busy: set[Channel] = set()
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self.written: dict[str, None] = {}
        """Where `put` and `write` have put something that stays when the machine has gone, in the order of time."""

    @property
    def system(self) -> str:
        """Name of the system the machine is in."""
        return self.driver.name

    @property
    def where(self) -> str:
        """How messages name the machine: ``docker:web``."""
        return f"{self.system}:{self.name}"

    @property
    def capabilities(self) -> frozenset[Capability]:
        """What this machine's system can do beyond running commands."""
        return self.driver.capabilities

    @property
    def status(self) -> Status:
        """What the machine is right now."""
        return self.driver.status(self.resource)

    @property
    def scratch(self) -> str:
        """A directory in the machine for files of ours, which ends with the machine."""
        return self.driver.scratch(self.resource)

    @cached_property
    def rexx(self) -> RexxRuntime:
        """Runs REXX here: ``machine.rexx("SAY 'hello'")``."""
        return self._make_runtime(self)

    @cached_property
    def host(self) -> Host:
        """The machine as a pytest-testinfra host, over our own channel."""
        try:
            from .testinfra import testinfra_host
        except ImportError as missing:
            raise UsageError(
                f"machine.host needs pytest-testinfra: {missing}", hint="pip install 'pytest-rexxinfra[testinfra]'"
            ) from missing
        return testinfra_host(self)

    def __repr__(self) -> str:
        return f"<Machine {self.where} {self.driver.describe(self.resource)}>"

    def step(self, what: str) -> AbstractContextManager[Step]:
        """Report that ``what`` is going on here for as long as the block runs."""
        return self.events.step(self.where, what)

    def reached(self, checkpoint: Checkpoint) -> None:
        """Tell whoever listens to the checkpoints of this lab of one more."""
        self._reached(self, checkpoint)

    def apply(
        self, rexxfile: str | Path, args: Mapping[str, str] | None = None, timeout: float | None = None
    ) -> Applied:
        """Do what a Rexxfile of the controller says; ``args`` are values for its ARGs.

        ``timeout`` is in seconds, for each command. Raises `UsageError` for mistakes in the file, before anything
        is done, and `CommandFailed` with line, command, status and both streams of the first task that fails.
        """
        from .rexxfile import apply, read_plan

        plan = read_plan(rexxfile, args)
        with self.step(f"apply {plan.name}"):
            return apply(self, plan, timeout=timeout).check()

    def sees(self, path: str) -> bool:
        """Whether the controller's files below ``path`` are in the machine at the same place."""
        return self.driver.sees(self.resource, path)

    def run(
        self,
        command: str | Sequence[str],
        *,
        stdin: str | bytes | BinaryIO = b"",
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        user: str | None = None,
        timeout: float | None = None,
        check: bool = False,
        on_output: OnOutput | None = None,
    ) -> CommandResult:
        """Run a shell command line, or a list of words that no shell interprets.

        ``timeout`` is in seconds; the command is killed in the machine when it is over. ``check`` makes
        a status other than 0 an error. ``on_output`` gets each piece of output as it comes:
        ``(1 for stdout | 2 for stderr, bytes)``.

        Raises `CommandTimeout`, `CommandFailed` (with ``check``), `MachineDied`.
        """
        result, _ = self.run_reporting(
            command, stdin=stdin, cwd=cwd, env=env, user=user, timeout=timeout, on_output=on_output
        )
        return self._succeeded(result) if check else result

    def _succeeded(self, result: CommandResult) -> CommandResult:
        if not result.ok:
            raise CommandFailed(
                f"the command ended with status {result.rc}",
                command=result.command,
                output=result.stderr or result.stdout,
                where=self.where,
            )
        return result

    def _audited(self, action: str, detail: str, user: str | None = None) -> AbstractContextManager[Deed]:
        """Write down in the audit log what the block does to this machine."""
        more = {} if user is None else {"as": user}
        shown = self.transcript.head(detail, DETAIL_KEPT)
        return self._audit.recording(action, self.system, self.resource.name, shown, **more)

    @contextmanager
    def _doing(self, action: str, name: str = "") -> Iterator[None]:
        """Report what is going on here, and write it down."""
        with self.step(f"{action} {name}".rstrip()), self._audited(action, name):
            yield

    def probe(self, command: str) -> CommandResult:
        """Run a quick command of our own, which no transcript shows."""
        deadline = Deadline(_PROBING)
        started = time.monotonic()
        with self._channel() as channel:
            output = channel.run(command, deadline=deadline)
        return CommandResult(command, output.rc, output.stdout, output.stderr, time.monotonic() - started, self.where)

    def run_reporting(
        self,
        command: str | Sequence[str],
        *,
        before: str = "",
        after: str = "",
        shown: str | None = None,
        action: str = "command",
        told: str | None = None,
        secret: bool = False,
        stdin: str | bytes | BinaryIO = b"",
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        user: str | None = None,
        timeout: float | None = None,
        on_output: OnOutput | None = None,
    ) -> tuple[CommandResult, bytes]:
        """Like `run`, with a shell command ``before`` and one ``after`` it in the same round trip.

        What ``after`` prints, one line, is returned beside the result and is part of no stream. ``action``
        and ``told`` are what the audit log says of it, if not that it is this command. What one prints that is
        ``secret`` is not in the transcript.
        """
        line = command if isinstance(command, str) else shlex.join(command)
        shown = line if shown is None else shown
        script = prepared(line, cwd, env)
        if before:
            script = f"{before} || exit 125\n{script}"
        if "\0" in script:
            raise UsageError("the command has a NUL character", command=shown.replace("\0", "\\0"), where=self.where)
        if timeout is not None and not timeout > 0:
            raise UsageError(f"timeout: {timeout!r} is not a number of seconds above 0", where=self.where)
        if user is not None and Capability.USERS not in self.capabilities:
            raise Unsupported(f"{self.system} has no {Capability.USERS}", where=self.where, hint="leave out user=")
        self.transcript.hide((env or {}).values())
        deadline = Deadline(timeout or self.timeout)
        started = time.monotonic()
        with self._audited(action, shown if told is None else told, user) as deed:
            own_disks = Capability.HARDWARE in self.capabilities
            self._policy.check_command(command, self.where, self.transcript.head(shown), own_disks)
            with self.transcript.recording(shown, user, secret=secret) as ending:
                try:
                    output = self._execute(script, after, shown, stdin, user, deadline, on_output)
                except ChannelClosed as closed:
                    raise self._explained(closed) from closed
                ending.tell(output.rc, output.stdout, output.stderr)
            deed.status = output.rc
        duration = time.monotonic() - started
        return CommandResult(shown, output.rc, output.stdout, output.stderr, duration, self.where), output.report

    def _execute(
        self,
        script: str,
        after: str,
        shown: str,
        stdin: str | bytes | BinaryIO,
        user: str | None,
        deadline: Deadline,
        on_output: OnOutput | None,
    ) -> CommandOutput:
        if isinstance(stdin, str):
            stdin = stdin.encode()
        if isinstance(stdin, bytes) and len(stdin) <= INLINE_STDIN:
            with self._channel(user) as channel:
                return channel.run(
                    script, stdin=stdin, after=after, deadline=deadline, on_output=on_output, shown=shown
                )
        # Beside the scratch directory, which may belong to another user of the machine.
        place = shlex.quote(f"{self.scratch}.pid-{os.getpid()}-{next(self._numbers)}")
        script = f"echo $$ >{place}\n{script}"
        stream = self.driver.open(self.resource, ["/bin/sh", "-c", script], deadline, user)
        try:
            rc, out, err = drain(stream, stdin, deadline, shown, on_output)
        except BaseException as failure:
            with suppress(RexxInfraError):
                with self._channel(user) as channel:
                    pid = channel.run(f"cat {place}", deadline=Deadline(KILL_GRACE)).stdout.decode().strip()
                if pid:
                    kill_descendants(partial(self._spawn, user=user), pid, Deadline(KILL_GRACE), itself=True)
            if isinstance(failure, RexxInfraError):
                failure.where = self.where
            raise
        finally:
            stream.close()
        with self._channel(user) as channel:
            report = channel.run(f"rm {place}; {after}", deadline=Deadline(_PROBING)).stdout
        return CommandOutput(rc, out, err, report)

    def _spawn(self, argv: Sequence[str], user: str | None = None) -> Stream:
        return self.driver.open(self.resource, argv, Deadline(KILL_GRACE), user)

    def kill(self, pid_file: str) -> None:
        """Kill the process whose id is in a file of the machine, with everything that descends from it.

        Raises `CommandFailed` when the file cannot be read.
        """
        pid = self.read(pid_file).decode().strip()
        kill_descendants(self._spawn, pid, Deadline(KILL_GRACE), itself=True)

    def interrupt(self) -> None:
        """Kill what the commands do that other threads run here now; they end with the status of that signal."""
        for channel in [*self._busy]:
            with suppress(RexxInfraError):
                channel.interrupt()

    def fetch(
        self,
        command: str,
        target: BinaryIO,
        deadline: Deadline,
        *,
        shown: str,
        stdin: bytes = b"",
        user: str | None = None,
    ) -> CommandOutput:
        """Run a command line with its standard output, of any size, going to ``target``; nothing records it.

        Raises `CommandTimeout`, `ChannelClosed`, `MachineDied`; what came until then is in ``target``.
        """

        def receive(which: int, data: bytes) -> None:
            if which == STDOUT:
                target.write(data)

        try:
            with self._channel(user, deadline) as channel:
                return channel.run(command, stdin=stdin, deadline=deadline, on_output=receive, keep=False, shown=shown)
        except ChannelClosed as closed:
            raise self._explained(closed) from closed

    @contextmanager
    def _channel(self, user: str | None = None, deadline: Deadline | None = None) -> Iterator[Channel]:
        """A channel that nobody else uses meanwhile: an idle one, else a new one."""
        with self._lock:
            idle = self._idle.setdefault(user, [])
        channel = self._idle_one(idle) or self._open_channel(user, (deadline or Deadline(None)).within(_OPENING))
        self._busy.add(channel)
        try:
            yield channel
        finally:
            self._busy.discard(channel)
            if channel.broken:
                channel.abandon()
            else:
                with self._lock:
                    idle.append(channel)

    def _idle_one(self, idle: list[Channel]) -> Channel | None:
        """Take a channel whose shell still runs."""
        while True:
            with self._lock:
                channel = idle.pop() if idle else None
            if channel is None or not channel.ended:
                return channel
            channel.close()

    def _open_channel(self, user: str | None, deadline: Deadline) -> Channel:
        return self.driver.channel(self.resource, self.where, deadline, user)

    def _explained(self, closed: ChannelClosed) -> ChannelClosed | MachineDied:
        """Why the channel closed: because the machine died, or for another reason.

        A system may take a moment to notice that its machine has ended with all its processes.
        """
        try:
            status = Deadline(_NOTICING).wait_for(self._ended_status, "the end of the machine")
        except DeadlineExceeded:
            return closed
        died = self._death(status)
        died.message += "; what became of the command is unknown"
        died.command = closed.command
        died.output = "\n".join(text for text in (closed.output, died.output) if text)
        return died

    def _ended_status(self) -> Status | None:
        status = self.status
        return None if status.phase is Phase.RUNNING else status

    def _death(self, status: Status) -> MachineDied:
        """The error for a machine that does not run any more, with its last log lines."""
        details = [status.reason, None if status.exit_code is None else f"exit status {status.exit_code}"]
        known = ", ".join(detail for detail in details if detail)
        return MachineDied(
            f"the machine is {status.phase}{f' ({known})' if known else ''}",
            where=self.where,
            output=self.last_words(),
            hint="did its first process end, or did it run out of memory?",
        )

    def last_words(self) -> str | None:
        """What the main process printed, else the end of the console, if the machine has one that can still be had."""
        with suppress(RexxInfraError):
            if self.spec.command is not None and Capability.LOGS in self.capabilities:
                return self.logs()
            if Capability.CONSOLE in self.capabilities:
                return self.console()[-_CONSOLE_SHOWN:].replace("\r", "")
        return None

    def connect(self) -> None:
        """Open a channel now rather than at the first command."""
        with self._channel():
            pass

    def disconnect(self) -> None:
        """Close every idle channel; the next command opens one again."""
        with self._lock:
            channels = [channel for idle in self._idle.values() for channel in idle]
            self._idle.clear()
        for channel in channels:
            channel.close()

    def write(self, path: str, content: str | bytes, mode: int = 0o644) -> None:
        """Make ``path`` a file with this content; missing directories are made."""
        data = content.encode() if isinstance(content, str) else content
        self._receive(Delivery(path, "", mode), data, "write", path)

    def read(self, path: str) -> bytes:
        """Content of a file; raises `CommandFailed` when it cannot be read."""
        result, _ = self.run_reporting(["cat", path], action="read", told=path)
        return self._succeeded(result).stdout_bytes

    def ansible(
        self,
        playbook: Playbook,
        *,
        extra_vars: Mapping[str, Any] | None = None,
        vault_password_file: str | Path | None = None,
        check_idempotent: bool = False,
        tags: str | Sequence[str] = (),
        skip_tags: str | Sequence[str] = (),
        timeout: float | None = None,
        verbosity: int = 0,
    ) -> AnsibleResult:
        """Play a playbook on this machine; `pytest_rexxinfra.ansible.play` for several, with what each option means."""
        from .ansible import play

        return play(
            [self],
            playbook,
            extra_vars=extra_vars,
            vault_password_file=vault_password_file,
            check_idempotent=check_idempotent,
            tags=tags,
            skip_tags=skip_tags,
            timeout=timeout,
            verbosity=verbosity,
        )

    def put(self, source: str | Path, target: str, mode: int | None = None, owner: str | None = None) -> None:
        """Copy a file or directory of the controller into the machine; missing directories are made.

        A file goes to ``target``, or into it when that is a directory or ends in ``/``, and is there whole or not at
        all. What is in a directory goes into the directory ``target``. Permission bits are kept; the owner becomes
        the machine's user, or ``owner``, as chown(1) takes it.
        """
        path = Path(source)
        if not path.exists():
            raise UsageError(f"put: {path} does not exist", hint=f"it was looked for at {path.absolute()}")
        with tempfile.TemporaryFile() as archive:
            if path.is_dir():
                with tarfile.open(fileobj=archive, mode="w", format=tarfile.PAX_FORMAT) as tar:
                    tar.add(path, arcname=".")
                archive.seek(0)
                self.unpack(archive, target, f"{path} {target}")
                if owner is not None:
                    # What is in the target beside this stays whose it is.
                    self.give(target, [".", *(str(each.relative_to(path)) for each in path.rglob("*"))], owner)
                return
            with path.open("rb") as file:
                permissions = stat.S_IMODE(path.stat().st_mode) if mode is None else mode
                delivery = Delivery(target, path.name, permissions, owner or "")
                self._receive(delivery, _small(file), "put", f"{path} {target}")

    def give(self, folder: str, names: Sequence[str], owner: str, timeout: float | None = None) -> None:
        """Make ``owner``, as chown(1) takes it, the owner of what is in a directory under these names."""
        command = shlex.join(["xargs", "-0", "chown", "-h", owner, "--"])
        listed = b"".join(os.fsencode(name) + b"\0" for name in names)
        self.run(command, cwd=folder, stdin=listed, timeout=timeout, check=True)

    def _note(self, path: str) -> None:
        """Remember what teardown will not undo; directories of ours are all beside the scratch directory."""
        if self.driver.lasting and not path.startswith(f"{PurePosixPath(self.scratch).parent}/rexx-"):
            self.written[path] = None

    def unpack(self, archive: BinaryIO, target: str, told: str) -> None:
        """Unpack a tar file of the controller in a directory of the machine, which is made if it is missing.

        ``told`` is what the audit log says of it. Raises `CommandFailed`.
        """
        self._note(target)
        place = shlex.quote(target)
        result, _ = self.run_reporting(
            f"mkdir -p {place} && cd {place} && tar -xpf - -o",
            action="put",
            told=told,
            stdin=_small(archive),
            timeout=max(self.timeout, _COPYING),
        )
        self._succeeded(result)

    def _receive(self, delivery: Delivery, content: bytes | BinaryIO, action: str, told: str) -> None:
        self._note(delivery.target)
        shown = shlex.join([action, delivery.target])
        timeout = max(self.timeout, _COPYING)
        large = not isinstance(content, bytes) or len(content) > _WORTH_UPLOADING
        quicker = self.driver.uploads and large and not delivery.owner and self.spec.user is None
        if quicker and self._uploaded(delivery, content, shown, Deadline(timeout), action, told):
            return
        result, _ = self.run_reporting(
            delivery.from_stdin, shown=shown, action=action, told=told, stdin=content, timeout=timeout
        )
        self._succeeded(result)

    def _uploaded(
        self,
        delivery: Delivery,
        content: bytes | BinaryIO,
        shown: str,
        deadline: Deadline,
        action: str,
        told: str,
    ) -> bool:
        """Whether the file is in its place now, by the way that the system itself has for files."""
        prepared = self.probe(delivery.draft)
        if not prepared.ok or not prepared.stdout_bytes:
            return False
        draft, target = os.fsdecode(prepared.stdout_bytes).split("\0")
        source = io.BytesIO(content) if isinstance(content, bytes) else content
        try:
            with self._audited(action, told), self.transcript.recording(shown) as ending:
                self.driver.upload(self.resource, source, draft, target, delivery.mode, deadline)
                ending.tell(0, b"", b"")
        except CommandFailed:
            # The usual way tells what is wrong there.
            source.seek(0)
            self.probe(shlex.join(["rm", "-f", draft]))
            return False
        return True

    def get(self, source: str, target: str | Path) -> None:
        """Copy a file or directory out of the machine, with the same rules as `put`."""
        place = shlex.quote(source)
        command = f"if [ -d {place} ]; then echo d; exec tar -cf - -C {place} .; else echo f; exec cat {place}; fi"
        deadline = Deadline(max(self.timeout, _COPYING))
        shown = shlex.join(["get", source])
        with self._audited("get", f"{source} {target}"), tempfile.TemporaryFile() as received:
            with self.transcript.recording(shown) as ending:
                output = self.fetch(command, received, deadline, shown=shown)
                ending.tell(output.rc, b"", output.stderr, stdout_size=received.tell())
            if output.rc != 0:
                said = output.stderr.decode("utf-8", "replace")
                raise CommandFailed(f"{source} cannot be copied out of the machine", output=said, where=self.where)
            received.seek(0)
            if received.readline() == b"d\n":
                Path(target).mkdir(parents=True, exist_ok=True)
                try:
                    with tarfile.open(fileobj=received, mode="r|") as tar:
                        untar.unpack(tar, Path(target))
                except (tarfile.TarError, ValueError) as error:
                    raise CommandFailed(f"{source} cannot be unpacked: {error}", where=self.where) from error
            else:
                name = source.rstrip("/").rpartition("/")[2]
                path = Path(target, name) if str(target).endswith("/") or Path(target).is_dir() else Path(target)
                path.parent.mkdir(parents=True, exist_ok=True)
                with path.open("wb") as file:
                    shutil.copyfileobj(received, file, _COPY_SIZE)

    def logs(self) -> str:
        """What the machine's main process printed."""
        return self.driver.logs(self.resource)

    def console(self) -> str:
        """What the machine printed on its console since it was made, or booted for the first time."""
        return self.driver.console(self.resource)

    def screenshot(self, path: str | Path) -> Path:
        """Write what is on the machine's screen to a PNG file. Raises `UsageError` for a machine without one."""
        target = Path(path)
        target.write_bytes(self.driver.screenshot(self.resource))
        return target

    def stop(self, timeout: float = 30.0) -> None:
        """Stop the machine; its file system stays, and `start` brings it back."""
        with self._doing("stop"):
            self.driver.stop(self.resource, Deadline(timeout))
            self._request(Power.STOPPED)
        self.disconnect()

    def _request(self, power: Power) -> None:
        """From now on the machine should be doing this."""
        self.spec = self.spec.but(power=power)
        self._requested(self)

    def start(self, timeout: float = 60.0) -> None:
        """Start a stopped machine and wait until commands run in it again."""
        with self._doing("start"):
            self.driver.start(self.resource, Deadline(timeout))
            self._request(Power.RUNNING)
            self.connect()

    def restart(self, timeout: float = 60.0) -> None:
        """Stop the machine and start it again; its file system stays, its processes do not."""
        self.stop(timeout)
        self.start(timeout)

    def reboot(self, timeout: float = 300.0) -> None:
        """Let the system that runs in the machine boot again, and wait until commands run in it; files stay."""
        with self._doing("reboot"):
            self.driver.reboot(self.resource, Deadline(timeout))
            self.disconnect()
            self.connect()

    def pause(self, timeout: float = 30.0) -> None:
        """Stop every process of the machine where it is, until `resume`."""
        with self._doing("pause"):
            self.driver.pause(self.resource, Deadline(timeout))
            self._request(Power.PAUSED)

    def resume(self, timeout: float = 30.0) -> None:
        """Let the processes of a paused machine go on."""
        with self._doing("resume"):
            self.driver.resume(self.resource, Deadline(timeout))
            self._request(Power.RUNNING)

    def clone(self, name: str | None = None) -> Machine:
        """A new machine with the files that this one has now; it is removed with this one, or before.

        Processes are not cloned. This machine goes on.
        """
        return self._make_clone(self, name)

    def snapshot(self, name: str = "default", timeout: float = 120.0) -> None:
        """Save the machine's files under a name, for `restore`; one of that name is replaced.

        Snapshots end with the machine; `commit` makes an image that stays.
        """
        check_name("name of a snapshot", name)
        with self._doing("snapshot", name):
            self.driver.snapshot(self.resource, name, Deadline(timeout))

    def restore(self, name: str = "default", timeout: float = 120.0) -> None:
        """Bring the machine's files back to a snapshot; its processes end. Raises `UsageError` for an unknown one."""
        with self._doing("restore", name):
            self.driver.restore(self.resource, name, Deadline(timeout))
            self.disconnect()
            self.connect()

    @property
    def snapshots(self) -> list[str]:
        """Names of the machine's snapshots, oldest first."""
        return list(self.driver.snapshots(self.resource))

    def delete_snapshot(self, name: str = "default", timeout: float = 120.0) -> None:
        """Remove a snapshot. Raises `UsageError` for an unknown one."""
        with self._doing("delete snapshot", name):
            self.driver.delete_snapshot(self.resource, name, Deadline(timeout))

    def save_state(self, name: str = "default", timeout: float = 120.0) -> None:
        """Save files, memory and processes under a name, for `restore_state`."""
        check_name("name of a state", name)
        with self._doing("save state", name):
            self.driver.save_state(self.resource, name, Deadline(timeout))

    def restore_state(self, name: str = "default", timeout: float = 120.0) -> None:
        """Let the machine go on from where `save_state` was called."""
        with self._doing("restore state", name):
            self.driver.restore_state(self.resource, name, Deadline(timeout))
            self.disconnect()
            self.connect()

    @property
    def stats(self) -> Stats:
        """What the machine uses now: memory, processor time, processes."""
        return self.driver.stats(self.resource)

    def commit(self, image: str, timeout: float = 300.0) -> str:
        """Save the machine's file system as ``image``; returns the name to start from."""
        with self._doing("commit", image):
            return self.driver.commit(self.resource, image, Deadline(timeout))

    def systemd_unit(self, new: bool = True) -> str:
        """A unit of systemd that makes and runs a machine like this one, or without ``new`` starts this very one.

        The values of its variables are in the text.
        """
        return self.driver.systemd_unit(self.resource, new)

    def quadlet(self) -> str:
        """A Quadlet file (``NAME.container``) from which systemd runs a machine like this one."""
        return self.driver.quadlet(self.resource, self.spec)

    def kube_yaml(self) -> str:
        """This machine, or the whole pod that it is in, as Kubernetes' YAML."""
        return self.driver.kube_yaml(self.resource)

    def address(self, port: int) -> tuple[str, int]:
        """Host and port at which the controller reaches ``port`` of the machine."""
        return self.driver.address(self.resource, port)

    def wait_healthy(self, timeout: float = 60.0) -> None:
        """Wait until the health check passes; raises `MachineDied` with its output when it gives up."""
        with self.step("wait until healthy"):
            Deadline(timeout).wait_for(
                lambda: self.driver.healthy(self.resource),
                f"{self.where} to be healthy",
                hint=self._log_hint(),
            )

    def wait_for_port(self, port: int, timeout: float = 30.0) -> tuple[str, int]:
        """Wait until something accepts connections at ``port``; returns where the controller reaches it.

        A port forwarder may accept before the service does, and close again once the machine has refused. So the
        connection has to stay open, also after the machine has had time to do something else.
        """
        where = self.address(port)

        def serves() -> bool:
            try:
                with socket.create_connection(where, timeout=2) as connection:
                    connection.settimeout(0.05)
                    if not _stays_open(connection):
                        return False
                    self.probe(":")
                    connection.settimeout(0.001)
                    return _stays_open(connection)
            except (OSError, RexxInfraError):
                self._must_run()
                return False

        with self.step(f"wait for port {port}"):
            Deadline(timeout).wait_for(serves, f"port {port} of {self.where}", hint=self._log_hint())
        return where

    def wait_until(self, command: str, timeout: float = 30.0) -> CommandResult:
        """Run ``command`` until it ends with status 0; returns that result."""
        deadline = Deadline(timeout)
        last: list[CommandResult] = []

        def succeeds() -> CommandResult | None:
            last[:] = [self.run(command, timeout=deadline.remaining() or 0.001)]
            return last[0] if last[0].ok else None

        with self.step(f"wait until {command}"):
            return deadline.wait_for(succeeds, f"{command!r} to succeed on {self.where}", hint=self._log_hint())

    def _must_run(self) -> None:
        status = self.status
        if status.phase is not Phase.RUNNING:
            raise self._death(status)

    def _log_hint(self) -> str:
        return f"look inside with: {shlex.join(self.driver.enter_command(self.resource))}"


def _stays_open(connection: socket.socket) -> bool:
    """Whether the peer keeps a new connection, instead of closing it at once as a forwarder does."""
    try:
        return connection.recv(1) != b""
    except TimeoutError:
        return True


def _small(file: BinaryIO) -> bytes | BinaryIO:
    """The content of a file when it is small enough to travel with the command, else the file."""
    start = file.read(INLINE_STDIN + 1)
    if len(start) <= INLINE_STDIN:
        return start
    file.seek(0)
    return file
