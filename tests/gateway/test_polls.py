from __future__ import annotations

import asyncio
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from aiohttp.test_utils import make_mocked_request

from agent import wire
from gateway import keys
from gateway.broker import Broker, Taken
from gateway.lobby import Lobby
from gateway.polls import QueuePolls, wait_s
from gateway.tally import Tally
from gateway.tokens import Claims
from tests.gateway.harness import ControlPlane, GatewayProcess, bearer, token, until
from tests.servers import valkey


def test_message_that_waits_in_the_list_is_taken_at_once(
    gateway: GatewayProcess, control: ControlPlane
) -> None:
    control.admit("w_a")
    control.send("w_a", b'{"n": 1}')
    answer = gateway.poll(token("w_a"), wait=20)
    assert (answer.status, answer.body) == (200, b'{"n": 1}')
    assert control.waiting("w_a") == []


def test_bytes_arrive_as_they_were_sent_and_in_order(gateway: GatewayProcess, control: ControlPlane) -> None:
    control.admit("w_a")
    sent = [bytes(range(256)), b"\x00" * 100_000, b"{}"]
    for message in sent:
        control.send("w_a", message)
    assert [gateway.poll(token("w_a")).body for _ in sent] == sent


def test_ring_wakes_a_parked_poll_within_milliseconds(gateway: GatewayProcess, control: ControlPlane) -> None:
    control.admit("w_a")
    took_ms = []
    with ThreadPoolExecutor(1) as pool:
        for n in range(20):
            poll = pool.submit(gateway.poll, token("w_a"), 20)
            gateway.wait_parked(1)
            began = time.monotonic()
            control.send("w_a", b"%d" % n)
            assert poll.result().body == b"%d" % n
            took_ms.append((time.monotonic() - began) * 1000)
    assert sorted(took_ms)[10] < 50, took_ms


def test_poll_without_a_message_ends_with_204_when_its_time_is_over(
    gateway: GatewayProcess, control: ControlPlane
) -> None:
    control.admit("w_a")
    began = time.monotonic()
    answer = gateway.poll(token("w_a"), wait=0.2)
    assert (answer.status, answer.body) == (204, b"")
    assert 0.2 <= time.monotonic() - began < 2


def test_newer_poll_of_the_same_worker_ends_the_older_and_gets_the_message(
    gateway: GatewayProcess, control: ControlPlane
) -> None:
    control.admit("w_a")
    with ThreadPoolExecutor(2) as pool:
        older = pool.submit(gateway.poll, token("w_a"), 20)
        gateway.wait_parked(1)
        newer = pool.submit(gateway.poll, token("w_a"), 20)
        assert older.result().status == 204
        gateway.wait_parked(1)
        control.send("w_a", b"x")
        assert newer.result().body == b"x"


def test_poll_with_an_outdated_token_does_not_end_the_one_that_is_parked(
    gateway: GatewayProcess, control: ControlPlane
) -> None:
    control.admit("w_a", epoch=2)
    with ThreadPoolExecutor(1) as pool:
        current = pool.submit(gateway.poll, token("w_a", 2), 20)
        gateway.wait_parked(1)
        assert gateway.poll(token("w_a", 1)).status == 409
        control.send("w_a", b"x")
        assert current.result().body == b"x"


@pytest.mark.parametrize("verdict", ["revoked", "next_epoch"])
def test_revocation_ends_a_parked_poll_at_once(
    gateway: GatewayProcess, control: ControlPlane, verdict: str
) -> None:
    control.admit("w_a")
    control.admit("w_b")
    with ThreadPoolExecutor(2) as pool:
        parked = pool.submit(gateway.poll, token("w_a"), 20)
        other = pool.submit(gateway.poll, token("w_b"), 20)
        gateway.wait_parked(2)
        began = time.monotonic()
        if verdict == "revoked":
            control.revoke("w_a")
        else:
            control.admit("w_a", epoch=2)
            control.redis.publish(keys.REVOKED, "w_a")
        answer = parked.result()
        assert time.monotonic() - began < 1
        assert (answer.status, answer.json["code"]) == (409, wire.STAND_DOWN)
        assert gateway.parked() == 1, "another worker's poll stays parked"
        control.send("w_b", b"")
        other.result()


