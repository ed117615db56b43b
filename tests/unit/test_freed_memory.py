"""Memory is given back some seconds after something long, and seldom."""

from __future__ import annotations

import asyncio

from akto_guardrails.freed_memory import FreedMemory, trim_of_the_c_library

LONG, SHORT = 65_536, 65_535


def trims_after(*sizes: int) -> int:
    """How often memory is given back when so much was used one after the other at once."""
    trims: list[None] = []

    async def main() -> None:
        memory = FreedMemory(lambda: trims.append(None), pause=0.01)
        for size in sizes:
            memory.used(size)
        assert not trims, "not while it is in use"
        await asyncio.sleep(0.05)

    asyncio.run(main())
    return len(trims)


def test_it_is_given_back_once_after_many_long_ones() -> None:
    assert trims_after(LONG, LONG, SHORT, LONG) == 1


def test_what_is_short_is_not_worth_it() -> None:
    assert trims_after(SHORT, SHORT) == 0


def test_it_is_given_back_again_after_the_next_long_one() -> None:
    trims: list[None] = []

    async def main() -> None:
        memory = FreedMemory(lambda: trims.append(None), pause=0.01)
        for _ in range(2):
            memory.used(LONG)
            await asyncio.sleep(0.05)

    asyncio.run(main())
    assert len(trims) == 2


def test_as_long_as_a_lot_is_in_use_it_is_given_back_again() -> None:
    trims: list[None] = []
    left = iter((LONG, LONG, SHORT, LONG))

    async def main() -> None:
        memory = FreedMemory(lambda: trims.append(None), lambda: next(left), pause=0.01)
        memory.used(LONG)
        await asyncio.sleep(0.2)

    asyncio.run(main())
    assert len(trims) == 3


def test_without_a_way_to_do_so_nothing_happens() -> None:
    FreedMemory(None).used(LONG)


def test_the_c_library_of_this_machine_has_one() -> None:
    trim = trim_of_the_c_library()
    assert trim is not None
    assert trim() in (0, 1)
