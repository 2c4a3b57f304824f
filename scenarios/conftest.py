"""Fixtures of the scenarios: which dialect of REXX is tested, and what to expect of it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pytest_rexxinfra.rexx.build import Build

from .handlers import Finding, counts, markdown, table
from .support import Expected


@pytest.fixture
def dialect(rexx_build: Build) -> str:
    """``rexxjs`` or ``regina``: the dialect of the build that is tested."""
    return rexx_build.dialect


@pytest.fixture
def expected(dialect: str) -> Expected:
    """``expected(rexxjs=…, regina=…)``: what the build that is tested should do."""
    return Expected(dialect)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What was found of the ADDRESS handlers: it is in the reports of their tests, also of those of xdist workers."""
    reports = [report for listed in terminalreporter.stats.values() for report in listed]
    rows = [
        row
        for report in reports
        if isinstance(report, pytest.TestReport) and report.when == "call"
        for name, row in report.user_properties
        if name == "handler"
    ]
    findings = sorted(map(Finding.of, rows), key=lambda finding: finding.place)
    if not findings:
        return
    terminalreporter.section("ADDRESS handlers")
    for line in table(findings) if terminalreporter.verbosity > 0 else counts(findings):
        terminalreporter.write_line(line)
    file = os.environ.get("REXX_HANDLERS_REPORT")
    if file:
        Path(file).write_text(markdown(findings))
