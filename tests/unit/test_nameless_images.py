"""Images that lose their names while machines run on them go with the last of these machines."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import pytest

from pytest_rexxinfra import Lab, Spec
from pytest_rexxinfra.errors import SystemUnavailable
from pytest_rexxinfra.settings import Settings
from pytest_rexxinfra.systems.container_engine import EngineDriver

NAME = "rexxinfra/test-nameless:1"
OTHER = "rexxinfra/test-nameless:2"


@pytest.fixture(params=["docker", "podman"])
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    with Lab(Settings(target=request.param, pool=0)) as lab:
        try:
            lab.driver(request.param)
        except SystemUnavailable as error:
            pytest.skip(str(error))
        yield lab


def test_they_go_with_the_machine(lab: Lab) -> None:
    source = lab.provision()
    driver = cast(EngineDriver, source.driver)
    old = driver.engine.image_id(source.commit(NAME))
    assert old is not None
    machine = lab.provision(spec=Spec(image=NAME))
    source.write("/root/state", "new")
    new = driver.engine.image_id(source.commit(NAME))
    assert new not in (None, old)
    assert driver.engine.image_id(old) == old
    lab.destroy(machine)
    assert driver.engine.image_id(old) is None
    driver.remove_image(NAME)
    assert driver.engine.image_id(str(new)) is None


def test_one_with_another_name_stays(lab: Lab) -> None:
    source = lab.provision()
    driver = cast(EngineDriver, source.driver)
    image = str(driver.engine.image_id(source.commit(NAME)))
    repository, _, tag = OTHER.partition(":")
    driver.engine.api.tag(NAME, repository, tag)
    driver.remove_image(NAME)
    lab.destroy(source)
    assert driver.engine.image_id(image) == image
    driver.remove_image(OTHER)
    assert driver.engine.image_id(image) is None
