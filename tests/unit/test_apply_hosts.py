"""What ``rexxinfra apply`` takes for a host, and what it reads from an inventory."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_rexxinfra import UsageError
from pytest_rexxinfra.model import check_name
from pytest_rexxinfra.rexxfile.hosts import Existing, Login, distinct, fresh, parse_host, parse_hosts
from pytest_rexxinfra.rexxfile.inventory import Inventory
from pytest_rexxinfra.rexxfile.plans import Plans

NOBODY = Login()


def refused(*parts: str) -> pytest.RaisesExc[UsageError]:
    """A mistake whose message and hint contain these parts."""

    def told(error: UsageError) -> bool:
        return all(part in f"{error.message}\n{error.hint}" for part in parts)

    return pytest.RaisesExc(UsageError, check=told)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("web-1", "ssh://web-1"),
        ("WEB.example.org", "ssh://web.example.org"),
        ("pi@web", "ssh://pi@web"),
        ("web:2222", "ssh://web:2222"),
        ("[::1]:22", "ssh://[::1]:22"),
        ("::1", "ssh://[::1]"),
        ("root@[fe80::1]", "ssh://root@[fe80::1]"),
        ("ssh://root@web:2222", "ssh://root@web:2222"),
        ("ssh:web", "ssh://web"),
        ("podman:x", "podman:x"),
        ("Docker:web", "docker:web"),
        ("docker:2222", "docker:2222"),
        (" nspawn:m1 ", "nspawn:m1"),
    ],
)
def test_host(text: str, address: str) -> None:
    assert str(parse_host(text, NOBODY).way) == address


@pytest.mark.parametrize("text", ["a b", "@web", "web:", "web:x", "-oProxyCommand=id", "a@b@c", "[::1", "web:0", ""])
def test_no_host(text: str) -> None:
    with refused(text):
        parse_host(text, NOBODY)


def test_system_that_is_misspelt() -> None:
    with refused("'podmann:web'", "did you mean podman:NAME"):
        parse_host("podmann:web", NOBODY)
    with refused("shh://web", "ssh"):
        parse_host("shh://web", NOBODY)


def test_user_and_port_of_its_own_go_over_those_of_all() -> None:
    login = Login("alice", 2222)
    found = [str(host.way) for host in parse_hosts(["a,bob@b", "c:23,docker:web"], login)]
    assert found == ["ssh://alice@a:2222", "ssh://bob@b:2222", "ssh://alice@c:23", "docker:web"]


@pytest.mark.parametrize("login", [{"port": 0}, {"port": 65536}, {"user": ""}, {"user": "a b"}, {"user": "a@b"}])
def test_login_that_cannot_be(login: dict[str, int | str]) -> None:
    with refused(str(next(iter(login.values())))):
        Login(**login)  # type: ignore[arg-type]


def test_each_machine_once() -> None:
    hosts = parse_hosts(["web,docker:x", "WEB,other,ssh://web,docker:x,web"], NOBODY)
    assert [host.label for host in distinct(hosts)] == ["ssh:web", "docker:x", "ssh:other"]
    assert len(distinct([fresh("docker:x"), *parse_hosts(["docker:x"], NOBODY)])) == 2


@pytest.mark.parametrize(
    ("text", "name"),
    [("web-1", "web-1"), ("root@[::1]:22", "root-1-22"), ("ssh://pi@10.0.0.1:2222", "pi-10.0.0.1-2222"), ("é", "new")],
)
def test_machine_is_named_like_its_host(text: str, name: str) -> None:
    assert check_name("name", parse_host(text, NOBODY).name) == name


def test_list_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "hosts"
    file.write_text("# all of them\nweb-1\n\n  web-2:23 # the second\r\n")
    assert [host.text for host in parse_hosts([f"web-0,@{file}"], NOBODY)] == ["web-0", "web-1", "web-2:23"]
    with refused(f"{tmp_path} cannot be read"):
        parse_hosts([f"@{tmp_path}"], NOBODY)
    file.write_bytes(b"\xff\xfe")
    with refused("it is not text"):
        parse_hosts([f"@{file}"], NOBODY)


INVENTORY = """
[hosts.web-1]
address = "10.0.0.1:22"
user = "deploy"
args = {ROLE = "first", COUNT = 3}
groups = ["web", "all"]

[hosts.web-2]
groups = ["all", "web"]

[hosts.box]
address = "docker:box"

[groups.web]
args = {ROLE = "web", PLACE = "here"}

