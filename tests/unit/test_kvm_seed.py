"""What a cloud image is told: the disk and what is on it, what is refused before, and how the outcome is read."""

from __future__ import annotations

import email
import io
import json
import os
import subprocess
import sys
from email.message import Message
from pathlib import Path
from typing import Any

import pytest
import yaml
from pycdlib import PyCdlib

from pytest_rexxinfra.errors import ProvisionError, SystemUnavailable, UsageError
from pytest_rexxinfra.kvm.iso import iso_image
from pytest_rexxinfra.kvm.seed import Outcome, Seed, cloud_init_outcome

KEY = 'ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ8nTb it\'s "mine" $HOME'
DONE = {"v1": {"datasource": "DataSourceNoCloud [seed=/dev/vdb][dsmode=net]", "errors": []}}


def parts(seed: Seed) -> list[Message]:
    return list(email.message_from_bytes(seed.combined_data).walk())[1:]


def opened(image: bytes) -> PyCdlib:
    disk = PyCdlib()
    disk.open_fp(io.BytesIO(image))
    return disk


def read(disk: PyCdlib, path: str) -> bytes:
    content = io.BytesIO()
    disk.get_file_from_iso_fp(content, rr_path=path)
    return content.getvalue()


@pytest.fixture
def kit(tmp_path: Path) -> Path:
    """A directory like that of the guest agent."""
    folder = tmp_path / "kit"
    (folder / "lib").mkdir(parents=True)
    for name, content, mode in (
        ("agent", b"#!/bin/sh\n", 0o755),
        ("qemu-ga", os.urandom(5000), 0o755),
        ("lib/libglib-2.0.so.0", os.urandom(3000), 0o644),
        ("lib/libglib-2.0.so.0.7400", b"", 0o644),
    ):
        (folder / name).write_bytes(content)
        (folder / name).chmod(mode)
    return folder


@pytest.mark.parametrize(
    ("text", "media_type"),
    [
        ("#cloud-config\nruncmd:\n  - echo grüß dich\n", "text/cloud-config"),
        ("#cloud-config\r\nhostname: x\r\n", "text/cloud-config"),
        ("write_files: [{path: /a, content: '--==\n\n\n'}]", "text/cloud-config"),
        ("#cloud-config\n", "text/cloud-config"),
        ("#!/bin/sh\n: [{", "text/x-shellscript"),
        ("#!/usr/bin/python3\nprint('\\0')" + "x" * 5000, "text/x-shellscript"),
        ("## template: jinja\n#cloud-config\n{% if true %}\nhostname: x\n{% endif %}\n", "text/jinja2"),
    ],
)
def test_the_users_part_travels_byte_for_byte(text: str, media_type: str) -> None:
    ours, users = parts(Seed("i", "h", text))
    assert users.get_content_type() == media_type
    assert users.get_payload(decode=True) == text.encode()
    assert ours.get_content_type() == "text/cloud-boothook"


def test_without_user_data_there_is_only_our_part() -> None:
    (ours,) = parts(Seed("i", "h"))
    script = ours.get_payload(decode=True)
    assert isinstance(script, bytes)
    assert subprocess.run(["sh", "-n"], input=script).returncode == 0


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "is empty"),
        (" \n\t\n", "is empty"),
        ("#cloud-config\nruncmd: [echo\n", "no YAML.*line 3"),
        ("#cloud-config\nhostname: a\n\truncmd: b\n", "no YAML.*line 3"),
        ("#cloud-config\n- echo\n", "a list"),
        ("echo hello", "plain text"),
        ("#include\n# https://example.org/x", "nothing but comments"),
        ("#cloud-config\n42\n", "a single value"),
        ("#cloud-config\nx: !!python/object/apply:os.abort []\n", "no YAML"),
    ],
)
def test_user_data_that_cloud_init_would_pass_over_is_refused(text: str, told: str) -> None:
    with pytest.raises(UsageError, match=f"(?s){told}") as caught:
        Seed("i", "h", text)
    assert "#cloud-config" in str(caught.value.hint)


def test_without_a_reader_of_yaml_only_the_first_line_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "yaml", None)
    Seed("i", "h", "#cloud-config\nruncmd: [echo\n")
    with pytest.raises(UsageError, match="neither a cloud-config nor a script"):
        Seed("i", "h", "echo hello")


def test_meta_data_names_the_machine() -> None:
    assert yaml.safe_load(Seed("rexx-1", "grün").meta_data) == {"instance-id": "rexx-1", "local-hostname": "grün"}


