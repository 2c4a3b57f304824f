"""Machines that may open connections to chosen ports of other computers only."""

from __future__ import annotations

from collections.abc import Callable
from urllib.request import urlopen

import pytest

from pytest_rexxinfra import Capability, Machine, Network
from pytest_rexxinfra.deadline import Deadline
from pytest_rexxinfra.systems.egress import limit

from .club import Club, serve
from .conftest import Lacks, Way

SERVE = """
for (const port of [80, 8080, 9090]) {
    require('net').createServer(caller => caller.on('error', () => 0).end('served')).listen(port)
    const socket = require('dgram').createSocket('udp4').bind(port)
    socket.on('message', (word, from) => socket.send('served', from.port, from.address))
}
"""
CALL = """
const [, host, port] = process.argv, call = require('net').connect({host, port: +port, family: 4})
call.on('error', error => console.log(error.code)).pipe(process.stdout)
"""
ASK = """
const [, host, port] = process.argv, socket = require('dgram').createSocket('udp4')
const told = word => { process.stdout.write(word); socket.close() }
socket.on('message', told).send('?', +port, host, error => error && told(error.code))
"""
CALL_OFTEN = """
let longest = 0, open = 100
for (let i = open; i > 0; i--) {
    const start = Date.now()
    require('net').connect({host: process.argv[1], port: 9090, family: 4}).on('error', () => {
        longest = Math.max(longest, Date.now() - start)
        if (--open == 0) console.log(longest)
    })
}
"""
TALK = """
const files = require('fs')
require('net').createServer(caller => {
    const talking = setInterval(() => caller.write('news'), 20)
    caller.on('error', () => 0).on('close', () => { clearInterval(talking); files.writeFileSync('/tmp/hung-up', '') })
    files.writeFileSync('/tmp/called', '')
}).listen(9090)
"""
REFUSED = "ECONNREFUSED\n"


def _node(machine: Machine, script: str, *words: object) -> str:
    return machine.run(["node", "-e", script, *map(str, words)], timeout=20).stdout


@pytest.fixture
def network(lacks: Lacks, club: Club) -> Network:
    for capability in (Capability.EGRESS, Capability.NETWORKS):
        if lacks(capability):
            pytest.skip(f"no {capability}, and that is said")
    return club.network()


@pytest.fixture
def web(club: Club, network: Network) -> Machine:
    machine = club.member("web", network)
    serve(machine, SERVE, 80, 8080, 9090)
    return machine


def test_only_these_ports(club: Club, network: Network, web: Machine) -> None:
    client = club.member("client", network, egress=[8080, 443])
    assert (_node(client, CALL, "web", 8080), _node(client, ASK, "web", 8080)) == ("served", "served")
    assert (_node(client, CALL, "web", 9090), _node(client, ASK, "web", 9090)) == (REFUSED, "EPERM")
    assert _node(web, CALL, web.status.address, 9090) == "served"


def test_many_are_refused_at_once(club: Club, network: Network, web: Machine) -> None:
    milliseconds = int(_node(club.member("client", network, egress=[8080]), CALL_OFTEN, "web"))
    assert milliseconds < 900, "that is how long the kernel waits before it tries again"


def test_none_at_all_but_answers_and_loopback(club: Club, network: Network, web: Machine) -> None:
    alone = club.member("alone", network, egress=[])
    serve(alone, SERVE, 80, 8080, 9090)
    assert (_node(alone, CALL, "web", 8080), _node(alone, ASK, "web", 8080)) == (REFUSED, "EPERM")
    for host in ("127.0.0.1", alone.status.address):
        assert (_node(alone, CALL, host, 9090), _node(alone, ASK, host, 9090)) == ("served", "served")
    assert (_node(web, CALL, "alone", 80), _node(web, ASK, "alone", 80)) == ("served", "served")


def test_published_ports_answer(lacks: Lacks, make: Callable[..., Machine]) -> None:
    if lacks(Capability.EGRESS) or lacks(Capability.PORTS):
        return
    answer = "require('http').createServer((q, r) => r.end('served')).listen(8080)"
    host, port = make(ports=[8080], egress=[], command=["node", "-e", answer]).wait_for_port(8080)
    with urlopen(f"http://{host}:{port}/", timeout=10) as found:
        assert found.read() == b"served"


def _restore(machine: Machine) -> None:
    machine.snapshot()
    machine.restore()


def _reset(machine: Machine) -> None:
    machine.driver.reset(machine.resource, machine.spec, Deadline(60))
    machine.disconnect()


@pytest.mark.parametrize("renew", [Machine.restart, _restore, _reset], ids=["restart", "restore", "reset"])
@pytest.mark.parametrize("wishes", [{}, {"command": ["sleep", "1000"]}], ids=["idle", "main process"])
def test_it_stays(
    club: Club, network: Network, web: Machine, renew: Callable[[Machine], None], wishes: dict[str, object]
) -> None:
    client = club.member("client", network, egress=[8080], **wishes)
    renew(client)
    assert (_node(client, CALL, web.status.address, 8080), _node(client, CALL, web.status.address, 9090)) == (
        "served",
        REFUSED,
    )


def test_a_clone_has_it_too(club: Club, network: Network, web: Machine) -> None:
    clone = club.member("client", network, egress=[8080]).clone()
    assert (_node(clone, CALL, "web", 8080), _node(clone, CALL, "web", 9090)) == ("served", REFUSED)


def test_nobody_inside_rules_the_network(club: Club, network: Network, web: Machine) -> None:
    client = club.member("client", network, egress=[8080], image="mini", boot=False)
    if client.spec.privileged:
        pytest.skip("a privileged machine may do all")
    assert client.run("id -u").lines == ["0"]
    assert "not permitted" in client.run("ip link set lo down").stderr


def test_what_was_open_before_ends(way: Way, club: Club, network: Network) -> None:
    web, client = club.member("web", network), club.member("client", network)
    serve(web, TALK, 9090)
    client.run(["sh", "-c", 'node -e "$0" web 9090 >/dev/null 2>&1 &', CALL], check=True)
    web.wait_until("test -e /tmp/called")
    assert not web.run("test -e /tmp/hung-up").ok
    limit(client.driver.network_command(client.resource), (), Deadline(10), way.name)
    web.wait_until("test -e /tmp/hung-up")
