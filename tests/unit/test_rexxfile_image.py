"""A Rexxfile as the recipe of an image."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pytest_rexxinfra import Lab, Spec
from pytest_rexxinfra.errors import ImageError, PolicyViolation, SystemUnavailable, Unsupported, UsageError
from pytest_rexxinfra.rexxfile.image import REPOSITORY
from pytest_rexxinfra.settings import Settings


@pytest.fixture(params=["docker", "podman", "nspawn", "lxc", "incus"])
def system(request: pytest.FixtureRequest) -> str:
    """A system that can save machines as images, and that works here."""
    name: str = request.param
    with lab_of(name) as lab:
        try:
            lab.driver(name)
        except SystemUnavailable as missing:
            required = os.environ.get("REXX_REQUIRE", "")
            if {name, "all"} & set(required.split(",")):
                raise
            pytest.skip(str(missing))
    return name


@pytest.fixture
def made(system: str) -> Iterator[list[str]]:
    """Names of images that end with the test."""
    names: list[str] = []
    yield names
    with lab_of(system) as lab:
        for name in {*names}:
            lab.driver(system).remove_image(name)


def lab_of(system: str, **given: object) -> Lab:
    return Lab(Settings.load({"target": system, "pool": 0, **given}))


def test_made_once_and_found_again(system: str, made: list[str], tmp_path: Path) -> None:
    (tmp_path / "greeting").write_text("hello\n")
    recipe = tmp_path / "web.rexxfile"
    mark = os.urandom(8).hex()
    recipe.write_text(f"FROM mini\nPUT greeting /srv/ 0640\nRUN cat /proc/uptime >/srv/made; echo {mark}\n")
    seen = []
    for _ in range(2):
        with lab_of(system) as lab:
            machine = lab.provision(spec=Spec(image=str(recipe)))
            made.append(str(machine.spec.image))
            seen.append(machine.run("cat /srv/made; ls -l /srv/greeting", check=True).stdout)
            assert machine.read("/srv/greeting") == b"hello\n"
    assert seen[0] == seen[1]
    assert made[0] == made[1]
    assert made[0].startswith(f"{REPOSITORY}:")
    (tmp_path / "greeting").write_text("another\n")
    with lab_of(system, image=str(recipe)) as lab:
        machine = lab.provision()
        made.append(str(machine.spec.image))
        assert machine.read("/srv/greeting") == b"another\n"
    assert made[2] != made[1]


def test_from_another_rexxfile_as_a_target_and_with_a_build(system: str, made: list[str], tmp_path: Path) -> None:
    (tmp_path / "base.rexxfile").write_text(f"FROM mini\nRUN echo {os.urandom(8).hex()} >/srv/base\n")
    (tmp_path / "Rexxfile").write_text("FROM base.rexxfile\nRUN cp /srv/base /srv/copy\n")
    with lab_of(f"{system}:{tmp_path}/Rexxfile", build="regina") as lab:
        machine = lab.provision(build=lab.build)
        base = lab.provision(spec=Spec(image=f"{tmp_path}/base.rexxfile"))
        made += [str(machine.spec.image), str(base.spec.image)]
        assert base.read("/srv/base") == machine.read("/srv/base")
        assert machine.run("cmp /srv/base /srv/copy").ok
        assert machine.rexx("SAY 'in' 'it'").lines == ["in it"]


@pytest.mark.parametrize("system", ["docker"], indirect=True)
def test_made_once_for_all_who_ask(made: list[str], tmp_path: Path) -> None:
    recipe = tmp_path / "Rexxfile"
    recipe.write_text(f"FROM mini\nRUN head -c 9 /dev/urandom | base64 >/srv/once; echo {os.urandom(8).hex()}\n")

    def provision(_: int) -> str:
        with lab_of("docker") as lab:
            machine = lab.provision(spec=Spec(image=str(recipe)))
            made.append(str(machine.spec.image))
            return machine.read("/srv/once").decode()

    with ThreadPoolExecutor(3) as threads:
        assert len({*threads.map(provision, range(3))}) == 1


def test_older_ones_go(system: str, made: list[str], tmp_path: Path) -> None:
    repository = f"rexxinfra-test/{os.urandom(4).hex()}"
    with lab_of(system) as lab:
        driver = lab.driver(system)
        machine = lab.provision(spec=Spec(image="mini"))
        for number in range(3):
            made.append(machine.commit(f"{repository}:{number}"))
        driver.trim_committed(repository, 1)
        assert [driver.has_committed(name) for name in made] == [False, False, True]


def test_task_that_fails_makes_no_image_and_leaves_no_machine(system: str, tmp_path: Path) -> None:
    recipe = tmp_path / "Rexxfile"
    recipe.write_text("FROM mini\nRUN echo why >&2; exit 3\n")
    with lab_of(system) as lab:
        with pytest.raises(ImageError, match=r"Rexxfile:2: RUN .* status 3") as raised:
            lab.provision(spec=Spec(image=str(recipe)))
        assert "why" in str(raised.value)
        assert raised.value.where == system
        assert lab.tally.created == lab.tally.removed


def test_system_that_saves_no_machines(tmp_path: Path) -> None:
    (tmp_path / "Rexxfile").write_text("RUN true\n")
    with lab_of("local") as lab, pytest.raises(Unsupported, match="no commit") as raised:
        lab.provision(spec=Spec(image=str(tmp_path / "Rexxfile")))
    assert "machine.apply" in str(raised.value.hint)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("NOPE", "Rexxfile:1:1: there is no instruction NOPE"),
        ("FROM Rexxfile\nRUN true", "comes from itself"),
        ("FROM ./other.rexxfile\nRUN true", "other.rexxfile does not exist"),
        ("ARG X\nRUN true", "ARG X has no value"),
    ],
)
def test_mistakes_are_found_before_anything_is_made(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "Rexxfile").write_text(text)
    with lab_of("local") as lab:
        with pytest.raises(UsageError, match=told):
            lab.provision(spec=Spec(image=str(tmp_path / "Rexxfile")))
        assert not lab.tally.created


@pytest.mark.parametrize("system", ["docker"], indirect=True)
def test_policy_judges_what_it_comes_from(system: str, tmp_path: Path) -> None:
    (tmp_path / "Rexxfile").write_text("FROM somebody/elses\nRUN true\n")
    with lab_of(system, policy="strict") as lab, pytest.raises(PolicyViolation, match="somebody/elses"):
        lab.provision(spec=Spec(image=str(tmp_path / "Rexxfile")))
