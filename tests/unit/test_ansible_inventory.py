"""Machines as Ansible's inventory, and the forms of a playbook."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_rexxinfra import Lab, Machine
from pytest_rexxinfra.ansible.inventory import hosts_of, inventory
from pytest_rexxinfra.ansible.playbook import written
from pytest_rexxinfra.ansible.python import Surroundings
from pytest_rexxinfra.errors import UsageError
from pytest_rexxinfra.settings import Settings


@pytest.fixture(scope="module")
def machines() -> Iterator[list[Machine]]:
    """Two that share a name, and one with a name of its own."""
    with Lab(Settings.load({"target": "local"})) as lab:
        yield [lab.provision(name=name) for name in ("web", "web", "db")]


def test_a_host_has_the_name_of_its_machine_if_no_other_has(machines: list[Machine]) -> None:
    one, two, db = machines
    assert hosts_of([one, db]) == {"web": one, "db": db}
    assert hosts_of(machines) == {one.resource.name: one, two.resource.name: two, "db": db}


def test_no_machine_and_one_twice_are_refused(machines: list[Machine]) -> None:
    with pytest.raises(UsageError, match="no machines"):
        hosts_of([])
    with pytest.raises(UsageError, match="named twice"):
        hosts_of([machines[0], machines[0]])


def test_variables_and_groups(machines: list[Machine], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ANSIBLE_PYTHON_INTERPRETER", raising=False)
    hosts = hosts_of(machines[1:])
    around = {"web": Surroundings("joe", "/usr/bin/python3"), "db": Surroundings("root", None)}
    top = inventory(hosts, {"servers": machines[1:2]}, Path("/run/bridge"), around)["all"]
    assert top["children"] == {"servers": {"hosts": {"web": {}}}}
    assert top["vars"]["ansible_rexxinfra_bridge"] == "/run/bridge"
    assert top["hosts"]["web"]["ansible_python_interpreter"] == "/usr/bin/python3"
    assert top["hosts"]["web"]["ansible_remote_tmp"].startswith(machines[1].scratch)
    assert "ansible_python_interpreter" not in top["hosts"]["db"]
    assert json.loads(json.dumps(top)) == top


@pytest.mark.parametrize("name", ["all", "ungrouped", "web", "two words", "a-b", ""])
def test_names_that_no_group_can_have(machines: list[Machine], name: str) -> None:
    hosts = hosts_of(machines[1:])
    around = dict.fromkeys(hosts, Surroundings("root", None))
    with pytest.raises(UsageError, match="no name of a group"):
        inventory(hosts, {name: machines[1:]}, Path("/run/bridge"), around)


def test_a_group_has_only_machines_that_are_played_on(machines: list[Machine]) -> None:
    around = {"db": Surroundings("root", None)}
    with pytest.raises(UsageError, match="local:web is none of the machines"):
        inventory(hosts_of(machines[2:]), {"servers": machines[:1]}, Path("/run/bridge"), around)


def test_a_playbook_that_is_a_file_stays_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "site.yml").write_text("[]")
    monkeypatch.chdir(tmp_path)
    for given in ("site.yml", Path("site.yml"), str(tmp_path / "site.yml")):
        assert written(given, tmp_path / "project") == tmp_path / "site.yml"
    assert not (tmp_path / "project").exists()


def test_a_playbook_that_is_none_is_among_what_is_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = tmp_path / "here"
    (here / "templates").mkdir(parents=True)
    (here / "playbook.yml").write_text("mine")
    monkeypatch.chdir(here)
    text = written("- hosts: all\n", tmp_path / "text")
    assert (text.name, text.read_text()) == ("playbook.yml", "- hosts: all\n")
    assert (text.parent / "templates").resolve() == here / "templates"
    assert (here / "playbook.yml").read_text() == "mine"
    data = written({"hosts": "all"}, tmp_path / "data")
    assert json.loads(data.read_text()) == [{"hosts": "all"}]
    assert json.loads(written([{"hosts": "a"}, {"hosts": "b"}], tmp_path / "list").read_text())[1] == {"hosts": "b"}


def test_data_that_ansible_cannot_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="the playbook cannot be given to Ansible"):
        written({"hosts": tmp_path}, tmp_path / "project")
