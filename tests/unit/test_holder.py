"""Process 1 of a sandbox."""

from __future__ import annotations

import pytest

from pytest_rexxinfra.deadline import Deadline
from pytest_rexxinfra.errors import ProvisionError
from pytest_rexxinfra.systems.holder import BEGIN_NETWORK, Holder
from pytest_rexxinfra.systems.sandbox import HOLD


@pytest.mark.parametrize("size", [10, 300_000])
def test_a_script_of_any_length_holds_until_it_is_killed(size: int) -> None:
    comment = f"# {'grüße ' * (size // 6)}"
    holder = Holder(["env"], f"{BEGIN_NETWORK}\n{comment}\n{HOLD}", Deadline(10))
    assert holder.pid == holder._process.pid
    assert holder.alive
    holder.kill()
    assert not holder.alive


@pytest.mark.parametrize("size", [10, 300_000])
def test_what_a_script_complained_of(size: int) -> None:
    script = f"echo too bad >&2; exit 3\n# {'x' * size}"
    with pytest.raises(ProvisionError, match="could not be set up") as caught:
        Holder(["env"], script, Deadline(10))
    assert "too bad" in str(caught.value)


def test_a_command_that_cannot_start_it() -> None:
    with pytest.raises(ProvisionError) as caught:
        Holder(["env", "no-such-command"], "x" * 300_000, Deadline(10))
    assert "no-such-command" in str(caught.value)
