"""What an agent may ask over HTTP while it takes or restores a snapshot, and what a foreign one is told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from rest_framework.test import APIClient

from agent import wire
from core.agents import access_token
from pool.models import Account, Worker
from pool.states import WorkerState
from snapshots.models import OwnerKey, Snapshot
from snapshots.services import taking
from snapshots.states import SnapshotState
from tests.snapshots.rows import begun, facts, person, root_wish, wish

pytestmark = pytest.mark.usefixtures("db", "valkey", "store_folder")


@pytest.fixture
def alice() -> Any:
    return person()


@pytest.fixture
def agent(alice: Any) -> Callable[..., APIClient]:
    """agent("w_1", 3) speaks with a real access token of that worker and epoch."""
    from django.utils import timezone

    account = Account.objects.create(owner=alice, kind="local", label="rack")

    def make(worker: str, epoch: int = 3) -> APIClient:
        Worker.objects.get_or_create(
            pk=worker,
            defaults={
                "account": account, "name": worker, "epoch": 3, "secret_sha256": "x",
                "state": WorkerState.ONLINE,
            },
        )  # fmt: skip
        client = APIClient()
        token = access_token(worker_id=worker, epoch=epoch, now=timezone.now())
        client.credentials(HTTP_AUTHORIZATION=f"Bearer {token}")
        return client

    return make


def path(snapshot: Snapshot, verb: str) -> str:
    return wire.snapshot_path(snapshot.pk, verb)


def body(**more: Any) -> dict[str, Any]:
    return {"fence": 1, **more}


def put_of(*wishes: wire.PutWish) -> list[dict[str, Any]]:
    return [wire.to_json(one) for one in wishes]


def test_the_whole_way_of_a_snapshot_over_http(agent: Callable[..., APIClient], alice: Any) -> None:
    snapshot = begun(alice, worker="w_1")
    client = agent("w_1")
    terms = client.post(path(snapshot, "plan"), body()).json()["terms"]
    assert terms["root_key"] == snapshot.root_key and terms["owner_key"] == OwnerKey.objects.get().key
    wishes = (wish(snapshot), root_wish(snapshot))
    planned = wire.PlanAnswer.from_json(client.post(path(snapshot, "plan"), body(put=put_of(*wishes))).json())
    assert [one.method for one in planned.put] == ["PUT", "PUT"]
    for _ in range(2):
        answer = client.post(path(snapshot, "commit"), body(**facts(snapshot)))
        assert (answer.status_code, answer.json()) == (200, {"status": "committed"})
    late = client.post(path(snapshot, "plan"), body())
    assert (late.status_code, late.json()["code"]) == (409, wire.COMMITTED)


def test_with_the_credentials_of_another_worker_everything_is_refused(
    agent: Callable[..., APIClient], alice: Any
) -> None:
    """A's credentials and B's snapshot: it does not exist for A, and B's key does not leave."""
    snapshot = begun(alice, worker="w_b")
    stranger = agent("w_a")
    for verb, sent in (
        ("plan", body()),
        ("plan", body(put=put_of(wish(snapshot)))),
        ("commit", body(**facts(snapshot))),
        ("restore-plan", body()),
    ):
        answer = stranger.post(path(snapshot, verb), sent)
        assert answer.status_code == 404, (verb, answer.json())
        assert OwnerKey.objects.get().key not in answer.content.decode()
    snapshot.refresh_from_db()
    assert snapshot.state == SnapshotState.TAKING


def test_an_older_epoch_is_told_to_stand_down(agent: Callable[..., APIClient], alice: Any) -> None:
    snapshot = begun(alice, worker="w_1", epoch=2)
    for client in (agent("w_1", 2), agent("w_1", 3)):
        answer = client.post(path(snapshot, "plan"), body())
        assert (answer.status_code, answer.json()["code"]) == (409, wire.STAND_DOWN)


def test_a_restore_reads_and_never_uploads(agent: Callable[..., APIClient], alice: Any) -> None:
    snapshot = begun(alice, worker="w_old")
    taking.snapshot_plan(snapshot, put=[wish(snapshot), root_wish(snapshot)], get=[])
    client = agent("w_new")
    assert client.post(path(snapshot, "restore-plan"), body()).status_code == 404
    taking.restore_allow(snapshot, worker_ref="w_new", worker_epoch=3)
    answer = client.post(path(snapshot, "restore-plan"), body(get=[snapshot.root_key]))
    assert answer.status_code == 200 and len(answer.json()["get"]) == 1
    refused = client.post(path(snapshot, "restore-plan"), body(put=put_of(wish(snapshot, number=8))))
    assert (refused.status_code, refused.json()["code"]) == (400, "invalid")
    taking.restore_forbid(worker_ref="w_new")
    assert client.post(path(snapshot, "restore-plan"), body()).status_code == 404


@pytest.mark.parametrize(
    "sent",
    [
        [],
        {"put": "all of it"},
        {"put": [{"key": "k"}]},
        {"get": ["x" * 201]},
        {"get": [f"o/a/p/{n:032x}" for n in range(wire.REQUESTS_PER_PLAN + 1)]},
        {"put": [{"key": "k", "length": 2**70, "sha256": "a" * 64}]},
    ],
)
def test_what_is_no_plan_is_a_clear_400(agent: Callable[..., APIClient], alice: Any, sent: Any) -> None:
    snapshot = begun(alice, worker="w_1")
    for verb in ("plan", "restore-plan"):
        taking.restore_allow(snapshot, worker_ref="w_1", worker_epoch=3)
        answer = agent("w_1").post(path(snapshot, verb), sent)
        assert answer.status_code == 400 and answer.json()["message"]


@pytest.mark.parametrize(
    "wrong",
    [{"files": -1}, {"files": 2**70}, {"root_sha256": "A" * 64}, {"content_id": "zz"}, {"warnings": "many"}],
)
def test_a_commit_that_cannot_be_is_a_clear_400(
    agent: Callable[..., APIClient], alice: Any, wrong: dict[str, Any]
) -> None:
    snapshot = begun(alice, worker="w_1")
    answer = agent("w_1").post(path(snapshot, "commit"), body(**{**facts(snapshot), **wrong}))
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid")


def test_a_persons_token_opens_no_route_of_agents(api_client: Callable[..., Any], alice: Any) -> None:
    snapshot = begun(alice, worker="w_1")
    for verb in ("plan", "commit", "restore-plan"):
        assert api_client(alice).post(path(snapshot, verb), body()).status_code in (401, 403)
