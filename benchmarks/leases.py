"""What it costs that nothing is left, and how soon a test has a machine that was made ahead."""

from __future__ import annotations

import time
from collections.abc import Iterator

from pytest_rexxinfra import Spec
from pytest_rexxinfra.custody import RunCustodian
from pytest_rexxinfra.deadline import Deadline
from pytest_rexxinfra.lab import Lab
from pytest_rexxinfra.ledger import Ledger
from pytest_rexxinfra.model import Kind, Resource
from pytest_rexxinfra.pool import Order
from pytest_rexxinfra.settings import Settings

from .bench import IMAGE, Bench
from .measure import Goal, Row, Samples

NAME = "leases"

_MACHINES = 20
_COST = Goal(5, "ms")
_WAIT = Goal(10, "ms")


def rows(bench: Bench) -> Iterator[Row]:
    ledger = Ledger(bench.folder / "ledger.sqlite3")
    costs = Samples(tuple(_run(ledger, f"bench-{number}") / _MACHINES for number in range(bench.rounds)))
    what = f"ledger, reaper and labels, a machine (runs of {_MACHINES}, with the start and end of the reaper)"
    yield Row(what, str(costs), "", None, _COST, costs.median * 1000, costs.quartiles)
    assert bench.image
    for target in (f"docker:{IMAGE}", "local"):
        waits = Samples(tuple(_waits(target, bench.rounds)))
        what = f"a test gets a {target} machine that is in the pool"
        yield Row(what, str(waits), "", None, _WAIT, waits.median * 1000, waits.quartiles)


def _run(ledger: Ledger, run: str) -> float:
    """Seconds for all that is written and told about the machines of one run; the machines are not made."""
    started = time.perf_counter()
    custodian = RunCustodian(run, {})
    for _ in range(_MACHINES):
        lease = Resource.lease_for("bench", Kind.MACHINE, run)
        lease.labels()
        custodian.open(lease, Deadline(10))
        ledger.intend(lease, "spec")
        ledger.made(lease)
        custodian.made(lease)
        ledger.destroyed([lease.lease])
        custodian.closed([lease.lease])
        ledger.closed([lease.lease])
    custodian.finish(clean=True)
    return time.perf_counter() - started


def _waits(target: str, rounds: int) -> Iterator[float]:
    with Lab(Settings(target=target)) as lab:
        order = Order(lab.targets[0], Spec(), rexx=False)
        lab.dispose(lab.take(order))
        for _ in range(rounds):
            lab.expect([order] * 2)
            Deadline(60).wait_for(lambda: lab.pool.ready == 2, "the pool to be filled")
            started = time.perf_counter()
            machine = lab.take(order)
            yield time.perf_counter() - started
            machine.run("true", check=True)
            lab.dispose(machine)
