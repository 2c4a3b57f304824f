"""The table in its three forms, and how it was made."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from .measure import Row

_COLUMNS = ("what", "ours", "other", "ratio", "goal", "met")
_WIDTHS = (67, 36, 36, 8, 12, 3)
_PACKAGES = (
    "pytest-rexxinfra",
    "pytest",
    "pytest-xdist",
    "docker",
    "pytest-container",
    "testcontainers",
    "pytest-testinfra",
)
_TEXT = """\
# Performance

What the plugin costs, next to the tools that one would use without it. Ratios are what to look at: all
columns of a row were measured in turns (A B A B …) in one run, so that slow phases of a busy computer meet
all of them; times in ms, and goals in ms, mean little on a computer that has other work to do.
Figures are medians.

{table}

## How this was made

`{command}` wrote this page. {facts}

- Every container starts from the same local image. Everything was run once before it was measured.
- Pytest starts have ten times as many rounds, commands and local machines twice, pytest runs half (10 at least).
- pytest-container and testcontainers have the settings with which they are quickest: the image is local and
  is not looked for in a registry, process 1 is killed at once, and testcontainers runs without its reaper
  container (`TESTCONTAINERS_RYUK_DISABLED=true`), which would cost a container more per run. The pytest
  runs load no other plugin than the one they measure.
- Tests per second are of whole pytest runs, from the start of pytest to its end, by when every machine is gone;
  the rows compare times, so 0.5x is twice the tests per second. Such a run is long, so there are three rounds,
  after a run of a few tests that is not measured. The options of the plugin are the default ones, and each
  run has pytest-xdist besides its one plugin.
- The added time of a pytest start is the difference of the medians; its quartiles are those of the
  differences within a round, and when they are far apart the computer was too busy to tell a few
  milliseconds. Processor time suffers less from that; on an idle computer both are the same. No other
  installed plugin is loaded; what we depend on brings none (`pytest-testinfra` is an extra, and a plugin).
- A deployment is timed in a machine that is new, after another one had the same build. `docker cp` and
  copying are given the files of the build alone, without a `node` to run it.
- Python's bytecode is cached in all runs.
- `docker cp` and `put`/`get` work on the same container, and the place that is copied to is empty.
- `bwrap` gives a read-only view of the file system; a local machine and `unshare` give a writable one.

Goals are no tests: nothing fails when a busy computer misses one, unless `--strict` is given.
"""


def line(cells: Sequence[str] = _COLUMNS) -> str:
    """A row of the table for a terminal."""
    padded = (cell.replace("*", "").ljust(width) for cell, width in zip(cells, _WIDTHS, strict=True))
    return " | ".join(padded).rstrip()


def facts() -> dict[str, str]:
    """What the computer and the software are that were measured, without anything that names them."""
    numbers = re.match(r"[\d.]+", platform.release())
    found = {
        "cpus": str(os.cpu_count()),
        "kernel": f"{platform.system()} {numbers[0] if numbers else ''}".strip(),
        "python": platform.python_version(),
    }
    try:
        asked = ["docker", "version", "--format", "{{.Server.Version}}"]
        found["docker engine"] = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        found["docker engine"] = "none"
    for name in _PACKAGES:
        try:
            found["docker-py" if name == "docker" else name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def write_json(file: Path, measured: Sequence[tuple[str, Row]], rounds: int) -> None:
    rows = [
        {
            "subject": subject,
            "what": row.what,
            "ours": row.ours,
            "other": row.other,
            "ratio": row.ratio,
            "goal": str(row.goal) if row.goal else None,
            "value": row.value,
            "met": row.met,
            "ours_quartiles_s": row.ours_quartiles,
            "other_quartiles_s": row.other_quartiles,
        }
        for subject, row in measured
    ]
    file.write_text(json.dumps({"facts": facts(), "rounds": rounds, "rows": rows}, indent=2) + "\n")


def write_markdown(file: Path, measured: Sequence[tuple[str, Row]], command: str, build: str) -> None:
    lines = [_COLUMNS, ("---", "---", "---", "--:", "---", "---"), *(row.cells() for _, row in measured)]
    table = "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |" for cells in lines)
    what = {**facts(), "REXX build": build}
    text = "It ran with: " + ", ".join(f"{name} {value}" for name, value in what.items()) + "."
    file.write_text(_TEXT.format(table=table, command=command, facts=text))
