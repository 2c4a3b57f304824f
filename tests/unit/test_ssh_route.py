"""What of ssh_config(5) is followed, and what becomes of a configuration that cannot be."""

from __future__ import annotations

import getpass
import subprocess
from pathlib import Path

import pytest

from pytest_rexxinfra.errors import UsageError
from pytest_rexxinfra.settings import Settings
from pytest_rexxinfra.ssh.address import Address
from pytest_rexxinfra.ssh.options import SshOptions
from pytest_rexxinfra.ssh.route import Route, Routes


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".ssh").mkdir()
    return tmp_path


def routed(home: Path, text: str, address: str = "web", options: SshOptions | None = None) -> Route:
    (home / ".ssh/config").write_text(text)
    return Routes(options or SshOptions()).find(Address.parse(address))


def test_without_a_configuration(home: Path) -> None:
    route = Routes(SshOptions(config="none")).find(Address("web"))
    assert (route.host, route.port, route.user) == ("web", 22, getpass.getuser())
    assert route.identities == tuple(f"{home}/.ssh/id_{kind}" for kind in ("ed25519", "ecdsa", "rsa"))
    assert not route.identities_only
    assert route.known_hosts[:2] == (f"{home}/.ssh/known_hosts", f"{home}/.ssh/known_hosts2")
    assert (route.host_keys, route.known_as, route.through, route.command) == ("strict", "web", None, None)


def test_entry_of_a_host(home: Path) -> None:
    route = routed(
        home,
        """
        Host web db
            HostName 10.0.0.7
            User deploy
            Port 2222
            IdentityFile ~/.ssh/work
            IdentityFile %d/.ssh/%r
            IdentitiesOnly yes
            HostKeyAlias web-key
            UserKnownHostsFile ~/.ssh/work_hosts none
            GlobalKnownHostsFile none
            StrictHostKeyChecking accept-new
        Host *
            User nobody
        """,
    )
    assert route == Route(
        host="10.0.0.7",
        port=2222,
        user="deploy",
        identities=(f"{home}/.ssh/work", f"{home}/.ssh/deploy"),
        identities_only=True,
        known_as="web-key",
        known_hosts=(f"{home}/.ssh/work_hosts",),
        host_keys="accept-new",
    )
    assert routed(home, "Host web\nUser deploy\nHost *\nUser nobody", "mail").user == "nobody"


def test_address_goes_before_the_configuration(home: Path) -> None:
    route = routed(home, "Host web\nUser deploy\nPort 2222\nProxyCommand nc %h %p %r", "root@web:2022")
    assert (route.user, route.port, route.command) == ("root", 2022, "nc web 2022 root")
    assert routed(home, "Match user root\nPort 2222", "root@web").port == 2222


def test_options_go_before_the_configuration(home: Path) -> None:
    (home / "key").touch()
    options = SshOptions(identity=("~/key",), known_hosts="~/hosts", host_keys="off")
    route = routed(home, "Host web\nIdentityFile ~/other\nStrictHostKeyChecking yes", options=options)
    assert route.identities == (f"{home}/key", f"{home}/other")
    assert (route.identities_only, route.known_hosts, route.host_keys) == (True, (f"{home}/hosts",), "off")


@pytest.mark.parametrize(
    ("value", "meaning"), [("yes", "strict"), ("ask", "strict"), ("no", "off"), ("off", "off"), ("accept-new",) * 2]
)
def test_nobody_can_be_asked_about_host_keys(home: Path, value: str, meaning: str) -> None:
    assert routed(home, f"StrictHostKeyChecking {value}").host_keys == meaning


def test_jump_of_its_own_user_and_port(home: Path) -> None:
    route = routed(home, "Host web\nProxyJump bob@gate:2222\nHost gate\nHostName 10.0.0.1\nHostKeyAlias the-gate")
    assert route.through is not None
    assert (str(route.through), route.through.known_as) == ("bob@10.0.0.1:2222", "the-gate")
    assert route.through.through is None


def test_chain_of_jumps_begins_with_the_first(home: Path) -> None:
    route = routed(home, "Host web\nUser u\nProxyJump u@one,ssh://u@two:2222,u@[::1]:3333")
    ways = [str(route)]
    while route.through:
        route = route.through
        ways.append(str(route))
    assert ways == ["u@web:22", "u@[::1]:3333", "u@two:2222", "u@one:22"]


def test_jump_through_a_host_that_jumps(home: Path) -> None:
    route = routed(home, "User u\nHost web\nProxyJump inner\nHost inner\nProxyJump outer")
    assert route.through is not None
    assert route.through.through is not None
    assert route.through.through.host == "outer"


def test_jumps_in_a_circle(home: Path) -> None:
    with pytest.raises(UsageError, match="more than 7 hosts") as refusal:
        routed(home, "Host web\nProxyJump gate\nHost gate\nProxyJump web")
    assert refusal.value.hint == "does it lead in a circle?"


