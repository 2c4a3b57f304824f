"""Fixtures that several unit tests share."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("REXX_CACHE", str(folder))
    return folder


@pytest.fixture
def public_folder() -> Iterator[Path]:
    """A directory that is not below one which only root may enter, as pytest's own are."""
    folder = Path(tempfile.mkdtemp())
    yield folder
    shutil.rmtree(folder)
