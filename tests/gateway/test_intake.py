from __future__ import annotations

import asyncio
import json
import time
from unittest.mock import Mock

import pytest
from aiohttp import StreamReader
from aiohttp.test_utils import make_mocked_request

from agent import wire
from gateway import keys
from gateway.broker import Broker
from gateway.intake import StatusIntake
from gateway.pace import Pace
from gateway.tally import Tally
from gateway.tokens import Claims
from tests.gateway.harness import ControlPlane, GatewayProcess, bearer, token
from tests.servers import valkey

FULL = {
    "worker_id": "w_a",
    "epoch": 1,
    "timestamp": "2026-11-21T14:30:00Z",
    "instance_id": None,
    "session_runtime_hours": 3.45,
    "max_session_hours": 11.5,
    "gpu_util": 2.0,
    "status": "idle",
    "gpus": [
        {
            "index": 0,
            "name": "Tesla T4",
            "util": 2.0,
            "mem_used_bytes": 0,
            "mem_total_bytes": 16106127360,
            "temp_c": 41,
        }
    ],
    "cpu_util": 3.0,
    "net_bytes_per_s": 120,
    "disk_free_bytes": 0,
    "sessions": {"ssh": 0, "jupyter": 0},
    "jobs": ["a_1"],
    "health_url": None,
    "a_field_of_tomorrow": {"x": "y" * 1000},
}


def test_post_reaches_the_stream_and_the_answer_says_what_to_do(
    gateway: GatewayProcess, control: ControlPlane
) -> None:
    control.admit("w_a", next_in_s=12.5)
    orders = [{"kind": "cancel", "id": "d_1"}, {"kind": "drain", "id": ""}]
    control.redis.hset(keys.ORDERS, "w_a", json.dumps(orders))
    control.redis.hset(keys.ORDERS, "w_b", json.dumps([{"kind": "stand_down", "id": ""}]))
    began = time.time()
    answer = gateway.post(token("w_a"), FULL)
    assert (answer.status, answer.json) == (200, {"next_in_s": 12.5, "epoch": 1, "orders": orders})
    assert wire.StatusAnswer.from_json(answer.json).orders[0].id == "d_1"
    ((_, entry),) = control.redis.xrange(keys.STATUS_STREAM)
    assert json.loads(entry[b"body"]) == json.loads(json.dumps(wire.to_json(wire.StatusPost.from_json(FULL))))
    assert b"tomorrow" not in entry[b"body"]
    assert began - 1 <= float(entry[b"at"]) <= time.time() + 1


def test_worker_without_orders_gets_an_empty_list(gateway: GatewayProcess, control: ControlPlane) -> None:
    control.admit("w_a")
    assert gateway.post(token("w_a"), {"worker_id": "w_a", "epoch": 1}).json["orders"] == []


@pytest.mark.parametrize(
    "entry", ["{", "{}", '"x"', "[1]", '{"epoch": "1", "next_in_s": 1}', '{"epoch": 1, "next_in_s": "NaN"}']
)
def test_gate_entry_that_cannot_be_read_counts_as_none(
    gateway: GatewayProcess, control: ControlPlane, entry: str
) -> None:
    control.redis.hset(keys.GATE, "w_a", entry)
    answer = gateway.post(token("w_a"), {"worker_id": "w_a", "epoch": 1})
    assert (answer.status, answer.json["code"]) == (401, "token_expired")
    assert control.stream() == []


@pytest.mark.parametrize("orders", ["{", "{}", '"x"'])
def test_orders_that_cannot_be_read_do_not_stop_the_readings(
    gateway: GatewayProcess, control: ControlPlane, orders: str
) -> None:
    control.admit("w_a")
    control.redis.hset(keys.ORDERS, "w_a", orders)
    assert gateway.post(token("w_a"), {"worker_id": "w_a", "epoch": 1}).json["orders"] == []
    assert len(control.stream()) == 1


@pytest.mark.parametrize(
    ("gate", "status", "code"),
    [(None, 401, "token_expired"), (-1, 409, "stand_down"), (2, 409, "stand_down")],
)
def test_worker_that_may_not_post_leaves_nothing_in_the_stream(
    gateway: GatewayProcess, control: ControlPlane, gate: int | None, status: int, code: str
) -> None:
    if gate is not None:
        control.admit("w_a", epoch=gate)
    answer = gateway.post(token("w_a", 1), {"worker_id": "w_a", "epoch": 1})
    assert (answer.status, answer.json["code"]) == (status, code)
    assert control.stream() == []


