"""What a machine in a pod cannot have of its own."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_rexxinfra import Spec
from pytest_rexxinfra.errors import UsageError
from pytest_rexxinfra.model import Capability
from pytest_rexxinfra.pod import joined


@pytest.mark.parametrize("wish", [{"network": "none"}, {"ports": [80]}, {"hostname": "x"}, {"egress": []}])
def test_refused(wish: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=f"no {next(iter(wish))} of its own"):
        joined(Spec.of(**wish), "rexx-pod")


def test_joined() -> None:
    spec = joined(Spec.of(memory="64m"), "rexx-pod")
    assert (spec.pod, spec.memory) == ("rexx-pod", 64 << 20)
    assert Capability.PODS in spec.wants()


def test_users_do_not_write_it() -> None:
    with pytest.raises(UsageError, match="no 'pod'"):
        Spec.of(pod="rexx-pod")
