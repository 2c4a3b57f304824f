"""How long removals may take."""

from __future__ import annotations

import os

LIMIT = float(os.environ.get("REXX_CHAOS_LIMIT", "2"))
"""Seconds after the end of a run within which everything must be gone; more for a computer with much else to do."""
