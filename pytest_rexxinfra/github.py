"""Failures as annotations of GitHub Actions, which shows them at the line that failed.

Format: https://docs.github.com/actions/reference/workflow-commands-for-github-actions#setting-an-error-message
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest

FAILED_AT = "rexx_failed_at"
"""The property of a test that says where, in a file that is no Python: ``path:line``."""

_OTHER_PLUGIN = "pytest_github_actions_annotate_failures"
_KEPT = 4000


def error_commands(stats: Mapping[str, Sequence[Any]], config: pytest.Config) -> Iterator[str]:
    """The workflow commands for the tests that failed, none if another plugin writes them."""
    if config.pluginmanager.hasplugin(_OTHER_PLUGIN):
        return
    for report in [*stats.get("failed", ()), *stats.get("error", ())]:
        if isinstance(report, pytest.TestReport):
            file, line = _place(report)
            # GitHub takes paths from the top of the repository.
            top = os.environ.get("GITHUB_WORKSPACE", config.rootpath)
            place = f"file={_property(os.path.relpath(config.rootpath / file, top))},line={line}"
            parameters = f"{place},title={_property(report.nodeid)}"
            yield f"::error {parameters}::{_message(report.longreprtext[-_KEPT:])}"


def _place(report: pytest.TestReport) -> tuple[str, int]:
    told = dict(report.user_properties).get(FAILED_AT)
    if isinstance(told, str):
        file, _, line = told.rpartition(":")
        return file, int(line)
    crash = getattr(report.longrepr, "reprcrash", None)
    file, start, _ = report.location
    same = crash is not None and str(crash.path).endswith(file)
    return file, crash.lineno if crash is not None and same else (start or 0) + 1


def _message(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _message(text).replace(":", "%3A").replace(",", "%2C")
