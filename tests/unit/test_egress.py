"""What limits the egress of a machine, as the packet filter is told, and who may do without."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from pytest_rexxinfra.deadline import Deadline
from pytest_rexxinfra.errors import CommandFailed
from pytest_rexxinfra.model import Capability
from pytest_rexxinfra.systems.egress import filtering, limit, rules

_OWN = ["unshare", "-Urn"]


@pytest.mark.parametrize("ports", [(), (80,), (53, 5432, 65535)], ids=str)
def test_the_packet_filter_takes_it_twice(ports: tuple[int, ...]) -> None:
    if not shutil.which("nft") or not shutil.which("unshare"):
        pytest.skip("needs nft and unshare")
    text = rules(ports)
    command = [*_OWN, "sh", "-ec", 'echo "$0" | nft -f -; echo "$0" | nft -f -; nft list ruleset', text]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "uid_map" in done.stderr:
        pytest.skip("no user namespaces here")
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.split()[0] for line in done.stdout.splitlines() if " dport " in line] == ["tcp", "udp"] * bool(ports)
    assert done.stdout.count("reject with icmpx admin-prohibited") == 1


def test_only_where_there_is_a_packet_filter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not filtering()
    (tmp_path / "nft").touch(0o755)
    assert filtering() == {Capability.EGRESS}


def test_rules_that_are_not_taken_are_an_error() -> None:
    with pytest.raises(CommandFailed, match="nf_tables") as caught:
        limit(["false"], (80,), Deadline(5), "docker:m1")
    assert caught.value.where == "docker:m1"
