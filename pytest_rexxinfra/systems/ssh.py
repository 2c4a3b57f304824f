"""Hosts that exist already, over SSH: nothing is provisioned, and what a run brings there it takes along again."""

from __future__ import annotations

import json
import shlex
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, BinaryIO, ClassVar

import paramiko

from ..channels.stream import Stream
from ..deadline import Deadline
from ..errors import (
    ChannelClosed,
    CommandFailed,
    MachineDied,
    ProvisionError,
    RexxInfraError,
    SystemUnavailable,
    UsageError,
)
from ..model import LABEL_PREFIX, Capability, Kind, Phase, Resource, Spec, Status
from ..ssh.address import Address
from ..ssh.host import Facts, Host, as_user
from ..ssh.options import SshOptions
from ..ssh.route import Routes
from .base import Availability, Driver, Surroundings
from .record import Record, Shelf

_VARIABLE = "REXXINFRA_LEASE"
_LOOKING = 10.0
_CLEARING = 20.0
_AT_ONCE = 32

# The environment is read from a file, so that no value of it is in the arguments of a process. The shell stays, to
# tell what a signal did as a status.
_PROCESS = '. "$0/env" || exit 125; "$@"; exit $?'

# Killed processes may have forked, so it looks again until there are none. The mark is put together there, for sudo
# writes what it runs into the environment of that.
_REMOVE = """
mark=REXXINFRA_
for round in 1 2 3 4 5 6 7 8 9; do
  found=$(grep -lsF MARKS /proc/[0-9]*/environ | tr -dc '0-9\\n')
  [ -n "$found" ] || break
  kill -KILL $found 2>/dev/null
done
for place in PLACES; do rm -rf "$place" "$place".pid-* || exit 1; done
"""


@dataclass(frozen=True)
class SshRecord(Record):
    """``address`` and ``options`` say on which host the machine is, ``place`` where, ``user`` whom commands are for."""

    address: str = ""
    place: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    user: str | None = None
    rooted: bool = False
    """Whether processes of other users than the one who logs in were started."""

    @property
    def lease(self) -> str:
        return self.labels[f"{LABEL_PREFIX}lease"]

    @property
    def host(self) -> tuple[str, SshOptions]:
        """The host, and how it is reached."""
        return self.address, SshOptions.from_record(self.options)

    @property
    def expires(self) -> float:
        return float(self.labels[f"{LABEL_PREFIX}expires"])


