"""The examples of the documentation pass, and its links lead somewhere."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from unittest import mock

import pytest

from .. import sshd
from .conftest import Run, tally

ROOT = Path(__file__).parents[2]
PAGES = {str(page.relative_to(ROOT)): page.read_text() for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]}

_FENCED = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)
_PYTHON = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_TEST = re.compile(r"^def (test_\w+)", re.MULTILINE)
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)

EXAMPLES = {page: [block for block in _PYTHON.findall(text) if _TEST.search(block)] for page, text in PAGES.items()}
TARGETS = {
    "README.md": "local,docker",
    "docs/rexxfile.md": "docker",
    "docs/states.md": "nspawn,lxc",
    "docs/systems/docker.md": "docker",
    "docs/systems/incus.md": "incus",
    "docs/systems/kvm-storage.md": "kvm",
    "docs/systems/kvm.md": "kvm",
    "docs/systems/lxc.md": "lxc",
    "docs/systems/nspawn.md": "nspawn",
    "docs/systems/podman.md": "podman",
    "docs/systems/ssh.md": "ssh",
    "docs/systems/vagrant.md": "vagrant",
}
"""Where the examples of a page run, other than ``local``: what they need, some system must have."""


def _nothing() -> AbstractContextManager[Mapping[str, str]]:
    return nullcontext({})


GROUNDS: Mapping[str, Callable[[], AbstractContextManager[Mapping[str, str]]]] = {"docs/systems/ssh.md": sshd.ground}
"""What has to be there for the examples of a page; gives variables of the environment."""


@pytest.mark.parametrize("page", sorted(page for page, blocks in EXAMPLES.items() if blocks))
def test_examples(inner: Run, pytester: pytest.Pytester, page: str) -> None:
    blocks = EXAMPLES[page]
    pytester.makepyfile(**{f"test_block_{number}": block for number, block in enumerate(blocks)})
    with GROUNDS.get(page, _nothing)() as environment, mock.patch.dict(os.environ, environment):
        result = inner("", "-rp", f"--rexx-target={TARGETS.get(page, 'local')}")
    assert result.ret == 0, result.stdout.str()
    passed = {re.split(r"::|\[", line)[1] for line in result.outlines if line.startswith("PASSED ")}
    assert passed == {name for block in blocks for name in _TEST.findall(block)}
    assert tally(result)[2] == 0


def test_there_are_examples() -> None:
    assert sum(map(len, EXAMPLES.values())) >= 6


@pytest.mark.parametrize("page", sorted(PAGES))
def test_links(page: str) -> None:
    for link in _LINK.findall(_FENCED.sub("", PAGES[page])):
        if re.match(r"[a-z]+:", link):
            continue
        file, _, section = link.partition("#")
        target = (ROOT / page).parent / file if file else ROOT / page
        assert target.exists(), link
        if section:
            assert section in map(_anchor, _HEADING.findall(_FENCED.sub("", target.read_text()))), link


def _anchor(heading: str) -> str:
    """What GitHub calls a heading in a link."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
