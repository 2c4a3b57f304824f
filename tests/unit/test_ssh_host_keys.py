"""By which keys a host is known, as files that ssh and ssh-keygen write say it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import paramiko
import pytest

from pytest_rexxinfra.errors import ProvisionError, UsageError
from pytest_rexxinfra.ssh.host_keys import HostKey, KnownHost
from pytest_rexxinfra.ssh.route import Route

Keys = dict[str, paramiko.PKey]


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    folder = tmp_path_factory.mktemp("keys")
    made: Keys = {}
    for name, kind in (("ed25519", "ed25519"), ("another", "ed25519"), ("ecdsa", "ecdsa"), ("rsa", "rsa")):
        subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", "", "-f", folder / name], check=True)
        made[name] = paramiko.PKey.from_path(folder / name)
    return made


def line(names: str, key: paramiko.PKey) -> str:
    return f"{names} {key.get_name()} {key.get_base64()}\n"


def known(file: Path, text: str, host: str = "web", port: int = 22, policy: str = "strict", **more: str) -> KnownHost:
    file.write_text(text)
    return KnownHost(Route(host, port, "u", (), False, more.get("known_as", host), (str(file),), policy))


@pytest.mark.parametrize("name", ["ed25519", "ecdsa", "rsa"])
def test_fingerprint_is_that_of_ssh_keygen(tmp_path: Path, keys: Keys, name: str) -> None:
    (tmp_path / "pub").write_text(f"{keys[name].get_name()} {keys[name].get_base64()}\n")
    shown = subprocess.run(["ssh-keygen", "-l", "-f", tmp_path / "pub"], capture_output=True, text=True, check=True)
    _, digest, *_, kind = shown.stdout.split()
    assert str(HostKey(keys[name].get_name(), keys[name].asbytes())) == f"{kind.strip('()')} {digest}"


@pytest.mark.parametrize(
    ("names", "host", "port"),
    [
        ("web", "web", 22),
        ("other,web", "web", 22),
        ("WEB", "web", 22),
        ("[web]:2222", "web", 2222),
        ("*.example.com,!bad.example.com", "web.example.com", 22),
        ("[10.0.0.?]:*", "10.0.0.7", 2222),
        ("::1", "::1", 22),
    ],
)
def test_names_that_mean_a_host(tmp_path: Path, keys: Keys, names: str, host: str, port: int) -> None:
    known(tmp_path / "hosts", line(names, keys["rsa"]), host, port).check(keys["rsa"])


@pytest.mark.parametrize(
    ("names", "host", "port"),
    [
        ("web", "web", 2222),
        ("[web]:2222", "web", 22),
        ("web", "web2", 22),
        ("#web", "#web", 22),
        ("*.example.com,!bad.example.com", "bad.example.com", 22),
        ("w[e]b", "web", 22),
        ("@cert-authority web", "web", 22),
        ("|1|nonsense|nonsense", "web", 22),
    ],
)
def test_names_that_mean_another(tmp_path: Path, keys: Keys, names: str, host: str, port: int) -> None:
    with pytest.raises(ProvisionError, match="the host is not known: its key is RSA SHA256:"):
        known(tmp_path / "hosts", line(names, keys["rsa"]), host, port).check(keys["rsa"])


def test_hashed_names(tmp_path: Path, keys: Keys) -> None:
    host = known(tmp_path / "hosts", line("[web]:2222", keys["rsa"]), "web", 2222)
    host.check(keys["rsa"])
    subprocess.run(["ssh-keygen", "-q", "-H", "-f", tmp_path / "hosts"], check=True, capture_output=True)
    hashed = (tmp_path / "hosts").read_text()
    assert "[web]" not in hashed
    known(tmp_path / "hosts", hashed, "web", 2222).check(keys["rsa"])
    with pytest.raises(ProvisionError, match="not known"):
        known(tmp_path / "hosts", hashed, "web").check(keys["rsa"])


def test_name_of_its_own_for_the_key(tmp_path: Path, keys: Keys) -> None:
    known(tmp_path / "hosts", line("web-key", keys["rsa"]), "10.0.0.7", 2222, known_as="web-key").check(keys["rsa"])


def test_other_key_than_before(tmp_path: Path, keys: Keys) -> None:
    host = known(tmp_path / "hosts", line("[web]:2222", keys["ed25519"]), "web", 2222, "accept-new")
    with pytest.raises(ProvisionError, match=r"another key than before: ED25519 SHA256:.*known is ED25519") as refusal:
        host.check(keys["another"])
    assert refusal.value.hint is not None
    assert f"ssh-keygen -R '[web]:2222' -f {tmp_path}/hosts" in refusal.value.hint
    with pytest.raises(ProvisionError, match="another key than before"):
        host.check(keys["rsa"])


def test_each_of_several_keys_will_do(tmp_path: Path, keys: Keys) -> None:
    host = known(tmp_path / "hosts", line("web", keys["ed25519"]) + line("web", keys["another"]))
    host.check(keys["ed25519"])
    host.check(keys["another"])


def test_revoked_key_is_refused_although_it_is_known(tmp_path: Path, keys: Keys) -> None:
    text = line("web", keys["rsa"]) + line("@revoked *", keys["rsa"])
    for policy in ("strict", "accept-new"):
        with pytest.raises(ProvisionError, match="revoked"):
            known(tmp_path / "hosts", text, policy=policy).check(keys["rsa"])


def test_known_kinds_are_asked_for_first(tmp_path: Path, keys: Keys) -> None:
    offered = ["ssh-ed25519", "ecdsa-sha2-nistp256", "rsa-sha2-512", "rsa-sha2-256"]
    host = known(tmp_path / "hosts", line("web", keys["rsa"]) + line("web", keys["ecdsa"]))
    assert host.ordered(offered) == ["rsa-sha2-512", "rsa-sha2-256", "ecdsa-sha2-nistp256", "ssh-ed25519"]
    assert known(tmp_path / "hosts", "").ordered(offered) == offered


def test_lines_that_make_no_sense_are_left_out(tmp_path: Path, keys: Keys) -> None:
    text = "web\nweb ssh-rsa\nweb ssh-rsa %%%\nweb ssh-new AAAA\n\n@revoked\n# web\n|1|x web\n"
    known(tmp_path / "hosts", text + line("web", keys["rsa"])).check(keys["rsa"])
    (tmp_path / "hosts").write_bytes(b"\xff\xfe\n" + line("web", keys["rsa"]).encode())
    KnownHost(Route("web", 22, "u", (), False, "web", (str(tmp_path / "hosts"),), "strict")).check(keys["rsa"])


def test_new_host_is_remembered_on_a_line_of_its_own(tmp_path: Path, keys: Keys) -> None:
    file = tmp_path / "new/hosts"
    host = KnownHost(Route("web", 2222, "u", (), False, "web", (str(file),), "accept-new"))
    host.check(keys["rsa"])
    assert file.read_text() == line("[web]:2222", keys["rsa"])
    file.write_text(line("db", keys["rsa"]).rstrip("\n"))
    for _ in range(2):
        host.check(keys["rsa"])
    assert file.read_text() == line("db", keys["rsa"]) + line("[web]:2222", keys["rsa"])


def test_anything_goes_when_it_is_off(tmp_path: Path, keys: Keys) -> None:
    known(tmp_path / "hosts", line("web", keys["ed25519"]), policy="off").check(keys["another"])


def test_file_that_cannot_be_read_or_written(tmp_path: Path, keys: Keys) -> None:
    with pytest.raises(UsageError, match="cannot be read: Is a directory"):
        KnownHost(Route("web", 22, "u", (), False, "web", (str(tmp_path),), "strict"))
    (tmp_path / "file").touch()
    host = KnownHost(Route("web", 22, "u", (), False, "web", (str(tmp_path / "file/hosts"),), "accept-new"))
    with pytest.raises(UsageError, match="cannot be remembered"):
        host.check(keys["rsa"])
