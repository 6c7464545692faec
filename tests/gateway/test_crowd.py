from __future__ import annotations

import asyncio
import time

import aiohttp

from agent import wire
from gateway import keys
from tests.gateway.harness import ControlPlane, GatewayProcess, bearer, token

WORKERS = 1_000


def test_a_thousand_parked_polls_each_get_exactly_their_own_message(
    gateway: GatewayProcess, control: ControlPlane
) -> None:
    workers = [f"w_{n}" for n in range(WORKERS)]
    with control.redis.pipeline(transaction=False) as pipeline:
        for worker in workers:
            pipeline.hset(keys.GATE, worker, '{"epoch": 1, "next_in_s": 30}')
        pipeline.execute()

    async def poll(session: aiohttp.ClientSession, worker: str) -> tuple[str, int, bytes]:
        async with session.post(f"{wire.QUEUE}?wait=25", headers=bearer(token(worker))) as answer:
            return worker, answer.status, await answer.read()

    def ring_all() -> None:
        with control.redis.pipeline(transaction=False) as pipeline:
            for worker in workers:
                pipeline.lpush(wire.queue_key(worker), f"for {worker}")
                pipeline.publish(keys.RINGS, worker)
            pipeline.execute()

    async def scene() -> tuple[list[tuple[str, int, bytes]], float]:
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(f"http://127.0.0.1:{gateway.port}", connector=connector) as session:
            polls = [asyncio.create_task(poll(session, worker)) for worker in workers]
            async with asyncio.timeout(60):
                while True:
                    async with session.get("/gateway/healthz") as health:
                        if (await health.json())["parked_polls"] == WORKERS:
                            break
                    await asyncio.sleep(0.05)
            began = time.monotonic()
            ring_all()
            return list(await asyncio.gather(*polls)), time.monotonic() - began

    answers, took_s = asyncio.run(scene())
    assert answers == [(worker, 200, f"for {worker}".encode()) for worker in workers]
    assert took_s < 10
    assert gateway.parked() == 0
    assert not control.redis.keys("w:*")
