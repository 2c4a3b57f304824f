"""Labs whose machines Vagrant makes, with a state of their own, and what Vagrant does for them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pytest_rexxinfra import Lab
from pytest_rexxinfra.settings import Settings
from pytest_rexxinfra.systems.holder import marked_processes


@pytest.fixture(scope="module", autouse=True)
def state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where the machines of these tests are on disk, and no others."""
    folder = tmp_path_factory.mktemp("vagrant")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REXX_STATE", str(folder / "state"))
        patch.setenv("REXX_LEDGER", str(folder / "ledger.sqlite3"))
        patch.setenv("REXX_AUDIT", "off")
        yield folder / "state/vagrant"


@contextmanager
def lab(target: object = "vagrant", **given: Any) -> Iterator[Lab]:
    with Lab(Settings.load({"target": str(target), "pool": 0, "timeout": 30, **given}, environ={})) as made:
        yield made
    assert not made.tally.left


def of_vagrant(lease: str) -> Sequence[int]:
    """Processes of vagrant for the machine of a lease."""
    return marked_processes("REXXINFRA_VAGRANT", lease)
