"""What keeps a machine in a network of its own apart from podman's other networks.

Netavark 1.4 does that on the computer, for some of them, and forgets all of it whenever some network goes:
it takes the jump to its rules out of the computer's packet filter until the next container starts. So a machine
is kept from calling there by nft(8) in its own network namespace. (Where the call arrives it has the address of the
computer, which netavark gives to all that leaves a network.)
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from ipaddress import IPv4Interface, IPv4Network, collapse_addresses

from ..deadline import Deadline
from ..tools import run_tool

_DEFAULT_NETWORK = IPv4Network("10.88.0.0/16")
"""Of containers that ask for none, see containers.conf(5), ``default_subnet``."""
_POOL = 16
"""Length of the prefix within which podman numbers the networks that it makes (``default_subnet_pools``)."""
_TABLE = "inet rexxinfra_isolation"


def rules(address: IPv4Interface) -> str:
    """The nft(8) commands for a machine with this address; answers to calls still pass."""
    pool = address.network.supernet(new_prefix=min(_POOL, address.network.prefixlen))
    others = ", ".join(map(str, collapse_addresses([_DEFAULT_NETWORK, pool])))
    return (
        f"add table {_TABLE}\n"
        f"add chain {_TABLE} output {{ type filter hook output priority -10; }}\n"
        f"flush chain {_TABLE} output\n"
        f"add rule {_TABLE} output ip daddr {{ {others} }} ip daddr != {address.network} ct state new drop\n"
    )


def isolate(entering: Sequence[str], address: IPv4Interface, deadline: Deadline) -> None:
    """Let a machine call nobody in podman's other networks; ``entering`` leads into its network.

    Without nft on this computer netavark's rules are all there is.
    """
    if shutil.which("nft"):
        run_tool([*entering, "nft", "-f", "-"], stdin=rules(address).encode(), deadline=deadline, where="podman")
