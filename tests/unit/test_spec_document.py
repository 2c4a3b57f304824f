"""A spec as a document: nothing is lost but secrets, and nothing senseless becomes a spec."""

from __future__ import annotations

import json
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any

import pytest

from pytest_rexxinfra.errors import RexxInfraError
from pytest_rexxinfra.hardware import Disk, Hardware, Nic
from pytest_rexxinfra.model import Health, Placement, Power, Spec, Volume
from pytest_rexxinfra.rexx.build import Build
from pytest_rexxinfra.spec_document import HIDDEN, from_document, from_text, to_document, to_text

BUILD = Build("RexxJS 1a2b3c4", "rexxjs", "checkout", "d" * 64, Path("/secret/place"), "cli.js", True)

# Which of these exclude each other is not looked at here.
FULL = Spec(
    image="debian-12",
    memory=512 << 20,
    cpus=1.5,
    pids=100,
    network="rexx-net-0123456789ab",
    ports=(80, 443),
    egress=(),
    volumes=(Volume("/data", "/srv", True), Volume("named", "/var/named")),
    command=("/bin/sh", "-c", "echo 'ü' \x07"),
    health=Health("true", interval=2.0),
    user="www",
    hostname="web",
    boot=True,
    privileged=True,
    host_pid=True,
    hardware=Hardware(
        kernel="/boot/vmlinuz",
        initrd="/boot/initrd",
        cmdline="console=ttyS0",
        disks=(Disk("1g", "scsi"), Disk("/image.qcow2", read_only=True)),
        cdroms=("/seed.iso",),
        nics=(Nic("bridge", "br0", "52:54:00:12:34:56"), Nic()),
        vnc=True,
    ),
    channel="ssh",
    placement=Placement("pack", "host1", {"disk": "ssd"}, "team"),
    power=Power.PAUSED,
    labels={"snake_case": "stays", "on": "off"},
    baked="rexx-baked:1",
    handed_on=True,
    address="pi@board",
    leaves_running=True,
)
SECRET = {"env", "user_data", "build"}
JOINED = Spec(pod="rexx-pod-0123456789ab")
"""What goes with no egress."""


def default(each: Field[Any]) -> Any:
    return each.default_factory() if each.default_factory is not MISSING else each.default


def test_every_field_comes_back() -> None:
    plain = {each.name for each in fields(Spec) if getattr(FULL, each.name) == default(each)}
    assert plain == SECRET | {"pod"}, "a new field of Spec belongs into this test"
    assert from_text(to_text(FULL)) == FULL
    assert from_text(to_text(JOINED)) == JOINED
    assert from_document(to_document(Spec())) == Spec()


def test_only_what_was_asked_is_written() -> None:
    assert to_document(Spec()) == {"power": "running"}
    assert to_document(Spec.of(memory="1.5g", egress=[], kernel=__file__, disks="2g")) == {
        "power": "running",
        "memory": 3 << 29,
        "egress": [],
        "hardware": {"kernel": __file__, "disks": [{"source": "2g"}]},
    }
    assert to_document(FULL)["health"] == {"command": "true", "interval": 2.0}
    assert to_document(FULL)["hostPid"] is True


def test_text_is_one_line_of_printable_ascii() -> None:
    text = to_text(FULL.but(user="\udc80\n"))
    assert text.isascii()
    assert text.isprintable()
    assert from_text(text).user == "\udc80\n"


def test_secrets_are_not_written() -> None:
    spec = Spec(env={"TOKEN": "s3cret-one", "EMPTY": ""}, user_data="#cloud-config\npassword: s3cret-two", build=BUILD)
    text = to_text(spec)
    assert "s3cret" not in text
    assert "/secret/place" not in text
    document = json.loads(text)
    assert document == {
        "power": "running",
        "env": {"TOKEN": HIDDEN, "EMPTY": HIDDEN},
        "userData": HIDDEN,
        "build": {"label": "RexxJS 1a2b3c4", "digest": "d" * 64},
    }
    back = from_document(document)
    assert back == Spec(env={"TOKEN": HIDDEN, "EMPTY": HIDDEN}, user_data=HIDDEN)
    assert back.wants() == spec.wants()
    assert to_document(back) == {name: value for name, value in document.items() if name != "build"}


def test_what_a_newer_version_adds_is_left_out() -> None:
    document = to_document(FULL)
    document["gpu"] = {"count": 2}
    document["hardware"]["tpm"] = "2.0"
    document["hardware"]["disks"][0]["iops"] = 100
    document["build"] = "in another way"
    assert from_document(document) == FULL


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"memory": "much"}, "spec.memory cannot be 'much'"),
        ({"memory": True}, "spec.memory cannot be True"),
        ({"boot": 1}, "spec.boot cannot be 1"),
        ({"power": "dancing"}, "spec.power cannot be 'dancing'"),
        ({"power": None}, "spec.power cannot be None"),
        ({"power": []}, "spec.power cannot be []"),
        ({"env": ["TOKEN"]}, "spec.env is no object"),
        ({"labels": {"a": 1}}, "spec.labels.a cannot be 1"),
        ({"command": "true"}, "spec.command is no list"),
        ({"ports": [80, "81"]}, "spec.ports[1] cannot be '81'"),
        ({"volumes": [{"target": "/srv"}]}, "spec.volumes[0] lacks something"),
        ({"health": "true"}, "spec.health is no object"),
        ({"hardware": {"disks": [{"source": "1g"}, {"source": 5}]}}, "spec.hardware.disks[1].source cannot be 5"),
        ({"hardware": {"firmware": "coreboot"}}, "firmware: 'coreboot' is not one of"),
    ],
)
def test_what_makes_no_sense_is_refused(changes: dict[str, Any], place: str) -> None:
    with pytest.raises(RexxInfraError) as raised:
        from_document({**to_document(Spec()), **changes})
    assert place in raised.value.message


@pytest.mark.parametrize("text", ["", "{", "[]", '"running"', "null"])
def test_text_that_is_no_document_is_refused(text: str) -> None:
    with pytest.raises(RexxInfraError, match="the spec that was kept makes no sense: spec is no"):
        from_text(text)
