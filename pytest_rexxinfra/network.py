"""A network of machines, and what goes wrong in it: partition, loss, delay."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .deadline import Deadline
from .errors import CommandFailed, MachineDied, Unsupported, UsageError
from .model import Capability, Phase
from .tools import run_tool

if TYPE_CHECKING:
    from types import TracebackType

    from .machine import Machine

_SETTING = 10.0
_TABLE = "netdev rexxinfra"
_SHARES = 10_000
_NFT = "apt-get install -y nftables iproute2"
_NETEM = "modprobe sch_netem, or use a kernel that has CONFIG_NET_SCH_NETEM"


@dataclass(frozen=True)
class Interface:
    """A network interface of a machine, as its own network has it, or ``outside`` the host's end of its wire."""

    name: str
    addresses: tuple[str, ...]
    outside: bool = False


@dataclass
class _Trouble:
    """All that is wrong with one machine's network."""

    machine: Machine
    blocked: set[str] = field(default_factory=set)
    loss: float = 0.0
    delay: float = 0.0
    jitter: float = 0.0

    @property
    def table(self) -> str:
        return f"{_TABLE}-{self.machine.resource.lease}"

    def rules(self, interfaces: Iterable[Interface]) -> str:
        """The nft(8) commands that let this happen, in place of what was there before.

        Packets vanish where they arrive at an interface and where they leave it, so that no sender sees an error.
        """
        commands = [f"add table {self.table}", f"delete table {self.table}"]
        blocked = [f"{_family(address)} saddr {address} drop" for address in sorted(self.blocked)]
        # The packet filter takes no comparison that is always true.
        chosen = "" if self.loss == 1 else f"numgen random mod {_SHARES} < {round(self.loss * _SHARES)} "
        lost = [f"ether type != arp {chosen}drop"]
        arriving, leaving = blocked + lost * bool(self.loss), lost * bool(self.loss)
        for interface in interfaces:
            into, out = ("egress", "ingress") if interface.outside else ("ingress", "egress")
            for hook, rules in ((into, arriving), (out, leaving)):
                if rules:
                    chain = f"{self.table} {hook}-{interface.name}"
                    how = f'{{ type filter hook {hook} device "{interface.name}" priority 0; }}'
                    commands += [f"add table {self.table}", f"add chain {chain} {how}"]
                    commands += [f"add rule {chain} {rule}" for rule in rules]
        return "; ".join(commands)


class Cut:
    """A partition that was made; as a context manager it is healed at the end of the block."""

    def __init__(self, network: Network, pairs: list[tuple[Machine, Machine]]) -> None:
        self._network = network
        self._pairs = pairs

    def heal(self) -> None:
        """Let the two sides reach each other again."""
        self._network._join(self._pairs)

    def __enter__(self) -> Cut:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.heal()


class Unplugged:
    """Cables that were pulled; as a context manager they are plugged in again at the end of the block."""

    def __init__(self, machines: Sequence[Machine]) -> None:
        self._machines = machines

    def plug(self) -> None:
        """Plug the cables of the machines in again that still run."""
        for each in self._machines:
            if _runs(each):
                each.driver.set_link(each.resource, True)

    def __enter__(self) -> Unplugged:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.plug()


