"""What a network tells the packet filter of a machine, and what it refuses."""

from __future__ import annotations

import shutil
import subprocess
from types import SimpleNamespace
from typing import Any, cast

import pytest

from pytest_rexxinfra import Capability, Machine, Network
from pytest_rexxinfra.errors import Unsupported, UsageError
from pytest_rexxinfra.network import Interface, _Trouble


class _Leased:
    def __init__(self, lease: str) -> None:
        self.resource = SimpleNamespace(lease=lease)


ONE, OTHER = (cast(Machine, _Leased(lease)) for lease in ("1a", "2b"))
INTERFACES = [Interface("eth0", ("10.0.0.2",)), Interface("eth1", ("fd00::2",))]


def test_nothing_wrong_removes_the_table() -> None:
    assert _Trouble(ONE).rules(INTERFACES) == "add table netdev rexxinfra-1a; delete table netdev rexxinfra-1a"


def test_blocked_where_they_arrive_only() -> None:
    rules = _Trouble(ONE, blocked={"10.0.0.9", "fd00::9"}).rules(INTERFACES).split("; ")
    assert "add rule netdev rexxinfra-1a ingress-eth0 ip saddr 10.0.0.9 drop" in rules
    assert "add rule netdev rexxinfra-1a ingress-eth1 ip6 saddr fd00::9 drop" in rules
    assert not [rule for rule in rules if "egress" in rule]


def test_at_the_other_end_of_the_wire_what_arrives_is_what_leaves() -> None:
    rules = _Trouble(ONE, blocked={"10.0.0.9"}).rules([Interface("vnet0", ("10.0.0.2",), outside=True)]).split("; ")
    assert "add rule netdev rexxinfra-1a egress-vnet0 ip saddr 10.0.0.9 drop" in rules
    assert not [rule for rule in rules if "ingress" in rule]


def test_loss_both_ways_and_never_of_arp() -> None:
    rules = [rule for rule in _Trouble(ONE, loss=0.25).rules(INTERFACES[:1]).split("; ") if "add rule" in rule]
    assert [rule.split()[4] for rule in rules] == ["ingress-eth0", "egress-eth0"]
    assert all("ether type != arp numgen random mod 10000 < 2500 drop" in rule for rule in rules)


@pytest.mark.parametrize("trouble", [{}, {"loss": 0.5}, {"loss": 1.0, "blocked": {"10.0.0.9", "fe80::1"}}])
def test_the_packet_filter_takes_it(trouble: dict[str, Any]) -> None:
    if not shutil.which("nft") or not shutil.which("unshare"):
        pytest.skip("needs nft and unshare")
    rules = _Trouble(ONE, **trouble).rules([Interface("lo", ())])
    done = subprocess.run(["unshare", "-Urn", "nft", rules], capture_output=True, text=True, check=False)
    if "uid_map" in done.stderr:
        pytest.skip("no user namespaces here")
    assert (done.returncode, done.stderr) == (0, "")


class _Incapable:
    system, where, capabilities = "none", "none:m1", frozenset[Capability]()


@pytest.mark.parametrize("share", [-0.1, 1.1, 50])
def test_share_that_is_none(share: float) -> None:
    with pytest.raises(UsageError, match="share from 0 to 1"):
        Network("n").loss(ONE, share)


@pytest.mark.parametrize(("seconds", "jitter"), [(-1, 0), (0.1, 0.2), (float("inf"), 0), (0.1, -0.1)])
def test_delay_that_is_none(seconds: float, jitter: float) -> None:
    with pytest.raises(UsageError, match="delay"):
        Network("n").delay(ONE, seconds, jitter)


def test_both_sides() -> None:
    with pytest.raises(UsageError, match="both sides"):
        Network("n").partition([ONE, OTHER], [OTHER])


def test_system_that_cannot() -> None:
    machine = cast(Machine, _Incapable())
    with pytest.raises(Unsupported, match="none has no impairment"):
        Network("n").loss(machine, 0.5)
    assert str(Network("n")) == "n"
