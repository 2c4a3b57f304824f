"""Paths and users of a root file system, seen from outside."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_rexxinfra.errors import UsageError
from pytest_rexxinfra.systems.rooted import Account, account, inside


def test_links_stay_in_the_root(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "var").mkdir()
    (tmp_path / "var/run").symlink_to("/run")
    (tmp_path / "up").symlink_to("../../../etc")
    (tmp_path / "var/back").symlink_to("../run")
    assert inside(tmp_path, "/var/run/x") == tmp_path / "run/x"
    assert inside(tmp_path, "/up/passwd") == tmp_path / "etc/passwd"
    assert inside(tmp_path, "/var/back/x") == tmp_path / "run/x"
    assert inside(tmp_path, "/a/../../b/./c") == tmp_path / "b/c"


def test_links_in_a_ring_end(tmp_path: Path) -> None:
    (tmp_path / "one").symlink_to("two")
    (tmp_path / "two").symlink_to("one")
    assert inside(tmp_path, "/one").parent == tmp_path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text("broken\nroot:x:0:0:root:/root:/bin/sh\nweb:x:33:34::/var/www:/bin/false\n")
    (tmp_path / "etc/group").write_text("root:x:0:\nadm:x:4:\n")
    return tmp_path


@pytest.mark.parametrize(
    ("user", "found"),
    [
        ("web", Account("web", 33, 34, "/var/www")),
        ("33", Account("web", 33, 34, "/var/www")),
        ("web:adm", Account("web", 33, 4, "/var/www")),
        ("web:7", Account("web", 33, 7, "/var/www")),
        ("1234", Account("1234", 1234, 1234, "/")),
    ],
)
def test_users(root: Path, user: str, found: Account) -> None:
    assert account(root, user) == found


@pytest.mark.parametrize("user", ["nobody", "web:none", ""])
def test_users_that_are_none(root: Path, user: str) -> None:
    with pytest.raises(UsageError, match="there is no"):
        account(root, user)


def test_no_users_at_all(tmp_path: Path) -> None:
    assert account(tmp_path, "5") == Account("5", 5, 5, "/")
    with pytest.raises(UsageError, match="root"):
        account(tmp_path, "root")