def test_no_setting_is_read_as_a_command(tmp_path: Path) -> None:
    settings = Seed("rexx-1", "h", None, f" {KEY}\n", "ann; exit 3").settings
    (tmp_path / "settings").write_bytes(settings)
    script = '. "$0/settings" && printf "%s|%s|%s" "$lease" "$key" "$user"'
    told = subprocess.run(["sh", "-c", script, str(tmp_path)], capture_output=True)
    assert (told.returncode, told.stdout.decode()) == (0, f"rexx-1|{KEY}|ann; exit 3")


def test_the_disk_has_the_label_the_data_and_the_kit(kit: Path) -> None:
    seed = Seed("rexx-1", "h", "#!/bin/sh\n", KEY)
    image = seed.image(kit)
    # The primary volume descriptor (ECMA-119, 8.4).
    assert image[0x8000:0x8006] == b"\x01CD001"
    assert image[0x8028:0x8048].rstrip() == b"cidata"
    disk = opened(image)
    assert read(disk, "/meta-data") == seed.meta_data
    assert email.message_from_bytes(read(disk, "/user-data")).is_multipart()
    assert read(disk, "/rexxinfra/settings") == seed.settings
    for path in kit.rglob("*.*"):
        assert read(disk, f"/rexxinfra/{path.relative_to(kit)}") == path.read_bytes()
    for name in ("agent", "qemu-ga", "finish"):
        entry: Any = disk.get_record(rr_path=f"/rexxinfra/{name}")
        assert entry.rock_ridge.get_file_mode() & 0o777 == 0o755, name


def test_a_disk_keeps_long_names_deep_folders_and_empty_files(tmp_path: Path) -> None:
    deep = "/".join(f"{letter * 60}.folder" for letter in "abcde")
    files = {f"{deep}/{n}": f"content {n}".encode() for n in ("UPPER", "upper", "ü.txt", "a b", "x" * 100)}
    disk = opened(iso_image("LABEL", {**files, "empty": b""}))
    for name, content in files.items():
        assert read(disk, f"/{name}") == content
    assert read(disk, "/empty") == b""


def test_a_disk_without_its_library_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycdlib", None)
    with pytest.raises(SystemUnavailable, match="pycdlib") as caught:
        iso_image("x", {})
    assert "pip install" in str(caught.value.hint)


def test_a_good_end_has_neither_errors_nor_warnings() -> None:
    assert cloud_init_outcome(json.dumps(DONE).encode()) == Outcome()
    Outcome().check("ignored", "kvm:x")


def test_what_failed_is_told_with_the_end_of_the_output() -> None:
    failed = "('scripts-user', RuntimeError('Runparts: 1 failures (runcmd) in 1 attempted commands'))"
    told = {"v1": {**DONE["v1"], "errors": [failed]}}
    outcome = cloud_init_outcome(json.dumps(told).encode(), b"")
    assert outcome.errors == (failed,)
    with pytest.raises(ProvisionError) as caught:
        outcome.check("sh: 1: frobnicate: not found\n", "kvm:x")
    text = str(caught.value)
    assert "[kvm:x] cloud-init failed: ('scripts-user'" in text
    assert "frobnicate: not found" in text
    assert "/var/log/cloud-init-output.log" in text


def test_what_it_could_put_up_with_is_a_warning() -> None:
    # As cloud-init 24 writes it: the sum at the top, and the same at each stage.
    found = {"WARNING": ["Invalid cloud-config provided: runcmdd"], "DEPRECATED": ["sudo: false"]}
    status = {
        "v1": {
            "datasource": "nocloud",
            "stage": None,
            "recoverable_errors": found,
            "init": {"errors": [], "recoverable_errors": found, "start": 1.5, "finished": 2.5},
            "modules-final": {"errors": [], "recoverable_errors": {}, "start": 3.5, "finished": 4.5},
        }
    }
    outcome = cloud_init_outcome(json.dumps(DONE).encode(), json.dumps(status).encode())
    assert outcome == Outcome((), ("WARNING: Invalid cloud-config provided: runcmdd", "DEPRECATED: sudo: false"))


@pytest.mark.parametrize("result", [b"", b"{", b"[]", b"{}", b'{"v1": null}', b'{"v1": {"errors": []}}'])
def test_no_readable_result_is_no_success(result: bytes) -> None:
    (error,) = cloud_init_outcome(result, b"").errors
    assert "no readable result" in error


@pytest.mark.parametrize("status", [b"{", b"[]", b'{"v1": []}', b'{"v1": {"init": {"recoverable_errors": 3}}}'])
def test_an_unreadable_status_hides_no_result(status: bytes) -> None:
    assert cloud_init_outcome(json.dumps(DONE).encode(), status) == Outcome()


def test_a_seed_that_was_not_found_is_an_error() -> None:
    told = {"v1": {"datasource": "DataSourceNone", "errors": []}}
    assert cloud_init_outcome(json.dumps(told).encode()).errors == ("it did not find its seed",)
