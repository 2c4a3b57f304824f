"""What machines in a network of podman's call each other."""

from __future__ import annotations

from pathlib import Path

from pytest_rexxinfra.systems.podman_names import Member, introduce

OWN = "127.0.0.1\tlocalhost\n10.89.0.2\tweb rexx-web\n"


def _container(hosts: Path, *, running: bool = True, address: str = "10.89.0.2") -> dict[str, object]:
    return {
        "State": {"Running": running},
        "Config": {"Hostname": "web"},
        "NetworkSettings": {"Networks": {"net": {"IPAddress": address}}},
        "HostsPath": str(hosts),
    }


def test_everybody_is_told_of_the_others(tmp_path: Path) -> None:
    web, client = (Member(tmp_path / name, f"10.89.0.{number}", name) for number, name in ((2, "web"), (3, "client")))
    web.hosts.write_text(OWN)
    client.hosts.write_text("")
    introduce([web, client])
    assert web.hosts.read_text() == f"{OWN}10.89.0.3 client #rexxinfra\n"
    assert client.hosts.read_text() == "10.89.0.2 web #rexxinfra\n"


def test_who_left_is_forgotten_and_the_rest_of_the_file_stays(tmp_path: Path) -> None:
    file = tmp_path / "hosts"
    file.write_bytes(b"10.89.0.77 a-longer-name-than-that #rexxinfra\n10.0.0.1 of-the-machine \xff")
    same = file.stat().st_ino
    introduce([Member(file, "10.89.0.2", "web"), Member(tmp_path / "gone", "10.89.0.3", "gone")])
    assert file.read_bytes() == b"10.0.0.1 of-the-machine \xff\n10.89.0.3 gone #rexxinfra\n"
    assert file.stat().st_ino == same


def test_members_are_those_that_run_and_have_an_address(tmp_path: Path) -> None:
    hosts = tmp_path / "hosts"
    assert Member.of(_container(hosts), "net") == Member(hosts, "10.89.0.2", "web")
    assert Member.of(_container(hosts), "other") is None
    assert Member.of(_container(hosts, running=False), "net") is None
    assert Member.of(_container(hosts, address=""), "net") is None
