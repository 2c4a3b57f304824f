"""The ADDRESS handlers that RexxJS ships, asked for real and looked at from outside."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from pytest_rexxinfra import Lab
from pytest_rexxinfra.errors import SystemUnavailable
from pytest_rexxinfra.rexx.build import Build

from .handler_engines import DOCKER, PODMAN, watch_engine
from .handler_nspawn import NSPAWN, watch_nspawn
from .handler_qemu import QEMU, watch_qemu
from .handlers import EXPECTED, Finding, Operation, expectations, known

Watch = Callable[[Lab, Build, Path], list[Finding]]

HANDLERS: dict[str, tuple[str, tuple[Operation, ...], Watch]] = {
    "docker": ("docker", DOCKER, partial(watch_engine, "docker", DOCKER)),
    "podman": ("podman", PODMAN, partial(watch_engine, "podman", PODMAN)),
    "nspawn": ("local", NSPAWN, watch_nspawn),
    "qemu": ("local", QEMU, watch_qemu),
}
"""Of each handler the system that it is asked on, its operations, and what asks them."""

NOT_ASKED = [
    *(
        (handler, operation, reason)
        for handler in ("docker", "podman")
        for operation, reason in {
            "security_audit": "tells about the handler's own memory only",
            "checkpoint_status": "tells about the handler's own memory only",
            "configure_health_check": "changes the handler's own memory only",
            "start_monitoring": "does something after 30 seconds at the earliest, for the handler's own memory",
            "stop_monitoring": "as start_monitoring",
        }.items()
    ),
    ("nspawn", "security_audit", "tells about the handler's own memory only"),
    *(
        ("qemu", operation, reason)
        for operation, reason in {
            "security_audit": "tells about the handler's own memory only",
            "checkpoint_status": "tells about the handler's own memory only",
            "configure_health_check": "changes the handler's own memory only",
            "configure_ssh": "changes the handler's own memory only",
            "detach_iso": "changes the handler's own memory only",
            "start_monitoring": "does something after 60 seconds at the earliest, for the handler's own memory",
            "stop_monitoring": "as start_monitoring",
            "download_iso": "fetches from a network, which the machine has not",
        }.items()
    ),
    ("lxd", "all", "needs the client lxc of LXD, which Debian 12 does not have"),
]
CASES = [(handler, each.name) for handler, (_, operations, _) in HANDLERS.items() for each in operations]
ORDER = [*HANDLERS, "lxd"]
ROWS = sorted([*CASES, *(row[:2] for row in NOT_ASKED)], key=lambda row: ORDER.index(row[0]))
"""All rows of the report in its order."""

_watched: dict[tuple[str, str], dict[str, Finding] | SystemUnavailable] = {}


@pytest.fixture
def rexxjs(rexx_build: Build) -> Build:
    if rexx_build.dialect != "rexxjs" or rexx_build.kind != "checkout":
        pytest.skip(f"{rexx_build.label} brings no ADDRESS handlers: they come with a checkout of RexxJS")
    return rexx_build


@pytest.fixture
def watched(
    rexx_lab: Lab, rexxjs: Build, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], dict[str, Finding]]:
    """All findings of a handler, which is asked once for all tests."""

    def watch(handler: str) -> dict[str, Finding]:
        key = (handler, rexxjs.digest)
        system, _, ask = HANDLERS[handler]
        if key not in _watched:
            try:
                found = ask(rexx_lab, rexxjs, tmp_path_factory.mktemp(handler))
                _watched[key] = {finding.operation: finding for finding in found}
            except SystemUnavailable as error:
                _watched[key] = error
        outcome = _watched[key]
        if not isinstance(outcome, SystemUnavailable):
            return outcome
        if {system, "all"} & set(rexx_lab.settings.require):
            raise outcome
        pytest.skip(str(outcome).replace("\n  hint: ", "; "))

    return watch


@pytest.mark.parametrize(("handler", "operation"), CASES)
def test_claims(
    watched: Callable[[str], dict[str, Finding]],
    record_property: Callable[[str, object], None],
    handler: str,
    operation: str,
) -> None:
    place = ROWS.index((handler, operation))
    try:
        finding = watched(handler)[operation]
    except pytest.skip.Exception as skipped:
        finding = Finding(handler, operation, "untested", "", str(skipped))
        record_property("handler", replace(finding, place=place).told())
        raise
    record_property("handler", replace(finding, place=place).told())
    expected = known(handler, operation)
    assert expected, f"{EXPECTED} says nothing about {handler}, {operation}; this run saw {finding.verdict}"
    assert finding.verdict == expected.verdict, (
        f"{handler}, {operation}: this run saw {finding.verdict}, {EXPECTED}:{expected.line} says {expected.verdict} "
        f"({expected.reason}); claimed: {finding.claimed}; observed: {finding.observed}"
    )
    if finding.verdict == "untested":
        pytest.skip(finding.observed)


@pytest.mark.parametrize(("handler", "operation", "reason"), NOT_ASKED)
def test_not_asked(
    rexxjs: Build, record_property: Callable[[str, object], None], handler: str, operation: str, reason: str
) -> None:
    place = ROWS.index((handler, operation))
    record_property("handler", Finding(handler, operation, "untested", "", reason, place).told())
    pytest.skip(reason)


def test_nothing_is_expected_of_what_is_not_asked() -> None:
    listed = {(handler, name) for handler, entries in expectations().items() for name in entries}
    assert listed <= set(CASES)
