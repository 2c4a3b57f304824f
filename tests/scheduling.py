"""Which tests one worker of xdist gets together, with ``--dist=loadgroup``."""

from __future__ import annotations

import re

from xdist.scheduler.loadscope import LoadScopeScheduling

from .conformance.conftest import WAYS

_CONFORMANCE = re.compile(r"^tests/conformance/.*?\[(.*)\]$", re.DOTALL)
_SCENARIO = re.compile(r"^(scenarios/.*?)::.*?\[([a-z]+)", re.DOTALL)


class ByWay(LoadScopeScheduling):  # type: ignore[misc]
    """All conformance tests of a way go to one worker, which has one lab for them, and all scenarios of a file and a
    target, which share a machine.

    Xdist's own groups are not seen any more with pytest 9.2, where tests keep their ids under another name.
    """

    def _split_scope(self, nodeid: str) -> str:
        match = _CONFORMANCE.match(nodeid)
        if match is None:
            scenario = _SCENARIO.match(nodeid)
            return " ".join(scenario.groups()) if scenario else nodeid
        names = [way.name for way in WAYS if f"{match[1]}-".startswith(f"{way.name}-")]
        return max(names, key=len, default=nodeid)