@pytest.mark.parametrize("text", ["ProxyJump none", "ProxyCommand none"])
def test_no_way_around(home: Path, text: str) -> None:
    route = routed(home, f"Host web\n{text}\nHost *\nProxyJump gate\nProxyCommand nc %h %p")
    assert (route.through, route.command) == (None, None)


def test_jump_or_command_whichever_is_first(home: Path) -> None:
    route = routed(home, "Host web\nProxyCommand nc %h %p\nHost web\nProxyJump gate")
    assert (route.command, route.through) == ("nc web 22", None)
    route = routed(home, "Host web\nProxyJump gate\nProxyCommand nc %h %p\nHost gate\nProxyJump none")
    assert (route.command, str(route.through)) == (None, f"{getpass.getuser()}@gate:22")


def test_match_of_a_host(home: Path) -> None:
    text = "Match host 10.0.*\nUser inner\nMatch originalhost web\nPort 2222\nMatch all\nUser outer"
    assert (routed(home, text, "10.0.0.1").user, routed(home, text).port) == ("inner", 2222)
    assert routed(home, text).user == "outer"


def test_included_files_are_read_in_their_places(home: Path) -> None:
    (home / ".ssh/conf.d").mkdir()
    (home / ".ssh/conf.d/a").write_text("Host web\n  User included\n  Port 2222\n")
    (home / ".ssh/conf.d/b").write_text("Host db\n  User other\n")
    text = "Include conf.d/* nowhere ~/.ssh/nothing*\nIdentityFile ~/.ssh/all\nHost web\nUser late"
    route = routed(home, text)
    assert (route.user, route.port, route.identities) == ("included", 2222, (f"{home}/.ssh/all",))
    assert routed(home, text, "db").identities == (f"{home}/.ssh/all",)


def test_configuration_that_includes_itself_ends(home: Path) -> None:
    assert routed(home, "User u\nInclude config").user == "u"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("Host web\nPort abc", "abc"),
        ("Port 99999", "no port 99999"),
        ("Host web\nthis-is-no-setting", "Unparsable"),
        ('Host "web', "Unparsable"),
        ("CanonicalizeHostname yes", "canonicaldomains"),
    ],
)
def test_configuration_that_cannot_be_followed(home: Path, text: str, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        routed(home, text)


def test_configuration_that_is_no_text(home: Path) -> None:
    (home / ".ssh/config").write_bytes(b"\xff\xfe\x00garbage")
    with pytest.raises(UsageError, match="config cannot be read: it is no text"):
        Routes(SshOptions()).find(Address("web"))


def test_configuration_that_does_not_exist(home: Path) -> None:
    with pytest.raises(UsageError, match="nowhere cannot be read: No such file"):
        Routes(SshOptions(config=str(home / "nowhere"))).find(Address("web"))


def test_identity_that_does_not_exist(home: Path) -> None:
    with pytest.raises(UsageError, match="there is no private key ~/nowhere"):
        Routes(SshOptions(config="none", identity=("~/nowhere",))).find(Address("web"))


def test_ssh_itself_says_the_same(home: Path) -> None:
    """The program looks for the user's own file where the password database says, so it is named."""
    text = f"""
    Include {home}/more
    IdentityFile ~/.ssh/everywhere
    Host web
        HostName %h.example.com
        Port 2222
    Match user root
        IdentityFile ~/.ssh/for_root
    Host *
        User deploy
    """
    (home / "more").write_text("Host web\n  HostKeyAlias its-key\n")
    (home / "conf").write_text(text)
    for address in ("web", "root@web", "root@web:23", "other"):
        named = Address.parse(address)
        words = [*(["-l", named.user] if named.user else []), *(["-p", str(named.port)] if named.port else [])]
        said = subprocess.run(
            ["ssh", "-G", "-F", f"{home}/conf", *words, named.host], capture_output=True, text=True, check=True
        ).stdout.splitlines()
        values = dict(line.split(" ", 1) for line in said if " " in line)
        files = [line.split(" ", 1)[1] for line in said if line.startswith("identityfile ")]
        route = Routes(SshOptions(config=f"{home}/conf")).find(named)
        assert (route.host, str(route.port), route.user) == (values["hostname"], values["port"], values["user"])
        assert route.known_as == values.get("hostkeyalias", values["hostname"])
        assert [Path(each).name for each in files] == [Path(each).name for each in route.identities]


def test_options_become_a_record_and_back(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "key").touch()
    monkeypatch.chdir(home)
    given = {"ssh_identity": "key,~/other", "ssh_config": "conf", "ssh_known_hosts": "hosts", "ssh_scratch": "/srv/"}
    options = SshOptions.of(Settings.load(given, environ={}))
    assert options.identity == (f"{home}/key", f"{home}/other")
    assert (options.config, options.known_hosts, options.scratch) == (f"{home}/conf", f"{home}/hosts", "/srv")
    assert SshOptions.from_record(options.saved()) == options
    assert SshOptions.from_record(SshOptions(config="none").saved()) == SshOptions(config="none")