def test_revoked_worker_gets_no_message_even_when_rung(
    gateway: GatewayProcess, control: ControlPlane
) -> None:
    control.admit("w_a")
    with ThreadPoolExecutor(1) as pool:
        parked = pool.submit(gateway.poll, token("w_a"), 20)
        gateway.wait_parked(1)
        control.redis.hset(keys.GATE, "w_a", '{"epoch": -1, "next_in_s": 30}')  # the announcement was lost
        control.send("w_a", b"secret")
        assert parked.result().status == 409
    until("the message is back in its queue", lambda: control.waiting("w_a") == [b"secret"])


def test_worker_that_the_gate_does_not_know_is_sent_for_a_new_token(
    gateway: GatewayProcess, control: ControlPlane
) -> None:
    answer = gateway.poll(token("w_a"))
    assert (answer.status, answer.json["code"]) == (401, "token_expired")
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert set(answer.json) == {"code", "message", "hint"}


def test_client_that_leaves_frees_its_seat(gateway: GatewayProcess, control: ControlPlane) -> None:
    control.admit("w_a")
    with socket.create_connection(("127.0.0.1", gateway.port)) as client:
        head = (
            f"POST {wire.QUEUE}?wait=20 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token('w_a')}\r\n\r\n"
        )
        client.sendall(head.encode())
        gateway.wait_parked(1)
    gateway.wait_parked(0)
    control.send("w_a", b"x")
    assert gateway.poll(token("w_a")).body == b"x"


class SlowBroker(Broker):
    """The real one, which answers at `go` although the message has left the list."""

    def __init__(self, url: str) -> None:
        super().__init__(url, connections=4)
        self.taken, self.go = asyncio.Event(), asyncio.Event()

    async def take(self, worker_id: str) -> Taken:
        taken = await super().take(worker_id)
        self.taken.set()
        await self.go.wait()
        return taken


@pytest.mark.parametrize("why", ["client left", "newer poll", "process ends"])
def test_message_taken_for_a_poll_that_is_no_more_goes_back_to_be_next(
    broker: valkey.Valkey, control: ControlPlane, why: str
) -> None:
    control.admit("w_a")
    control.send("w_a", b"first")
    control.send("w_a", b"second")

    async def scene() -> None:
        slow, lobby, tally = SlowBroker(broker.url), Lobby(), Tally()
        polls = QueuePolls(broker=slow, lobby=lobby, tally=tally)
        request = make_mocked_request("POST", wire.QUEUE)
        poll = asyncio.create_task(polls.handle(request, query="wait=20", claims=Claims("w_a", 1)))
        await slow.taken.wait()
        if why == "client left":
            poll.cancel()  # as aiohttp does when a connection is lost
            await asyncio.wait([poll])
        elif why == "newer poll":
            with lobby.enter("w_a") as newer:
                lobby.seat(newer)
        else:
            lobby.close()
        slow.go.set()
        if why != "client left":
            assert (await poll).status == 204
        await polls.settle()
        assert (tally.returned, tally.delivered, len(lobby)) == (1, 0, 0)
        await slow.close()

    asyncio.run(scene())
    assert control.waiting("w_a") == [b"second", b"first"]


@pytest.mark.parametrize("wait", ["x", "-1", "nan", "1&" + "&".join("abcdefghij")])
def test_wait_that_is_no_time_is_refused_with_a_hint(
    gateway: GatewayProcess, control: ControlPlane, wait: str
) -> None:
    control.admit("w_a")
    answer = gateway.poll(token("w_a"), wait=wait)
    assert (answer.status, answer.json["code"]) == (400, "bad_request")


def test_wait_is_capped() -> None:
    assert wait_s("wait=3") == 3
    assert wait_s("") == wait_s("wait=99999") == wait_s("wait=inf") == wire.POLL_WAIT_LIMIT_S


def test_queue_takes_post_only(gateway: GatewayProcess) -> None:
    answer = gateway.request("GET", wire.QUEUE, headers=bearer(token("w_a")))
    assert (answer.status, answer.json["code"]) == (405, "method_not_allowed")
