from __future__ import annotations

import asyncio

from gateway.lobby import Lobby, Wake


def soon() -> float:
    return asyncio.get_running_loop().time() + 20


def test_wake_that_comes_while_the_poll_looks_elsewhere_is_not_lost() -> None:
    async def scene() -> None:
        lobby = Lobby()
        with lobby.enter("w_a") as waiter:
            lobby.look("w_a")
            assert await waiter.wait(until=soon()) is Wake.LOOK
            assert await waiter.wait(until=0) is Wake.TIME, "a wake counts once"

    asyncio.run(scene())


def test_look_wakes_one_worker_look_all_wakes_everybody() -> None:
    async def scene() -> None:
        lobby = Lobby()
        with lobby.enter("w_a") as a, lobby.enter("w_b") as b:
            waits = [asyncio.create_task(waiter.wait(until=soon())) for waiter in (a, b)]
            await asyncio.sleep(0)
            assert lobby.parked == 2
            lobby.look("w_a")
            lobby.look("w_unknown")
            assert await waits[0] is Wake.LOOK
            assert not waits[1].done()
            lobby.look_all()
            assert await waits[1] is Wake.LOOK
        assert (len(lobby), lobby.parked) == (0, 0)

    asyncio.run(scene())


def test_taking_the_seat_ends_only_the_polls_that_came_before() -> None:
    lobby = Lobby()
    with lobby.enter("w_a") as first, lobby.enter("w_a") as second, lobby.enter("w_a") as third:
        lobby.seat(second)
        assert (first.ended, second.ended, third.ended) == (True, False, False)
        lobby.seat(first)
        assert not second.ended


def test_end_for_good_is_told_before_anything_else_and_for_ever() -> None:
    async def scene() -> None:
        lobby = Lobby()
        with lobby.enter("w_a") as waiter:
            lobby.look("w_a")
            lobby.close()
            lobby.look("w_a")
            assert await waiter.wait(until=soon()) is Wake.CLOSING
            assert await waiter.wait(until=soon()) is Wake.CLOSING
        with lobby.enter("w_b") as late:
            assert late.ended, "who enters a closed lobby is ended already"

    asyncio.run(scene())


def test_time_does_not_hide_a_ring() -> None:
    async def scene() -> None:
        lobby = Lobby()
        with lobby.enter("w_a") as waiter:
            wait = asyncio.create_task(waiter.wait(until=0))
            await asyncio.sleep(0)
            lobby.look("w_a")  # in the same turn of the loop as the timer, and before it
            assert await wait is Wake.LOOK

    asyncio.run(scene())


def test_cancelled_poll_leaves_nothing_behind() -> None:
    async def scene() -> None:
        lobby = Lobby()

        async def poll() -> None:
            with lobby.enter("w_a") as waiter:
                await waiter.wait(until=soon())

        task = asyncio.create_task(poll())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        assert (len(lobby), lobby.parked) == (0, 0)

    asyncio.run(scene())
