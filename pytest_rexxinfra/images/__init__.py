"""Content-addressed root file systems from which every local system can start."""

from __future__ import annotations

from .recipe import Recipe
from .store import ImageStore, RootfsImage

__all__ = ["ImageStore", "Recipe", "RootfsImage"]
