"""How hosts are named: what is one, what is none, and that both directions agree."""

from __future__ import annotations

import itertools

import pytest

from pytest_rexxinfra.errors import UsageError
from pytest_rexxinfra.ssh.address import Address


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("web", Address("web")),
        ("pi@web:2222", Address("web", "pi", 2222)),
        ("web_1.example.com", Address("web_1.example.com")),
        ("192.168.1.7:22", Address("192.168.1.7", None, 22)),
        ("[::1]", Address("::1")),
        ("[::1]:22", Address("::1", None, 22)),
        ("root@[fe80::1%eth0]:2222", Address("fe80::1%eth0", "root", 2222)),
        ("::1", Address("::1")),
        ("root@fe80::1%eth0", Address("fe80::1%eth0", "root")),
        ("DOMAIN\\user@web", Address("web", "DOMAIN\\user")),
        ("bücher.example", Address("bücher.example")),
    ],
)
def test_what_is_a_host(text: str, meant: Address) -> None:
    assert Address.parse(text) == meant


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "a b",
        "web:",
        "web:ssh",
        "web:-1",
        "web:22:23x",
        "@web",
        "pi@",
        "a@b@c",
        "[::1",
        "::1]",
        "[web]",
        "[::1]22",
        "-oProxyCommand=touch /tmp/x",
        "-J",
        "pi@-J",
        "web/x",
        "web\n",
        "web\0",
        "ssh://web",
    ],
)
def test_what_is_none(text: str) -> None:
    with pytest.raises(UsageError) as refusal:
        Address.parse(text)
    assert refusal.value.hint


@pytest.mark.parametrize("port", ["0", "65536", "99999", "9" * 30])
def test_port_that_cannot_be(port: str) -> None:
    with pytest.raises(UsageError, match="there is no port"):
        Address.parse(f"web:{port}")


def test_every_address_is_read_as_it_is_written() -> None:
    hosts = ["web", "10.0.0.1", "::1", "fe80::1%eth0", "a-b.c_d", "ö.example"]
    users = [None, "root", "a.b-c_d", "user%domain", "DOMAIN\\user"]
    ports = [None, 1, 22, 65535]
    for host, user, port in itertools.product(hosts, users, ports):
        address = Address(host, user, port)
        assert Address.parse(str(address)) == address
