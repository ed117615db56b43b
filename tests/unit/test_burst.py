"""Work that is done together, a moment later."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar

from akto_guardrails.burst import Burst


def test_work_waits_for_its_time_and_is_done_in_order() -> None:
    done: list[int] = []

    async def main() -> None:
        burst = Burst(0.05)
        for number in range(3):
            burst.add(lambda number=number: done.append(number))
        await asyncio.sleep(0)
        assert done == []
        await asyncio.sleep(0.2)
        assert done == [0, 1, 2]
        burst.add(lambda: done.append(3))
        await asyncio.sleep(0.2)

    asyncio.run(main())
    assert done == [0, 1, 2, 3]


def test_a_lot_of_work_does_not_wait() -> None:
    done: list[int] = []

    async def main() -> None:
        burst = Burst(60)
        for number in range(63):
            burst.add(lambda number=number: done.append(number))
        assert done == []
        burst.add(lambda: done.append(63))
        assert done == list(range(64))

    asyncio.run(main())


def test_it_can_be_done_at_once_and_is_not_done_again() -> None:
    done: list[int] = []

    async def main() -> None:
        burst = Burst(0.01)
        burst.add(lambda: done.append(1))
        burst.run()
        assert done == [1]
        await asyncio.sleep(0.05)

    asyncio.run(main())
    assert done == [1]


def test_without_a_time_nothing_waits() -> None:
    done: list[int] = []
    Burst(0).add(lambda: done.append(1))
    assert done == [1]


def test_work_that_work_adds_is_done_too() -> None:
    done: list[int] = []

    async def main() -> None:
        burst = Burst(0.01)
        burst.add(lambda: burst.add(lambda: done.append(1)))
        await asyncio.sleep(0.1)

    asyncio.run(main())
    assert done == [1]


def test_what_is_in_the_context_of_a_request_is_not_kept() -> None:
    variable: ContextVar[str] = ContextVar("variable", default="none")
    seen: list[str] = []

    async def main() -> None:
        burst = Burst(0.01)
        variable.set("a request's")
        burst.add(lambda: seen.append(variable.get()))
        await asyncio.sleep(0.1)

    asyncio.run(main())
    assert seen == ["none"]