class Network:
    """A network that machines share: they find each other by name, and no machine outside it reaches them.

    ``str(network)`` is its name in the system; a machine is in it with ``network=network``.
    """

    def __init__(self, name: str, addresses: Callable[[], Mapping[str, str]] | None = None) -> None:
        self.name = name
        self._addresses = addresses
        self._troubles: dict[str, _Trouble] = {}

    def __str__(self) -> str:
        return self.name

    @property
    def addresses(self) -> Mapping[str, str]:
        """The addresses that the network has given, by the names of the machines; those, too, that asked for one.

        Raises `Unsupported` where the system does not tell.
        """
        if self._addresses is None:
            raise UsageError(f"nobody knows the addresses of the network {self.name}")
        return self._addresses()

    def partition(self, one: Machine | Collection[Machine], other: Machine | Collection[Machine]) -> Cut:
        """Let no packet pass between two machines, or two groups of them; they wait in vain.

        Raises `Unsupported` where the system has no impairment, `UsageError` for a machine on both sides.
        """
        ones, others = _listed(one), _listed(other)
        if any(each is machine for each in ones for machine in others):
            raise UsageError("a machine cannot be on both sides of a partition")
        pairs = [(first, second) for first in ones for second in others]
        pairs += [(second, first) for first, second in pairs]
        for machine, peer in pairs:
            self._trouble(machine).blocked.update(_addresses(peer))
        self._apply([machine for machine, _ in pairs])
        return Cut(self, pairs)

    def _join(self, pairs: list[tuple[Machine, Machine]]) -> None:
        there = [(machine, peer) for machine, peer in pairs if _runs(machine) and _runs(peer)]
        for machine, peer in there:
            self._trouble(machine).blocked.difference_update(_addresses(peer))
        self._apply([machine for machine, _ in there])

    def loss(self, machine: Machine | Collection[Machine], share: float) -> None:
        """Lose a share, 0 to 1, of the packets that arrive at a machine, and of those that leave it; 0 ends it."""
        if not 0 <= share <= 1:
            raise UsageError(f"loss: {share!r} is not a share from 0 to 1", hint="for example 0.2 for a fifth")
        for each in _listed(machine):
            self._trouble(each).loss = share
        self._apply(_listed(machine))

    def delay(self, machine: Machine | Collection[Machine], seconds: float, jitter: float = 0.0) -> None:
        """Delay what leaves a machine by ``seconds``, more or less by ``jitter`` seconds; 0 ends it.

        Raises `Unsupported` on a kernel without netem (tc-netem(8)).
        """
        if not (0 <= jitter <= seconds < float("inf")):
            raise UsageError(f"delay: {seconds!r} with jitter {jitter!r} are no seconds of 0 or more")
        for each in _listed(machine):
            trouble = self._trouble(each)
            before = trouble.delay, trouble.jitter
            trouble.delay, trouble.jitter = seconds, jitter
            try:
                _set_delay(trouble)
            except BaseException:
                trouble.delay, trouble.jitter = before
                raise

    def unplug(self, machine: Machine | Collection[Machine]) -> Unplugged:
        """Pull the cables of a machine, or of several: their interfaces lose their carrier.

        Raises `Unsupported` where the system has no cables.
        """
        machines = _listed(machine)
        for each in machines:
            _require(each, Capability.LINK)
        unplugged = Unplugged(machines)
        for each in machines:
            each.driver.set_link(each.resource, False)
        return unplugged

    def heal(self, *machines: Machine) -> None:
        """End every partition, loss and delay of some machines, or of all."""
        for trouble in list(self._troubles.values()):
            if machines and not any(each is trouble.machine for each in machines):
                continue
            del self._troubles[trouble.machine.resource.lease]
            if _runs(trouble.machine):
                fresh = _Trouble(trouble.machine)
                _set_losses(fresh)
                if trouble.delay:
                    _set_delay(fresh)

    def _trouble(self, machine: Machine) -> _Trouble:
        _require(machine, Capability.IMPAIRMENT)
        return self._troubles.setdefault(machine.resource.lease, _Trouble(machine))

    def _apply(self, machines: Iterable[Machine]) -> None:
        for lease in dict.fromkeys(machine.resource.lease for machine in machines):
            _set_losses(self._troubles[lease])


def _require(machine: Machine, capability: Capability) -> None:
    if capability not in machine.capabilities:
        raise Unsupported(
            f"{machine.system} has no {capability}",
            where=machine.where,
            hint="partition, loss and delay need root, and a machine of this computer",
        )


def _listed(machines: Machine | Collection[Machine]) -> list[Machine]:
    return list(machines) if isinstance(machines, Collection) else [machines]


def _runs(machine: Machine) -> bool:
    return machine.status.phase in (Phase.RUNNING, Phase.PAUSED)


def _set_losses(trouble: _Trouble) -> None:
    _in_network(trouble.machine, "nft", trouble.rules(_interfaces(trouble.machine)))


def _set_delay(trouble: _Trouble) -> None:
    machine = trouble.machine
    if machine.driver.delay(machine.resource, trouble.delay, trouble.jitter, Deadline(_SETTING)):
        return
    milliseconds = [f"{seconds * 1000:g}ms" for seconds in (trouble.delay, trouble.jitter)]
    for interface in _interfaces(trouble.machine):
        words = ["tc", "qdisc", "replace", "dev", interface.name, "root", "netem", "delay", *milliseconds]
        try:
            _in_network(trouble.machine, *words)
        except CommandFailed as error:
            if "qdisc kind is unknown" in (error.output or ""):
                raise Unsupported("this kernel has no netem", where=trouble.machine.where, hint=_NETEM) from error
            raise


def _addresses(machine: Machine) -> set[str]:
    return {address for interface in _interfaces(machine) for address in interface.addresses}


def _interfaces(machine: Machine) -> list[Interface]:
    """The interfaces of a machine that lead out of it."""
    known = machine.driver.interfaces(machine.resource)
    if known is not None:
        return [*known]
    return [
        Interface(each["ifname"], tuple(info["local"] for info in each["addr_info"]))
        for each in json.loads(_in_network(machine, "ip", "-json", "address", "show", "up"))
        if "LOOPBACK" not in each["flags"]
    ]


def _in_network(machine: Machine, *words: str) -> str:
    """Run a command of the controller in a machine's network and return what it printed."""
    if not _runs(machine):
        raise MachineDied("the machine does not run, so it has no network", where=machine.where)
    command = [*machine.driver.network_command(machine.resource), *words]
    return run_tool(command, deadline=Deadline(_SETTING), where=machine.where, name=words[0], hint=_NFT)


def forget_losses(lease: str, deadline: Deadline) -> None:
    """Take away what was set for a machine in the network of this computer, where that outlives the machine."""
    table = f"{_TABLE}-{lease}"
    words = ["nft", f"add table {table}; delete table {table}"]
    run_tool(words, deadline=deadline.within(_SETTING), where="network", name="nft", hint=_NFT)


def _family(address: str) -> str:
    return "ip6" if ":" in address else "ip"
