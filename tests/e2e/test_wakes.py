"""A thousand people want the same sleeping instance at the same moment."""

import asyncio
import json
from collections import Counter

import aiohttp
import pytest

from tests.e2e.rented import nothing_was_risked

WAKES = 1_000


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_thousand_simultaneous_wakes_rent_one_box(installation, rent):
    rented = rent("popular")
    before = rented.fill(seed=2)
    rented.hibernate()
    rented.until("hibernated")
    rented_before = rented.host_said()["rented"]
    answers, took_s = asyncio.run(
        ask_all(f"{installation.url}/api/instances/{rented.id}/wake", rented.client.token)
    )
    rented.until("running")
    print(
        f"\n{WAKES} wakes in {took_s:.1f} s: {dict(answers)}; boxes rented: {rented.host_said()['rented'] - rented_before}"
    )
    # "503": an overloaded machine may say "come back", which starts nothing either. "409 running": the crowd's last
    # are answered after the wake has ended.
    assert set(answers) <= {"202", "429", "503", "409 running"}
    assert answers["202"] >= 1
    assert rented.host_said()["rented"] == rented_before + 1
    assert [chain["kind"] for chain in rented.client.chains(rented.id)].count("wake") == 1
    assert len(rented.boxes()) == 2
    assert rented.differences(before) == []
    nothing_was_risked(rented)


async def ask_all(url, token):
    """How often each status was answered; a refusal is followed by the state that it names. All connections are open
    before the first request goes out."""
    gate = asyncio.Event()
    ready = asyncio.Semaphore(0)
    timeout = aiohttp.ClientTimeout(total=120)
    headers = {"Authorization": f"Bearer {token}"}

    async def ask(session):
        async with session.get(url.partition("/api/")[0] + "/gateway/healthz") as warm:
            await warm.read()
        ready.release()
        await gate.wait()
        async with session.post(url, json={}, headers=headers) as answer:
            body = await answer.read()
            found = json.loads(body).get("found", "") if answer.status == 409 else ""
            return f"{answer.status} {found}".strip()

    async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0)) as session:
        asked = [asyncio.ensure_future(ask(session)) for _ in range(WAKES)]
        for _ in range(WAKES):
            await ready.acquire()
        began_s = asyncio.get_running_loop().time()
        gate.set()
        answers = Counter(await asyncio.gather(*asked))
        return answers, asyncio.get_running_loop().time() - began_s
