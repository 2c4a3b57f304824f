"""A channel that closes: because the machine died, which its system may notice late, or for another reason."""

from __future__ import annotations

import pytest

from pytest_rexxinfra.errors import ChannelClosed, MachineDied
from pytest_rexxinfra.lab import Lab
from pytest_rexxinfra.model import Phase, Resource, Status
from pytest_rexxinfra.settings import Settings


def test_death_that_the_system_notices_late(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Resource] = []

    def notice(resource: Resource) -> Status:
        seen.append(resource)
        return Status(Phase.RUNNING if len(seen) < 4 else Phase.STOPPED)

    with Lab(Settings.load({"target": "local"})) as lab:
        machine = lab.provision()
        monkeypatch.setattr(machine.driver, "status", notice)
        with pytest.raises(MachineDied, match="what became of the command is unknown"):
            machine.run("echo said; kill -9 $$; sleep 30", timeout=20)
        assert len(seen) == 4


def test_shell_that_ends_in_a_machine_that_lives() -> None:
    with Lab(Settings.load({"target": "local"})) as lab:
        machine = lab.provision()
        with pytest.raises(ChannelClosed, match="its outcome is unknown") as caught:
            machine.run("echo said; kill -9 $$; sleep 30", timeout=20)
        assert "said" in str(caught.value)
