"""Removing many things at once: each kind's together, in an order in which nothing is used any more."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from ..deadline import Deadline
from ..model import Kind, Resource

_PARALLEL = 8

Removers = Mapping[Kind, Callable[[Resource, Deadline], None]]
"""What removes a resource of each kind, in the order in which they can be removed."""


def remove_all(removers: Removers, resources: Sequence[Resource], deadline: Deadline) -> None:
    """Remove resources, those of a kind at the same time; raises the first error after all were tried."""
    failures = []
    for kind, remove in removers.items():
        chosen = [resource for resource in resources if resource.kind is kind]
        with ThreadPoolExecutor(min(_PARALLEL, len(chosen) or 1)) as pool:
            removals = [pool.submit(remove, each, deadline) for each in chosen]
        failures += [failure for failure in (removal.exception() for removal in removals) if failure]
    if failures:
        raise failures[0]
