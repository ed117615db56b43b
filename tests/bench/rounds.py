"""One round of load on one proxy, believed only when Akto saw every request of it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final

from bench.load import Outcome
from bench.plan import Cell, Variant
from bench.stage import Proxy, Stage

_SETTLING_SECONDS: Final = 20


class NotGuarded(Exception):
    """What was measured is not what was to be measured."""


@dataclass(frozen=True)
class Round:
    """`answered`: of the `requests`, those while it was measured. `cpu_ms`: for each request, of all the proxy's
    processes, with the records and checks in the background. `akto_ms`: what a check took Akto itself.
    """

    variant: str
    requests: int
    answered: int
    throughput: float
    cpu_ms: float
    p50_ms: float
    p99_ms: float
    akto_ms: float = 0.0


def play(stage: Stage, proxy: Proxy, cell: Cell, lead: float, seconds: float) -> Round:
    """One round. Raises `NotGuarded` when a request was not answered, or not checked and recorded as it should be."""
    stage.akto.reset(cell.akto_ms)
    stage.model.reset(cell.model_ms)
    before = proxy.cpu()
    outcome = stage.load.play(stage.order(proxy, cell.connections, cell.prompt, lead, seconds))
    verify_answers(proxy.variant, outcome)
    counts = _settled(stage, proxy.variant, outcome.requests)
    cpu_ms = (proxy.cpu() - before) * 1000 / max(outcome.requests, 1)
    verify_counts(proxy.variant, outcome.requests, counts)
    return Round(
        proxy.variant.name,
        outcome.requests,
        outcome.answered,
        outcome.throughput,
        cpu_ms,
        outcome.p50_ms,
        outcome.p99_ms,
        stage.akto.check_ms(),
    )


def expected(variant: Variant, count: int) -> dict[str, int]:
    """What the mocks must have counted after `count` requests."""
    return {
        "calls": count,
        "checks": variant.checks * count,
        "answers": variant.answers * count,
        "records": variant.records * count,
        "strange": 0,
    }


def verify_answers(variant: Variant, outcome: Outcome) -> None:
    """Raises `NotGuarded` unless every request got its answer."""
    if outcome.failures:
        raise NotGuarded(f"{variant.name}: not answered as it should be: {'; '.join(outcome.failures[:3])}")


def verify_counts(variant: Variant, count: int, counts: dict[str, int]) -> None:
    """Raises `NotGuarded` unless the mocks saw what they must see of `count` requests."""
    if counts != expected(variant, count):
        raise NotGuarded(f"{variant.name}: after {count} requests the mocks have counted {counts}")


def _settled(stage: Stage, variant: Variant, count: int) -> dict[str, int]:
    """The mocks' counts once the last records are there, or after a while."""
    deadline = time.monotonic() + _SETTLING_SECONDS
    while True:
        counts = stage.model.counts() | stage.akto.counts()
        if counts == expected(variant, count) or time.monotonic() > deadline:
            return counts
        time.sleep(0.05)
