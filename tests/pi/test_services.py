"""The services of systemd."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pytest_rexxinfra.errors import CommandFailed
from pytest_rexxinfra.pi import Pi

NAME = "rexxinfra-test.service"
PLACE = f"/run/systemd/system/{NAME}"
UNIT = """[Unit]
Description=a service of a test
[Service]
ExecStart=/bin/sh -c 'echo it begins; {then}'
Type={type}
[Install]
WantedBy=multi-user.target
"""


def install(pi: Pi, then: str, type_: str = "exec") -> None:
    pi.run(
        f"cat >{PLACE} && systemctl daemon-reload", stdin=UNIT.format(then=then, type=type_), user="root", check=True
    )


@pytest.fixture
def service(pi: Pi) -> Iterator[str]:
    install(pi, "exec sleep 1000")
    yield NAME
    cleaning = f"systemctl stop {NAME}; systemctl reset-failed {NAME}; rm -f {PLACE}; systemctl daemon-reload"
    pi.run(cleaning, user="root", check=True)


def test_the_way_in_is_a_service(pi: Pi) -> None:
    assert pi.services.is_active("ssh")
    assert pi.services.status("ssh").pid > 1


def test_a_service_is_started_and_stopped(pi: Pi, service: str) -> None:
    assert not pi.services.is_active(service)
    pi.services.start(service)
    first = pi.services.status(service)
    assert (first.name, first.active, first.sub) == (service, "active", "running")
    assert first.description == "a service of a test"
    pi.services.restart(service)
    assert pi.services.status(service).pid not in (0, first.pid)
    pi.services.stop(service)
    assert pi.services.status(service).active == "inactive"
    assert "it begins" in pi.services.journal(service)


def test_a_service_that_fails_is_an_error_with_its_last_words(pi: Pi, service: str) -> None:
    install(pi, "echo it ends badly; exit 3", "oneshot")
    with pytest.raises(CommandFailed) as caught:
        pi.services.start(service)
    assert "it ends badly" in (caught.value.output or "")
    assert pi.services.status(service).result == "exit-code"


def test_a_service_that_there_is_not(pi: Pi) -> None:
    assert pi.services.status("no-such-thing").load == "not-found"
    assert not pi.services.is_active("no-such-thing")
    with pytest.raises(CommandFailed, match=r"(?i)no-such-thing"):
        pi.services.start("no-such-thing")
