"""Machines that share a network, and what can go wrong between them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pytest_rexxinfra import Capability, Lab, Machine, Network
from pytest_rexxinfra.errors import MachineDied, RexxInfraError, Unsupported, UsageError

from .club import Club, serve
from .conftest import Lacks, Way

SERVE = "require('http').createServer((q, r) => r.end('served')).listen(8080)"
FETCH = """
const request = require('http').get('http://%s:8080/', {timeout: 1000}, answer => answer.pipe(process.stdout))
request.on('timeout', () => process.exit(9)).on('error', () => process.exit(8))
"""


def _server(club: Club, name: str, network: Network) -> Machine:
    machine = club.member(name, network)
    serve(machine, SERVE, 8080)
    return machine


def _fetch(machine: Machine, host: str) -> str:
    return machine.run(["node", "-e", FETCH % host], timeout=20).stdout


def test_by_name_and_nobody_else(way: Way, lacks: Lacks, club: Club) -> None:
    if lacks(Capability.NETWORKS):
        return
    first, second = club.network("one"), club.network("two")
    web = _server(club, "web", first)
    client, stranger, alone = club.member("client", first), club.member("stranger", second), club.member("alone", None)
    assert _fetch(client, "web") == "served"
    assert _fetch(stranger, "web") == ""
    address = web.status.address
    assert address
    assert _fetch(client, address) == "served"
    assert _fetch(stranger, address) == ""
    # Nobody keeps machines of the default network of podman and kvm from others: see their pages.
    assert _fetch(alone, address) == ("served" if way.name in ("podman", "kvm") else "")


def test_networks_stay_apart_when_another_goes(lab: Lab, lacks: Lacks, club: Club) -> None:
    if lacks(Capability.NETWORKS):
        return
    web, stranger = _server(club, "web", club.network("one")), club.member("stranger", club.network("two"))
    lab.destroy(club.member("passer-by", club.network("three")))
    address = web.status.address
    assert address
    assert _fetch(stranger, address) == ""


def test_same_names_in_two_networks(lacks: Lacks, club: Club) -> None:
    if lacks(Capability.NETWORKS):
        return
    for network in (club.network("one"), club.network("two")):
        _server(club, "web", network)
        assert _fetch(club.member("client", network), "web") == "served"


def test_partition(lacks: Lacks, club: Club) -> None:
    if lacks(Capability.NETWORKS) or lacks(Capability.IMPAIRMENT):
        return
    network = club.network()
    web, client, other = _server(club, "web", network), club.member("client", network), club.member("other", network)
    with network.partition(web, client):
        assert _fetch(client, "web") == ""
        assert _fetch(other, "web") == "served"
    assert _fetch(client, "web") == "served"
    network.partition([web], [client, other])
    assert (_fetch(client, "web"), _fetch(other, "web")) == ("", "")
    network.heal(client)
    assert _fetch(client, "web") == ""
    network.heal()
    assert (_fetch(client, "web"), _fetch(other, "web")) == ("served", "served")
    with pytest.raises(UsageError, match="both sides"):
        network.partition([web, client], client)


def test_loss(lacks: Lacks, club: Club, make: Callable[..., Machine]) -> None:
    if lacks(Capability.NETWORKS) or lacks(Capability.IMPAIRMENT):
        return
    network = club.network()
    web, client = _server(club, "web", network), club.member("client", network)
    network.loss(web, 1)
    assert _fetch(client, "web") == ""
    network.loss(web, 0)
    assert _fetch(client, "web") == "served"
    with pytest.raises(UsageError, match="share"):
        network.loss(web, 50)


def test_delay_or_why_not(lacks: Lacks, club: Club) -> None:
    if lacks(Capability.NETWORKS) or lacks(Capability.IMPAIRMENT):
        return
    network = club.network()
    web, client = _server(club, "web", network), club.member("client", network)
    refusal = ""
    try:
        network.delay(web, 0.3)
    except Unsupported as refused:
        refusal = str(refused)
    if refusal:
        assert "netem" in refusal
        assert _fetch(client, "web") == "served"
        return
    slow = client.run(["node", "-e", FETCH % "web"], timeout=20)
    network.heal(web)
    quick = client.run(["node", "-e", FETCH % "web"], timeout=20)
    assert slow.duration - quick.duration > 0.25


def test_impairment_of_a_machine_that_is_gone(lab: Lab, lacks: Lacks, club: Club) -> None:
    if lacks(Capability.NETWORKS) or lacks(Capability.IMPAIRMENT):
        return
    network = club.network()
    one, other = club.member("one", network), club.member("other", network)
    cut = network.partition(one, other)
    lab.destroy(other)
    cut.heal()
    with pytest.raises((MachineDied, RexxInfraError)):
        network.loss(other, 0.5)
    network.heal()