def test_post_of_another_epoch_than_the_token_is_told_to_stand_down(
    gateway: GatewayProcess, control: ControlPlane
) -> None:
    control.admit("w_a", epoch=2)
    answer = gateway.post(token("w_a", 2), {"worker_id": "w_a", "epoch": 1})
    assert (answer.status, answer.json["code"]) == (409, wire.STAND_DOWN)
    assert control.stream() == []


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "bad_json"),
        (b"{", "bad_json"),
        (b"\xff\xfe", "bad_json"),
        (b"[" * 60_000, "bad_json"),
        (b"1" * 60_000, "bad_json"),
        (b"[]", "bad_status"),
        (b"null", "bad_status"),
        (b"{}", "bad_status"),
        (b'{"worker_id": "w_a"}', "bad_status"),
        (b'{"worker_id": "w_a", "epoch": "1"}', "bad_status"),
        (b'{"worker_id": "w_a", "epoch": -1}', "bad_status"),
        (b'{"worker_id": "w_a", "epoch": 1, "gpu_util": NaN}', "bad_status"),
        (b'{"worker_id": "w_a", "epoch": 1, "gpu_util": 101}', "bad_status"),
        (b'{"worker_id": "w_a", "epoch": 1, "cpu_util": 1e999}', "bad_status"),
        (b'{"worker_id": "w_a", "epoch": 1, "cpu_util": 1%s}' % (b"0" * 400), "bad_status"),
        (b'{"worker_id": "w_a", "epoch": 1, "gpus": [1]}', "bad_status"),
        (b'{"worker_id": ["w_a"], "epoch": 1}', "bad_status"),
    ],
    ids=lambda value: repr(value)[:60],
)
def test_malformed_post_is_refused_in_a_sentence(
    gateway: GatewayProcess, control: ControlPlane, body: bytes, code: str
) -> None:
    worker = f"w_{hash(body)}"  # each its own pace
    control.admit(worker)
    answer = gateway.post(token(worker), body.replace(b"w_a", worker.encode()))
    assert (answer.status, answer.json["code"]) == (400, code)
    assert set(answer.json) == {"code", "message", "hint"}
    assert all(answer.json.values())
    assert control.stream() == []


def test_body_over_the_limit_is_refused_declared_or_not(
    gateway: GatewayProcess, control: ControlPlane
) -> None:
    control.admit("w_a")
    fits = json.dumps({"worker_id": "w_a", "epoch": 1}).encode().ljust(wire.STATUS_BODY_LIMIT_BYTES)
    assert gateway.post(token("w_a"), fits).status == 200
    answer = gateway.post(token("w_a"), fits + b" ")
    assert (answer.status, answer.json["code"]) == (413, "body_too_large")
    chunked = gateway.request("POST", wire.STATUS, body=iter([fits, b" " * 10]), headers=bearer(token("w_a")))
    assert (chunked.status, chunked.json["code"]) == (413, "body_too_large")
    assert len(control.stream()) == 1


def test_packed_body_is_refused(gateway: GatewayProcess, control: ControlPlane) -> None:
    control.admit("w_a")
    answer = gateway.request(
        "POST", wire.STATUS, body=b"\x1f\x8b", headers=bearer(token("w_a")) | {"Content-Encoding": "gzip"}
    )
    assert (answer.status, answer.json["code"]) == (415, "bad_encoding")


def test_worker_that_posts_without_pause_is_slowed_down_and_no_other(
    gateway: GatewayProcess, control: ControlPlane
) -> None:
    for worker in ("w_loud", "w_calm"):
        control.admit(worker)
    answers = [gateway.post(token("w_loud"), {"worker_id": "w_loud", "epoch": 1}) for _ in range(60)]
    refused = [answer for answer in answers if answer.status == 429]
    assert refused and refused[0].json["code"] == "too_many_posts"
    assert int(refused[0].headers["Retry-After"]) >= 1
    assert len(control.stream()) == len(answers) - len(refused) >= 20
    assert gateway.post(token("w_calm"), {"worker_id": "w_calm", "epoch": 1}).status == 200


def test_clock_that_is_set_back_slows_nobody_down(broker: valkey.Valkey, control: ControlPlane) -> None:
    control.admit("w_a")

    async def posts() -> list[int]:
        client = Broker(broker.url, connections=4)
        intake = StatusIntake(broker=client, pace=Pace(5), tally=Tally(), body_idle_s=5)
        statuses = []
        for now in (time.time(), time.time() - 3600):
            body = StreamReader(Mock(), limit=2**16, loop=asyncio.get_running_loop())
            body.feed_data(json.dumps({"worker_id": "w_a", "epoch": 1}).encode())
            body.feed_eof()
            request = make_mocked_request("POST", wire.STATUS, payload=body)
            answer = await intake.handle(request, claims=Claims("w_a", 1), now=now)
            statuses.append(answer.status)
        await client.close()
        return statuses

    assert asyncio.run(posts()) == [200, 200]


def test_stream_is_trimmed(
    broker: valkey.Valkey, control: ControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys, "STATUS_STREAM_LENGTH", 1_000)

    async def posts() -> None:
        client = Broker(broker.url, connections=16)
        for _ in range(15):
            await asyncio.gather(*(client.post("w_a", "{}", at=1.0) for _ in range(100)))
        await client.close()

    asyncio.run(posts())
    assert 1_000 <= control.redis.xlen(keys.STATUS_STREAM) < 1_200