[groups.all]
args = {PLACE = "anywhere"}
"""


def inventory(folder: Path, text: str, name: str = "hosts.toml", login: Login = NOBODY) -> Inventory:
    file = folder / name
    file.write_text(text)
    return Inventory.read(file, login)


def test_inventory(tmp_path: Path) -> None:
    found = inventory(tmp_path, INVENTORY, login=Login("me", 2222))
    one, two, box = found.pick([])
    assert [host.label for host in (one, two, box)] == ["ssh:web-1", "ssh:web-2", "docker:box"]
    assert [str(host.way) for host in (one, two)] == ["ssh://deploy@10.0.0.1:22", "ssh://me@web-2:2222"]
    assert box.way == Existing("docker", "box")
    assert [host.text for host in found.pick(["web", "box"])] == ["web-1", "web-2", "box"]
    assert found.pick(["web-2"]) == [two]


def test_inventory_of_the_documentation(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "apply.md").read_text()
    found = inventory(tmp_path, page.partition("```toml\n")[2].partition("```")[0])
    assert {str(host.way): host.args for host in found.pick([])} == {
        "ssh://deploy@10.0.0.1:22": {"ROLE": "first"},
        "ssh://web-2": {"ROLE": "web"},
        "docker:box": {},
    }


def test_arguments_of_a_host_go_over_those_of_its_groups_and_the_last_group_wins(tmp_path: Path) -> None:
    one, two, box = inventory(tmp_path, INVENTORY).pick([])
    assert one.args == {"ROLE": "first", "PLACE": "anywhere", "COUNT": "3"}
    assert two.args == {"ROLE": "web", "PLACE": "here"}
    assert box.args == {}


def test_arguments_of_the_command_line_go_over_all(tmp_path: Path) -> None:
    file = tmp_path / "Rexxfile"
    file.write_text("ARG ROLE=none\nARG PLACE\nRUN echo $ROLE $PLACE\n")
    one, two, box = inventory(tmp_path, INVENTORY).pick([])
    plans = Plans(str(file), {"ROLE": "given"})
    assert plans.of(one).args == {"ROLE": "given", "PLACE": "anywhere"}
    assert plans.of(two).args == {"ROLE": "given", "PLACE": "here"}
    assert plans.of(one) is plans.of(one)
    with refused("ARG PLACE has no value"):
        plans.of(box)
    with refused("has no ARG OTHER"):
        Plans(str(file), {"OTHER": "x", "PLACE": ""}).of(box)


def test_name_that_is_not_in_the_inventory(tmp_path: Path) -> None:
    found = inventory(tmp_path, INVENTORY)
    with refused("no host or group 'web3'", "did you mean web"):
        found.pick(["web3"])
    with refused("no host or group 'zzz'", "it has: web-1, web-2, box, web, all"):
        found.pick(["web-1,zzz"])


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("[hosts", ["is not TOML"]),
        ("[host.web]\n", ["has no 'host'", "did you mean hosts?"]),
        ("hosts = 3\n", ["hosts is not what it should be"]),
        ("[hosts]\nweb = 3\n", ["[hosts.web] is no table"]),
        ("[hosts.web]\nadress = 'x'\n", ["[hosts.web] has no 'adress'", "did you mean address?"]),
        ("[hosts.web]\naddress = 'a b'\n", ["[hosts.web]: ", "'a b'"]),
        ("[hosts.web]\naddress = 3\n", ["[hosts.web]: address"]),
        ("[hosts.web]\nport = 'x'\n", ["[hosts.web]: port"]),
        ("[hosts.web]\nport = true\n", ["[hosts.web]: port"]),
        ("[hosts.web]\nport = 70000\n", ["[hosts.web]: port 70000"]),
        ("[hosts.web]\nuser = ['x']\n", ["[hosts.web]: user"]),
        ("[hosts.web]\ngroups = 'all'\n", ["[hosts.web]: groups"]),
        ("[hosts.web]\ngroups = [3]\n", ["[hosts.web]: groups"]),
        ("[hosts.web]\nargs = {A = [1]}\n", ["[hosts.web]: A in args"]),
        ("[hosts.'a b']\n", ["'a b' is no name"]),
        ("[hosts.web]\n[groups.web]\n", ["'web' is both a host and a group"]),
        ("[hosts.web]\ngroups = ['db']\n[hosts.db]\n", ["'db' is both a host and a group"]),
        ("[groups.web]\nhosts = []\n", ["[groups.web] has no 'hosts'"]),
    ],
)
def test_mistake_in_an_inventory(tmp_path: Path, text: str, parts: list[str]) -> None:
    with refused("hosts.toml", *parts):
        inventory(tmp_path, text)


def test_inventory_of_lines(tmp_path: Path) -> None:
    found = inventory(tmp_path, "web-1\n# comment\nroot@web-2:23  # two\ndocker:box\nweb-1\n", "hosts", Login("me"))
    assert [str(host.way) for host in found.pick([])] == ["ssh://me@web-1", "ssh://root@web-2:23", "docker:box"]
    with refused("hosts:2: host 'a b'"):
        inventory(tmp_path, "web\na b\n", "hosts")
    with refused("missing cannot be read"):
        Inventory.read(tmp_path / "missing", NOBODY)
    with refused("missing.toml cannot be read"):
        Inventory.read(tmp_path / "missing.toml", NOBODY)


def test_key_in_the_place_of_an_inventory_is_not_repeated(tmp_path: Path) -> None:
    key = "-----BEGIN OPENSSH PRIVATE KEY-----\nSECRETSECRET\n"
    with refused("is a key, not an inventory", "REXX_SSH_IDENTITY") as error:
        inventory(tmp_path, key, "id_ed25519")
    assert "SECRET" not in str(error.value)
