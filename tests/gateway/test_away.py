"""Redis or Django away: 503 with Retry-After; back again: everything works, without a restart of the gateway."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import aiohttp
import pytest
import redis

from gateway import keys
from gateway.app import Gateway
from gateway.settings import Limits, Settings, Upstream
from tests.gateway.harness import KEY, KID, Answer, ControlPlane, GatewayProcess, token, until
from tests.gateway.web import Web
from tests.servers import valkey


@pytest.fixture(scope="module")
def own_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[valkey.Valkey]:
    server = valkey.start(tmp_path_factory.mktemp("vk"))
    yield server
    server.stop()


@pytest.fixture(scope="module")
def own_gateway(own_broker: valkey.Valkey, web_server: Web) -> Iterator[GatewayProcess]:
    """One for all tests here: each leaves Redis running, and so must the gateway be."""
    process = GatewayProcess(upstream=str(web_server.path), redis_url=own_broker.url)
    yield process
    process.close()


@pytest.fixture
def own_control(own_broker: valkey.Valkey, own_gateway: GatewayProcess) -> Iterator[ControlPlane]:
    until("the subscription", lambda: own_gateway.request("GET", "/gateway/healthz").json["redis"])
    client = redis.Redis.from_url(own_broker.url)
    client.flushall()
    yield ControlPlane(client)
    client.close()


def assert_away(answer: Answer, code: str) -> None:
    assert (answer.status, answer.json["code"]) == (503, code)
    assert int(answer.headers["Retry-After"]) >= 1
    assert set(answer.json) == {"code", "message", "hint"}


@pytest.mark.slow
@pytest.mark.usefixtures("web")
def test_redis_killed_and_back(
    own_broker: valkey.Valkey, own_gateway: GatewayProcess, own_control: ControlPlane
) -> None:
    own_control.admit("w_a")
    assert own_gateway.poll(token("w_a")).status == 204
    own_broker.kill()
    assert_away(own_gateway.poll(token("w_a")), "broker_away")
    assert_away(own_gateway.post(token("w_a"), {"worker_id": "w_a", "epoch": 1}), "broker_away")
    assert own_gateway.request("GET", "/echo").status == 200, "Django does not need Redis here"
    assert own_gateway.request("GET", "/gateway/healthz").json["redis"] is False

    said = len(own_gateway.log)
    own_broker.restart()
    answer = own_gateway.poll(token("w_a"))
    assert (answer.status, answer.json["code"]) == (401, "token_expired"), (
        "Redis lost its data: Django writes the gate anew"
    )
    own_control.admit("w_a")
    assert own_gateway.post(token("w_a"), {"worker_id": "w_a", "epoch": 1}).status == 200
    own_gateway.wait_for("redis connected", after=said)
    assert own_gateway.request("GET", "/gateway/healthz").json["redis"] is True
    with ThreadPoolExecutor(1) as pool:
        poll = pool.submit(own_gateway.poll, token("w_a"), 20)
        own_gateway.wait_parked(1)
        own_control.send("w_a", b"x")
        assert poll.result().body == b"x", "the subscription is back too"


def test_message_whose_ring_was_missed_while_the_subscription_was_down_is_found_on_its_return(
    own_gateway: GatewayProcess, own_control: ControlPlane
) -> None:
    own_control.admit("w_a")
    with ThreadPoolExecutor(1) as pool:
        poll = pool.submit(own_gateway.poll, token("w_a"), 20)
        own_gateway.wait_parked(1)
        own_control.send("w_a", b"unheard", ring=False)
        assert own_gateway.parked() == 1
        own_control.redis.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        assert poll.result().body == b"unheard"


def test_revocation_that_was_missed_is_found_on_the_subscriptions_return(
    own_gateway: GatewayProcess, own_control: ControlPlane
) -> None:
    own_control.admit("w_a")
    with ThreadPoolExecutor(1) as pool:
        poll = pool.submit(own_gateway.poll, token("w_a"), 20)
        own_gateway.wait_parked(1)
        own_control.redis.hdel(keys.GATE, "w_a")
        own_control.redis.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        assert poll.result().status == 401


def test_parked_polls_outlive_a_restart_of_redis(
    own_broker: valkey.Valkey, own_gateway: GatewayProcess, own_control: ControlPlane
) -> None:
    own_control.admit("w_a")
    with ThreadPoolExecutor(1) as pool:
        poll = pool.submit(own_gateway.poll, token("w_a"), 20)
        own_gateway.wait_parked(1)
        said = len(own_gateway.log)
        own_broker.kill()
        own_gateway.wait_for("redis away", after=said)
        assert own_gateway.parked() == 1
        own_broker.restart()
        assert poll.result().status == 401, "it looked again, and the data are gone"


def test_broker_that_is_full_is_away_for_posts(
    own_gateway: GatewayProcess, own_control: ControlPlane
) -> None:
    own_control.admit("w_a")
    own_control.redis.config_set("maxmemory", 1)
    assert_away(own_gateway.post(token("w_a"), {"worker_id": "w_a", "epoch": 1}), "broker_away")
    own_control.redis.config_set("maxmemory", 0)
    assert own_gateway.post(token("w_a"), {"worker_id": "w_a", "epoch": 1}).status == 200


@pytest.mark.slow
def test_redis_that_hangs_is_away_after_seconds_and_no_longer(
    own_broker: valkey.Valkey, own_gateway: GatewayProcess, own_control: ControlPlane
) -> None:
    own_control.admit("w_a")
    os.kill(own_broker.pid, signal.SIGSTOP)
    try:
        assert_away(own_gateway.poll(token("w_a"), timeout_s=30), "broker_away")
    finally:
        os.kill(own_broker.pid, signal.SIGCONT)
    until("an answer", lambda: own_gateway.poll(token("w_a")).status == 204, within_s=20)


def test_django_down_and_up_again(
    tmp_path: Path, broker: valkey.Valkey, control: ControlPlane, make_gateway: Callable[..., GatewayProcess]
) -> None:
    gateway = make_gateway(upstream=str(tmp_path / "w.sock"))
    control.admit("w_a")
    assert_away(gateway.request("GET", "/"), "web_away")
    assert_away(gateway.request("POST", "/", body=b"x" * 300_000), "web_away")
    assert gateway.poll(token("w_a")).status == 204, "the agents' hot paths do not need Django"
    assert gateway.request("GET", "/gateway/healthz").json["web"] is False
    for _ in range(2):
        web = Web(tmp_path / "w.sock")
        assert gateway.request("GET", "/echo").status == 200
        web.stop()
        assert_away(gateway.request("GET", "/echo"), "web_away")
    (tmp_path / "w.sock").touch()  # something that is no socket, left behind
    assert_away(gateway.request("GET", "/echo"), "web_away")


def test_gateway_starts_before_redis_and_django(
    tmp_path: Path, make_gateway: Callable[..., GatewayProcess]
) -> None:
    server = valkey.Valkey(tmp_path)
    gateway = make_gateway(redis_url=server.url, upstream=str(tmp_path / "w.sock"))
    assert_away(gateway.poll(token("w_a")), "broker_away")
    assert_away(gateway.request("GET", "/"), "web_away")
    health = gateway.request("GET", "/gateway/healthz")
    assert (health.status, health.json) == (
        200,
        {"status": "ok", "redis": False, "web": False, "parked_polls": 0},
    )
    server.restart()
    try:
        gateway.wait_for("redis connected")
        assert gateway.poll(token("w_a")).status == 401
    finally:
        server.stop()


@pytest.mark.slow
def test_django_on_a_port(
    web: Web, make_gateway: Callable[..., GatewayProcess], gateway: GatewayProcess
) -> None:
    """The other form of DORMOUSE_UPSTREAM; another gateway stands in for Django."""
    front = make_gateway(upstream=f"http://127.0.0.1:{gateway.port}", DORMOUSE_TRUSTED_PROXIES="1")
    told = front.request("GET", "/echo?a=%2F", headers={"X-Forwarded-For": "6.6.6.6, 7.7.7.7"}).json
    assert told["line"] == "GET /echo?a=%2F HTTP/1.1"
    assert front.request("GET", "/gateway/healthz").json["web"] is True


def test_request_that_finds_every_connection_to_django_taken_is_put_off(
    web: Web, broker: valkey.Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.passthrough.QUEUE_TIMEOUT_S", 0.1)
    settings = Settings(
        listen_host="127.0.0.1",
        listen_port=0,
        upstream=Upstream(socket_path=str(web.path)),
        redis_url=broker.url,
        agent_keys={KID: KEY},
        limits=Limits(web_connections=1),
    )

    async def scene() -> None:
        gateway = Gateway(settings)
        host, port = await gateway.start()
        async with aiohttp.ClientSession(f"http://{host}:{port}") as session:
            taken = asyncio.create_task(session.get("/hold"))
            await asyncio.to_thread(web.held.wait, 10)
            async with session.get("/echo") as answer:
                assert (answer.status, (await answer.json())["code"]) == (503, "web_away")
            web.release.set()
            async with await taken as answer:
                assert answer.status == 200
        await gateway.stop()

    asyncio.run(scene())
