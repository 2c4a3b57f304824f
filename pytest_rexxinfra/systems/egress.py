"""Which ports of other computers a machine may open connections to: rules of nft(8) in the machine's own network.

They are put there from outside. Whoever rules that network can take them away, so the machine must not.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Sequence

from ..deadline import Deadline
from ..model import Capability
from ..tools import run_tool

_TABLE = "inet rexxinfra_egress"
_NEIGHBOURS = "nd-router-solicit, nd-neighbor-solicit, nd-neighbor-advert, mld-listener-report, mld2-listener-report"
"""What IPv6 needs to find the next computer, as IPv4 needs ARP, which these rules do not see."""


def filtering() -> frozenset[Capability]:
    """The capability `EGRESS`, if this computer has the tool."""
    return frozenset({Capability.EGRESS} if shutil.which("nft") else ())


def rules(ports: Collection[int]) -> str:
    """The nft(8) commands that leave only these ports open, in place of what was there before; all at once.

    What answers a call from outside passes by its direction and not by its state, so that a connection that was
    opened before there were rules ends with them.
    """
    listed = ", ".join(map(str, ports))
    lines = [
        f"add table {_TABLE}",
        f"delete table {_TABLE}",
        f"add table {_TABLE}",
        # Where conntrack did not look before, it takes the next packet of a connection for the first of a call.
        f"add chain {_TABLE} input {{ type filter hook input priority 0; }}",
        f'add rule {_TABLE} input iifname != "lo" tcp flags & (fin | syn | rst | ack) != syn ct state new '
        "reject with tcp reset",
        f"add chain {_TABLE} output {{ type filter hook output priority 0; }}",
        f'add rule {_TABLE} output oifname "lo" accept',
        f"add rule {_TABLE} output ct direction reply accept",
        f"add rule {_TABLE} output ct state related accept",
        *(f"add rule {_TABLE} output {kind} dport {{ {listed} }} accept" for kind in ("tcp", "udp") if ports),
        f"add rule {_TABLE} output icmpv6 type {{ {_NEIGHBOURS} }} accept",
        # So that the other side learns of an end.
        f"add rule {_TABLE} output tcp flags & rst == rst accept",
        # The kernel sends only so many ICMP errors a second, and none to an address that holds for one link.
        f"add rule {_TABLE} output meta l4proto tcp reject with tcp reset",
        f"add rule {_TABLE} output reject with icmpx admin-prohibited",
    ]
    return "".join(f"{line}\n" for line in lines)


def limit(entering: Sequence[str], ports: Collection[int], deadline: Deadline, where: str) -> None:
    """Let a machine open connections to other computers at these ports only; ``entering`` leads into its network.

    Raises `CommandFailed` when the packet filter does not take the rules.
    """
    run_tool(
        [*entering, "nft", "-f", "-"],
        stdin=rules(ports).encode(),
        deadline=deadline,
        where=where,
        name="nft",
        hint="egress needs a kernel with nf_tables, its ct and its reject (modprobe nft_ct nft_reject_inet)",
    )
