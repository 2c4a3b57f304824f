"""What was left on hosts that cannot be reached any more."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_rexxinfra.deadline import Deadline
from pytest_rexxinfra.errors import ProvisionError, UsageError
from pytest_rexxinfra.events import Events
from pytest_rexxinfra.lab import make_driver
from pytest_rexxinfra.model import Kind, Resource
from pytest_rexxinfra.ssh.options import SshOptions


@pytest.fixture
def port() -> Iterator[int]:
    """A port of this computer at which nobody answers."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("REXX_STATE", str(tmp_path / "state"))
    return tmp_path / "state"


def left(state: Path, address: str, options: SshOptions, expired: bool) -> Resource:
    """A machine of a run that is dead, as its record tells."""
    lease = Resource.lease_for("ssh", Kind.MACHINE, "run", "m1", lifetime=-1 if expired else 60)
    folder = state / "ssh" / lease.name
    folder.mkdir(parents=True)
    place = f"{options.scratch}/{lease.name}"
    record = {"name": lease.name, "labels": lease.labels(), "address": address, "place": place}
    (folder / "record.json").write_text(json.dumps({**record, "options": options.saved()}))
    return lease


@pytest.mark.parametrize("key", [(), ("/no/such/key",)])
def test_until_it_expires_it_is_not_forgotten(state: Path, port: int, key: tuple[str, ...]) -> None:
    lease = left(state, f"root@127.0.0.1:{port}", SshOptions(config="none", identity=key), expired=False)
    driver = make_driver("ssh", Events())
    with pytest.raises((ProvisionError, UsageError)) as caught:
        driver.destroy([lease], Deadline(5))
    assert f"rm -rf /var/tmp/{lease.name}" in str(caught.value)
    assert f"127.0.0.1:{port}" in str(caught.value)
    assert [each.name for each in driver.list()] == [lease.name]


@pytest.mark.parametrize("key", [(), ("/no/such/key",)])
def test_once_it_has_expired_it_is_given_up(state: Path, port: int, key: tuple[str, ...]) -> None:
    options = SshOptions(config="none", identity=key)
    old = left(state, f"root@127.0.0.1:{port}", options, expired=True)
    new = left(state, f"root@127.0.0.1:{port}", options, expired=False)
    driver = make_driver("ssh", Events())
    assert old.expires < time.time() < new.expires
    with pytest.raises((ProvisionError, UsageError)) as caught:
        driver.destroy([old, new], Deadline(5))
    assert old.name not in str(caught.value)
    assert [each.name for each in driver.list()] == [new.name]
    driver.destroy([old], Deadline(5))
