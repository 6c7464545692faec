"""People, accounts and workers of the pool's tests. Alice and Bob own things, Charlie owns nothing, Ops is staff."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from django.contrib.auth.models import User

from agent import wire
from core import broker
from gateway import keys
from pool.models import Account, Worker
from pool.services import enrollment
from pool.services.accounts import account_create
from pool.services.terms import terms_acknowledge, terms_of
from pool.services.workers import worker_heard

NOON = datetime(2026, 11, 18, 12, 0, tzinfo=UTC)
"""A Wednesday."""

GIB = 1024**3


@pytest.fixture
def alice(db: None) -> User:
    return User.objects.create_user("alice")


@pytest.fixture
def bob(db: None) -> User:
    return User.objects.create_user("bob")


@pytest.fixture
def charlie(db: None) -> User:
    return User.objects.create_user("charlie")


@pytest.fixture
def ops(db: None) -> User:
    return User.objects.create_superuser("ops")


@pytest.fixture
def account(alice: User) -> Account:
    return account_create(owner=alice, kind="local", label="rack")


def acknowledged(account: Account) -> Account:
    """The account, with what its provider forbids acknowledged where there is such a text."""
    terms = terms_of(account)
    if terms is not None:
        terms_acknowledge(account=account, version=terms.version, by="alice")
    return account


def gpu(gib: int = 16) -> wire.Gpu:
    return wire.Gpu(index=0, name="Tesla T4", util=0.0, mem_used_bytes=0, mem_total_bytes=gib * GIB)


@pytest.fixture
def enrol(account: Account) -> Callable[..., Worker]:
    """enrol("w1") joins a machine under that name; it is online, as if it had posted, unless online=False."""

    def make(
        name: str = "",
        *,
        into: Account | None = None,
        gib: int = 16,
        runtime_h: float = 0.0,
        online: bool = True,
        slots: int = 1,
        now: datetime = NOON,
    ) -> Worker:
        token = enrollment.enrollment_token_issue(account=acknowledged(into or account), now=now)
        post = wire.EnrollPost(token=token, name=name, gpus=(gpu(gib),), session_runtime_hours=runtime_h)
        worker = Worker.objects.get(pk=enrollment.worker_enroll(post=post, now=now).worker_id)
        if slots != 1:
            Worker.objects.filter(pk=worker.pk).update(slots=slots)
        if online:
            Worker.objects.filter(pk=worker.pk).update(last_seen_at=now)
            worker_heard(worker, now=now)
        worker.refresh_from_db()
        return worker

    return make


@pytest.fixture
def stream(valkey: object) -> Callable[..., str]:
    """stream(worker, at=…, session_runtime_hours=…) is a status post as the gateway appends it; returns its id."""

    def post(worker: Worker, *, at: datetime = NOON, **fields: Any) -> str:
        body = {"worker_id": worker.pk, "epoch": worker.epoch, **fields}
        return append(json.dumps(body), at=at)

    return post


def append(body: str, *, at: datetime = NOON, entry_id: str = "*") -> str:
    """Any text at all as an entry of the status stream."""
    fields = {"body": body, "at": f"{at.timestamp():.3f}"}
    return str(broker.client().xadd(keys.STATUS_STREAM, fields, id=entry_id))
