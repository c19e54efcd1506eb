"""Bytes held in memory by many tasks stay within their bound."""

from __future__ import annotations

import asyncio

import pytest

from storage.byte_budget import ByteBudget


async def test_holds_no_more_than_all() -> None:
    """Tasks that would exceed the bound together wait for each other, and all get their turn."""
    budget = ByteBudget(100)
    held = most = 0

    async def hold(wanted: int) -> None:
        nonlocal held, most
        async with budget.hold(wanted):
            held += wanted
            most = max(most, held)
            await asyncio.sleep(0.001)
            held -= wanted

    await asyncio.gather(*(hold(number % 60 + 1) for number in range(200)))
    assert held == 0
    assert 60 <= most <= 100


async def test_what_is_more_than_all_goes_alone() -> None:
    """A task that wants more than there is gets all of it, and nobody else any."""
    budget = ByteBudget(100)
    async with budget.hold(1000):
        assert not budget.try_hold(1)
    assert budget.try_hold(100)


async def test_serves_in_order() -> None:
    """A small wish does not overtake a large one that waits."""
    budget = ByteBudget(100)
    order = []

    async def hold(wanted: int) -> None:
        async with budget.hold(wanted):
            order.append(wanted)

    async with budget.hold(60):
        tasks = [asyncio.create_task(hold(wanted)) for wanted in (90, 10, 20)]
        await asyncio.sleep(0)
        assert not budget.try_hold(1)
        assert order == []
    await asyncio.gather(*tasks)
    assert order == [90, 10, 20]


@pytest.mark.parametrize("served", [False, True])
async def test_a_task_that_gives_up_keeps_nothing(served: bool) -> None:
    """A task cancelled while it waits, or just as it is served, lets the next one through."""
    budget = ByteBudget(100)

    async def hold() -> None:
        async with budget.hold(100):
            pass

    async with budget.hold(100):
        waiter, last = asyncio.create_task(hold()), asyncio.create_task(hold())
        await asyncio.sleep(0)
        if not served:
            waiter.cancel()
            await asyncio.sleep(0)
    if served:
        waiter.cancel()
    await last
    with pytest.raises(asyncio.CancelledError):
        await waiter
    assert budget.try_hold(100)
