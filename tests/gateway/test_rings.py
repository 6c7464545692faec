from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

import redis

from gateway import keys
from gateway.broker import subscription_client
from gateway.lobby import Lobby, Wake
from gateway.rings import Rings
from tests.servers import valkey


def with_rings(url: str, scene: Callable[[Rings, Lobby], Awaitable[None]], *, quiet_s: float) -> None:
    async def whole() -> None:
        client, lobby = subscription_client(url), Lobby()
        rings = Rings(client, lobby, quiet_s=quiet_s)
        running = asyncio.create_task(rings.run())
        try:
            await scene(rings, lobby)
        finally:
            running.cancel()
            await asyncio.wait([running])
            await client.aclose()

    asyncio.run(whole())


async def turns(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


def test_connection_that_went_silent_is_given_up_and_made_anew(tmp_path: Path) -> None:
    """A stopped process keeps its sockets open and answers nothing, as a peer behind a forgetful NAT."""
    server = valkey.start(tmp_path)

    async def scene(rings: Rings, lobby: Lobby) -> None:
        await turns(lambda: rings.connected is True)
        with lobby.enter("w_a") as waiter:
            os.kill(server.pid, signal.SIGSTOP)
            try:
                await turns(lambda: rings.connected is False)
            finally:
                os.kill(server.pid, signal.SIGCONT)
            assert await waiter.wait(until=asyncio.get_running_loop().time() + 10) is Wake.LOOK
            assert rings.connected is True

    try:
        with_rings(server.url, scene, quiet_s=0.1)
    finally:
        server.stop()


def test_quiet_connection_is_kept(broker: valkey.Valkey) -> None:
    async def scene(rings: Rings, lobby: Lobby) -> None:
        await turns(lambda: rings.connected is True)
        with redis.Redis.from_url(broker.url) as client:
            before = client.info("stats")["total_connections_received"]
            await asyncio.sleep(0.3)  # fifteen times the quiet that is tolerated without a PING
            assert client.info("stats")["total_connections_received"] == before
            with lobby.enter("w_a") as waiter:
                client.publish(keys.REVOKED, "w_a")
                assert await waiter.wait(until=asyncio.get_running_loop().time() + 10) is Wake.LOOK
        assert rings.connected is True

    with_rings(broker.url, scene, quiet_s=0.02)


def test_ring_for_a_name_that_is_no_text_harms_nobody(broker: valkey.Valkey) -> None:
    async def scene(rings: Rings, lobby: Lobby) -> None:
        await turns(lambda: rings.connected is True)
        with redis.Redis.from_url(broker.url) as client, lobby.enter("w_a") as waiter:
            client.publish(keys.RINGS, b"\xff\xfe")
            client.publish(keys.RINGS, b"")
            client.publish(keys.RINGS, "w_a")
            assert await waiter.wait(until=asyncio.get_running_loop().time() + 10) is Wake.LOOK

    with_rings(broker.url, scene, quiet_s=10)
