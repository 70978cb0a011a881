"""A rest ends when it is over, when somebody says so, or when the process is awake shortly before."""

from __future__ import annotations

import asyncio

from swarm import run

from meshnet.rest import Rest

LONG = 3600.0


async def still(resting: asyncio.Task[None]) -> bool:
    """Whether it goes on after everything that could end it has been heard."""
    for _ in range(3):
        await asyncio.sleep(0)
    return not resting.done()


def test_a_rest() -> None:
    """Without a word it lasts as long as it was meant to."""

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        await Rest().take(0.05)
        assert loop.time() - began >= 0.05

    run(scenario)


def test_the_end_of_a_rest() -> None:
    """It ends when somebody says so, also before it began, and the next one is whole again."""

    async def scenario() -> None:
        rest = Rest()
        rest.end()
        await rest.take(LONG)
        resting = asyncio.create_task(rest.take(LONG))
        assert await still(resting)
        rest.end()
        await resting

    run(scenario)


def test_a_nudge() -> None:
    """Early in a rest it changes nothing, nor between two of them; in the last quarter it ends it."""

    async def scenario() -> None:
        rest = Rest()
        rest.nudge()
        resting = asyncio.create_task(rest.take(LONG))
        assert await still(resting)
        rest.nudge()
        assert await still(resting)
        resting.cancel()

        resting = asyncio.create_task(rest.take(2.0))
        assert await still(resting)
        loop = asyncio.get_running_loop()
        began = loop.time()
        while not resting.done():
            rest.nudge()
            await asyncio.sleep(0.01)
        assert 1.5 <= loop.time() - began < 2.0

    run(scenario)


def test_a_rest_that_was_given_up() -> None:
    """What is said after it was cancelled does not shorten the next one."""

    async def scenario() -> None:
        loop, rest = asyncio.get_running_loop(), Rest()
        resting = asyncio.create_task(rest.take(0.01))
        assert await still(resting)
        resting.cancel()
        ripe = asyncio.Event()
        loop.call_later(0.01, ripe.set)
        await ripe.wait()
        assert resting.cancelled()
        rest.nudge()
        resting = asyncio.create_task(rest.take(LONG))
        assert await still(resting)
        resting.cancel()

    run(scenario)
