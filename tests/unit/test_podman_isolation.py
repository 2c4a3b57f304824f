"""What a machine in a network of podman is kept from calling."""

from __future__ import annotations

from ipaddress import IPv4Interface

from pytest_rexxinfra.systems.podman_isolation import rules


def test_other_networks_of_the_pool_and_the_default_one() -> None:
    last = rules(IPv4Interface("10.89.3.7/24")).splitlines()[-1]
    assert "ip daddr { 10.88.0.0/15 } ip daddr != 10.89.3.0/24 ct state new drop" in last


def test_another_pool() -> None:
    last = rules(IPv4Interface("192.168.5.2/24")).splitlines()[-1]
    assert "ip daddr { 10.88.0.0/16, 192.168.0.0/16 } ip daddr != 192.168.5.0/24" in last


def test_a_network_larger_than_a_pool() -> None:
    last = rules(IPv4Interface("172.16.0.9/12")).splitlines()[-1]
    assert "ip daddr { 10.88.0.0/16, 172.16.0.0/12 } ip daddr != 172.16.0.0/12" in last
