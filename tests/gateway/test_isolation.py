"""With worker A's credentials, or none, nothing of worker B can be read or written."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable

import pytest

from agent import wire
from gateway import keys
from tests.gateway.harness import KEY, OLD_KID, ControlPlane, GatewayProcess, bearer, token

FORGERIES: dict[str, Callable[[], str]] = {
    "no token": lambda: "",
    "made-up key": lambda: token("w_b", key=b"y" * 32),
    "unknown kid": lambda: token("w_b", kid="k9"),
    "kid of another key": lambda: token("w_b", kid=OLD_KID),
    "kid as a path": lambda: token("w_b", kid="../../dev/null", key=b"\0" * 32),
    "alg none": lambda: unsigned("w_b"),
    "HS512": lambda: token("w_b", algorithm="HS512", key=KEY * 2),
    "wrong audience": lambda: token("w_b", aud="dormouse-user"),
    "no audience": lambda: token("w_b", aud=None),
    "expired": lambda: token("w_b", iat=int(time.time()) - 2_000, exp=int(time.time()) - 60),
    "without expiry": lambda: token("w_b", exp=None),
    "previous epoch": lambda: token("w_b", 1),
    "next epoch": lambda: token("w_b", 3),
    "A's body under A's signature, sub changed": lambda: changed_subject(),
}


def unsigned(worker_id: str) -> str:
    _, body, _ = token(worker_id, 2).split(".")
    head = base64.urlsafe_b64encode(b'{"alg":"none","typ":"JWT","kid":"k2"}').decode().rstrip("=")
    return f"{head}.{body}."


def changed_subject() -> str:
    head, body, signature = token("w_a", 2).split(".")
    claims = json.loads(base64.urlsafe_b64decode(body + "=="))
    forged = base64.urlsafe_b64encode(json.dumps(claims | {"sub": "w_b"}).encode()).decode().rstrip("=")
    return f"{head}.{forged}.{signature}"


@pytest.fixture
def secret(control: ControlPlane) -> ControlPlane:
    control.admit("w_a", epoch=2)
    control.admit("w_b", epoch=2)
    control.send("w_b", b"for B alone")
    return control


@pytest.mark.parametrize("forgery", FORGERIES)
def test_forged_token_neither_reads_the_queue_nor_posts(
    gateway: GatewayProcess, secret: ControlPlane, forgery: str
) -> None:
    poll = gateway.poll(FORGERIES[forgery]())
    post = gateway.post(FORGERIES[forgery](), {"worker_id": "w_b", "epoch": 2})
    wanted = 409 if "epoch" in forgery else 401
    assert (poll.status, post.status) == (wanted, wanted)
    assert b"for B alone" not in poll.body + post.body
    assert secret.waiting("w_b") == [b"for B alone"]
    assert secret.stream() == []


@pytest.mark.parametrize(
    "path",
    [
        f"{wire.QUEUE}?wait=0&sub=w_b",
        f"{wire.QUEUE}?wait=0&worker_id=w_b",
        f"{wire.QUEUE}?wait=0#w_b",
        f"{wire.QUEUE}?wait=0&wait=w_b",
    ],
)
def test_good_token_of_a_reads_only_as_queue(
    gateway: GatewayProcess, secret: ControlPlane, path: str
) -> None:
    answer = gateway.request("POST", path, headers=bearer(token("w_a", 2)) | {"X-Worker-Id": "w_b"})
    assert answer.status in (204, 400)
    assert secret.waiting("w_b") == [b"for B alone"]


@pytest.mark.parametrize(
    "path",
    [f"{wire.QUEUE}/w_b", f"{wire.QUEUE}/", f"{wire.QUEUE};w_b", "/api/agent/%71ueue", "/api//agent/queue"],
)
def test_other_spellings_of_the_path_reach_django_not_the_queue(
    gateway: GatewayProcess, secret: ControlPlane, path: str
) -> None:
    answer = gateway.request("POST", path, headers=bearer(token("w_b", 2)))
    assert answer.json["line"].startswith(f"POST {path} ")
    assert secret.waiting("w_b") == [b"for B alone"]


def test_worker_id_cannot_reach_out_of_its_own_key(gateway: GatewayProcess, secret: ControlPlane) -> None:
    for worker_id in ("w_b:jobs", "*", "w_b\r\nDEL w:w_b:jobs", "../w_b", "w_?"):
        assert gateway.poll(token(worker_id, 2)).status == 401
    assert secret.waiting("w_b") == [b"for B alone"]


def test_a_cannot_post_bs_status(gateway: GatewayProcess, secret: ControlPlane) -> None:
    answer = gateway.post(token("w_a", 2), {"worker_id": "w_b", "epoch": 2, "gpu_util": 0})
    assert (answer.status, answer.json["code"]) == (403, "not_yours")
    twice = b'{"worker_id": "w_a", "epoch": 2, "worker_id": "w_b"}'
    assert gateway.post(token("w_a", 2), twice).status == 403
    assert secret.redis.xlen(keys.STATUS_STREAM) == 0