class SshDriver(Driver):
    """A machine is a directory of the host, and the processes that were started with its mark in their environment."""

    name: ClassVar[str] = "ssh"
    summary: ClassVar[str] = "hosts that exist, over SSH"
    takes_address: ClassVar[bool] = True
    uploads: ClassVar[bool] = True
    lasting: ClassVar[bool] = True
    record_class: ClassVar[type[SshRecord]] = SshRecord
    place_hint: ClassVar[str] = "has it room, and may this user write there? --rexx-ssh-scratch names another one"
    """What to do where a machine's directory cannot be made."""

    def __init__(self, around: Surroundings) -> None:
        super().__init__(around)
        self._options = SshOptions.of(around.settings)
        self._shelf = Shelf(self.name, self.record_class)
        self._hosts: dict[tuple[str, SshOptions], Host] = {}
        self._homes: dict[tuple[str, SshOptions], str] = {}
        self._lock = threading.Lock()
        self._making_homes = threading.Lock()

    @classmethod
    def check_address(cls, address: str) -> None:
        Address.parse(address)

    @property
    def capabilities(self) -> frozenset[Capability]:
        return frozenset({Capability.REBOOT, Capability.USERS})

    @property
    def default_host(self) -> str | None:
        """The host of a target that names none."""
        return self.around.settings.ssh_host

    def probe(self) -> Availability:
        named = f", {self.default_host} if a target names no host" if self.default_host else ""
        facts = {"paramiko": paramiko.__version__}
        return Availability(True, f"{self.name}://USER@HOST names the host{named}", None, facts)

    def examine(self) -> Availability:
        if not self.default_host:
            return self.probe()
        try:
            host = self._host(self.default_host, self._options)
            facts = host.facts(Deadline(_LOOKING))
        except RexxInfraError as error:
            return Availability(False, error.message, error.hint)
        return Availability(True, f"{host.route}, {facts.platform}", None, {"paramiko": paramiko.__version__})

    @cached_property
    def _routes(self) -> Routes:
        return Routes(self._options)

    def _host(self, address: str, options: SshOptions) -> Host:
        """The host of an address, with the connections that there are to it."""
        with self._lock:
            known = self._hosts.get((address, options))
            if known is None:
                routes = self._routes if options == self._options else Routes(options)
                known = self._hosts[address, options] = Host(routes.find(Address.parse(address)))
            return known

    def _of(self, record: SshRecord) -> Host:
        return self._host(*record.host)

    def _record(self, machine: Resource) -> SshRecord:
        record = self._shelf.read(machine)
        if record is None:
            raise MachineDied("the machine does not exist any more", where=f"{self.name}:{machine.name}")
        return record

    def prepare(self, spec: Spec, deadline: Deadline) -> str:
        address = spec.address or self.default_host
        if not address:
            raise SystemUnavailable(
                "no host is named",
                where=self.name,
                hint=f"--rexx-target={self.name}://USER@HOST, or REXX_{self.name.upper()}_HOST=USER@HOST",
            )
        Address.parse(address)
        return address

    def create(self, lease: Resource, spec: Spec, deadline: Deadline) -> Resource:
        address = self.prepare(spec, deadline)
        host = self._host(address, self._options)
        self.check(host, host.facts(deadline))
        return self._make(lease, address, host, spec, deadline)

    def check(self, host: Host, facts: Facts) -> None:
        """Refuse a host on which this system makes no sense, by raising `ProvisionError`."""

    def _make(self, lease: Resource, address: str, host: Host, spec: Spec, deadline: Deadline) -> Resource:
        """Make the directory of a lease on its host; the record of it is there before."""
        place = f"{self._options.scratch}/{lease.name}"
        record = SshRecord(lease.name, lease.labels(), None, 0, None, address, place, self._options.saved(), spec.user)
        folder = self._shelf.folder(lease)
        folder.mkdir(parents=True)
        record.write(folder)
        try:
            self._make_place(lease, record, host, spec, deadline)
        except BaseException:
            with suppress(RexxInfraError):
                self.destroy([lease], Deadline(_LOOKING))
            raise
        return replace(lease, id=address)

    def _make_place(self, lease: Resource, record: SshRecord, host: Host, spec: Spec, deadline: Deadline) -> None:
        """Make the directory of a record on its host, with what its processes get as environment."""
        place = record.place
        mark = {} if spec.leaves_running else {_VARIABLE: lease.lease}
        lines = [f"export {name}={shlex.quote(value)}" for name, value in {**spec.env, **mark}.items()]
        told = shlex.quote(json.dumps({"system": self.name, "name": lease.name, "labels": lease.labels()}))
        mode = "700" if lease.kind is Kind.MACHINE else "755"
        script = f"mkdir -m {mode} {place} && cd {place} && umask 077 && cat >env && echo {told} >lease"
        try:
            host.checked(script, deadline, f"making {place}", "\n".join([*lines, ""]).encode())
            if spec.user:
                host.checked_as_root(["chown", spec.user, place], deadline, f"giving {place} to {spec.user}")
        except CommandFailed as failure:
            raise ProvisionError(
                f"no directory for the machine can be made in {place.rpartition('/')[0]} of the host",
                output=failure.output,
                where=host.where,
                hint=self.place_hint,
            ) from failure

    def open(self, machine: Resource, argv: Sequence[str], deadline: Deadline, user: str | None = None) -> Stream:
        record = self._record(machine)
        host = self._of(record)
        try:
            to_root, to_user, password = host.login_as(user or record.user, deadline)
            words = [*to_root, "/bin/sh", "-c", _PROCESS, record.place, *to_user, *argv]
            if (to_root or to_user) and not record.rooted:
                replace(record, rooted=True).write(self._shelf.folder(machine))
            stream = host.start(words, deadline)
            if password:
                stream.feed(f"{password}\n".encode(), deadline)
        except ProvisionError as gone:
            raise ChannelClosed(gone.message, output=gone.output, where=gone.where, hint=gone.hint) from gone
        return stream

    def upload(
        self, machine: Resource, source: BinaryIO, draft: str, target: str, mode: int, deadline: Deadline
    ) -> None:
        self._of(self._record(machine)).files.upload(source, draft, target, mode, deadline)

    def enter_command(self, machine: Resource, command: Sequence[str] = (), terminal: bool = True) -> Sequence[str]:
        record = self._shelf.read(machine)
        if record is None:
            return ["ssh", str(machine.id), *command]
        options, address = SshOptions.from_record(record.options), Address.parse(record.address)
        login, user = self._of(record).route.user, record.user
        to_root = ["sudo"] if user not in (None, login) and login != "root" else []
        to_user = as_user(user) if user not in (None, login) else []
        inside = [*to_root, "/bin/sh", "-c", _PROCESS, record.place, *to_user, *(command or ["/bin/sh"])]
        return [*_ssh(address, options), *(["-t"] if terminal else []), "--", address.host, shlex.join(inside)]

    def describe(self, machine: Resource) -> str:
        return str(machine.id or "")

    def scratch(self, machine: Resource) -> str:
        record = self._shelf.read(machine)
        return record.place if record else f"{self._options.scratch}/{machine.name}"

    def home(self, machine: Resource) -> str:
        record = self._shelf.read(machine)
        if record is None or self.around.lease is None:
            return self.scratch(machine)
        with self._making_homes:
            if record.host not in self._homes:
                self._homes[record.host] = self._make_home(record.address, self._of(record), self.around.lease)
            return self._homes[record.host]

    def _make_home(self, address: str, host: Host, lease: Any) -> str:
        """A directory for the builds that all machines of this run on a host share."""
        made = lease(Kind.NAMESPACE, "home", lambda each: self._make(each, address, host, Spec(), Deadline(_LOOKING)))
        return self.scratch(made)

    def status(self, machine: Resource) -> Status:
        record = self._shelf.read(machine)
        if record is None:
            return Status(Phase.GONE)
        host = self._of(record)
        try:
            there = self._asked(host, f"[ -d {record.place} ]").rc == 0
        except RexxInfraError as error:
            return Status(Phase.STOPPED, reason=error.message)
        if not there:
            return Status(Phase.GONE, reason=f"{record.place} is not there any more")
        return Status(Phase.RUNNING, address=host.route.host)

    def _asked(self, host: Host, script: str) -> Any:
        """Ask a host, once more if the connection turns out to be broken; the script must change nothing."""
        with suppress(ChannelClosed):
            return host.run(script, Deadline(_LOOKING))
        return host.run(script, Deadline(_LOOKING))

    def close(self) -> None:
        with self._lock:
            for host in self._hosts.values():
                host.close()

    def keep(self, machine: Resource) -> None:
        """Nothing is to be done: a directory stays until it is removed."""

    def reboot(self, machine: Resource, deadline: Deadline) -> None:
        record = self._record(machine)
        host = self._of(record)
        before = host.facts(deadline).boot
        to_root, password = host.become(deadline)
        with self.around.events.step(host.where, "reboot"):
            stream = host.start([*to_root, "/bin/sh", "-c", "systemctl reboot || reboot"], deadline)
            if password:
                stream.feed(f"{password}\n".encode(), deadline)

            def again() -> bool:
                with suppress(RexxInfraError):
                    return host.facts(deadline.within(_LOOKING), fresh=True).boot != before
                return False

            deadline.wait_for(again, f"{host.where} to come back", hint="look at its console; did it get its address?")

    def destroy(self, resources: Sequence[Resource], deadline: Deadline) -> None:
        hosts: dict[tuple[str, SshOptions], list[SshRecord]] = {}
        for each in resources:
            record = self._shelf.read(each)
            if record is not None:
                hosts.setdefault(record.host, []).append(record)
        failures = []
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            for done in [pool.submit(self._remove, *host, records, deadline) for host, records in hosts.items()]:
                try:
                    done.result()
                except RexxInfraError as failure:
                    failures.append(failure)
        if failures:
            raise failures[0]

    def _remove(self, address: str, options: SshOptions, records: Sequence[SshRecord], deadline: Deadline) -> None:
        """Remove some machines of a host; from one that cannot be reached, until they expire."""
        try:
            self._clear(self._host(address, options), records, deadline.within(_CLEARING))
        except RexxInfraError as failure:
            # Nobody waits for ever for a host, or a key, that may be gone for good.
            reached = not isinstance(failure, (ProvisionError, UsageError))
            waiting = [each for each in records if reached or each.expires > time.time()]
            for each in records:
                if each not in waiting:
                    self._shelf.forget(each.name)
            if waiting:
                places = " ".join(each.place for each in waiting)
                failure.where = failure.where or address
                failure.hint = f"on the host: rm -rf {places}; or, once it answers: rexxinfra reap"
                raise
        else:
            for each in records:
                self._shelf.forget(each.name)

    def _clear(self, host: Host, records: Sequence[SshRecord], deadline: Deadline) -> None:
        """Kill what was started for some machines of a host, and remove their directories."""
        marks = " ".join(f'-e "${{mark}}LEASE={each.lease}"' for each in records)
        places = " ".join(each.place for each in records)
        script = _REMOVE.replace("MARKS", marks).replace("PLACES", places)
        clear = host.checked_as_root if any(each.rooted or each.user for each in records) else host.checked_words
        clear(["/bin/sh", "-c", script], deadline, "removing what the run left")

    def list(self) -> Sequence[Resource]:
        with self._lock:
            connected = {key: host for key, host in self._hosts.items() if host.connected}
        found: list[Resource | None] = []
        told = set()
        for (address, options), host in connected.items():
            with suppress(RexxInfraError):
                output = self._asked(host, f"cat {options.scratch}/rexx-*/lease 2>/dev/null")
                found += [self._told(line, address) for line in output.stdout.splitlines()]
                told.add((address, options))
        for record in self._shelf.records():
            if record.host not in told:
                found.append(Resource.from_labels(self.name, record.name, record.labels, id=record.address))
        return [each for each in found if each is not None]

    def _told(self, line: bytes, address: str) -> Resource | None:
        """The resource that a line on a host tells of, if it is one of this system."""
        with suppress(ValueError, KeyError):
            told = json.loads(line)
            if told["system"] == self.name:
                return Resource.from_labels(self.name, told["name"], told["labels"], id=address)
        return None


def _ssh(address: Address, options: SshOptions) -> Iterator[str]:
    """The ssh command with what a run says of its own."""
    yield "ssh"
    if address.port:
        yield from ("-p", str(address.port))
    if address.user:
        yield from ("-l", address.user)
    if options.config:
        yield from ("-F", options.config)
    for each in options.identity:
        yield from ("-i", each, "-o", "IdentitiesOnly=yes")
    if options.known_hosts:
        yield from ("-o", f"UserKnownHostsFile={options.known_hosts}")
    if options.host_keys:
        checking = {"strict": "yes", "off": "no"}.get(options.host_keys, options.host_keys)
        yield from ("-o", f"StrictHostKeyChecking={checking}")
