"""Rows for the tests of snapshots: a person, a worker's identity, and a generation that it takes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.contrib.auth import get_user_model

from agent import wire
from core.agents import AgentIdentity
from snapshots.engine.keys import pack_key
from snapshots.engine.remote import StoreRemote
from snapshots.engine.take import take
from snapshots.models import Snapshot
from snapshots.services import taking
from snapshots.services.owners import key_bytes, owner_key
from snapshots.services.store import store

T0 = datetime(2026, 11, 21, 14, 30, tzinfo=UTC)
WORKER, EPOCH = "w_studio", 3


def at(seconds: float) -> datetime:
    return T0 + timedelta(seconds=seconds)


def person(name: str = "alice") -> Any:
    return get_user_model().objects.create_user(name)


def identity(worker: str = WORKER, epoch: int = EPOCH) -> AgentIdentity:
    return AgentIdentity(worker, epoch)


def begun(
    owner: Any, *, instance: str = "i_studio", worker: str = WORKER, epoch: int = EPOCH, key: str = "c_1:0"
) -> Snapshot:
    return taking.snapshot_begin(
        owner=owner,
        workspace_ref=instance,
        epoch=epoch,
        worker_ref=worker,
        worker_epoch=epoch,
        key=key,
        now=T0,
    )


def wish(snapshot: Snapshot, *, number: int = 1, length: int = 10, key: str = "") -> wire.PutWish:
    """An upload of a pack of this snapshot's owner."""
    storage_id = owner_key(snapshot.owner).storage_id
    return wire.PutWish(
        key=key or pack_key(storage_id, number.to_bytes(16, "big")),
        length=length,
        sha256=hashlib.sha256(str(number).encode()).hexdigest(),
    )


def root_wish(snapshot: Snapshot, *, length: int = 100) -> wire.PutWish:
    return wish(snapshot, number=99, length=length, key=snapshot.root_key)


def facts(snapshot: Snapshot, **changes: Any) -> dict[str, Any]:
    """What an agent commits, for the root of `root_wish`."""
    root = root_wish(snapshot)
    return {
        "root_key": root.key,
        "root_sha256": root.sha256,
        "root_length": root.length,
        "content_id": "c" * 64,
        "files": 2,
        "logical_bytes": 20,
        "stored_bytes": 110,
        "new_packs": 1,
        "warnings": [],
        **changes,
    }


def committed(snapshot: Snapshot, who: AgentIdentity | None = None) -> Snapshot:
    taking.snapshot_plan(snapshot, put=[wish(snapshot), root_wish(snapshot)], get=[], now=T0)
    return taking.snapshot_commit(snapshot.pk, who or identity(), facts=facts(snapshot), now=T0)


def taken(snapshot: Snapshot, workspace: Path, who: AgentIdentity | None = None) -> Snapshot:
    """A workspace really taken with the engine, planned and committed as an agent does."""
    keys = owner_key(snapshot.owner)
    done = take(
        workspace,
        remote=StoreRemote(store(), attempts=1),
        owner_key=key_bytes(keys),
        owner_id=keys.storage_id,
        snapshot_id=snapshot.pk,
    )
    wishes = [wire.PutWish(key=o.key, length=o.length, sha256=o.sha256) for o in done.new_objects]
    taking.snapshot_plan(snapshot, put=wishes, get=[], now=T0)
    said = {name: getattr(done, name) for name in facts(snapshot) if name != "warnings"}
    return taking.snapshot_commit(
        snapshot.pk, who or identity(), facts={**said, "warnings": list(done.warnings)}, now=T0
    )


def folder_store(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Iterator[Path]:
    """settings.SNAPSHOT_STORE as an empty folder of this test's own."""
    monkeypatch.setattr(settings, "SNAPSHOT_STORE", str(folder / "store"))
    store.cache_clear()
    yield folder / "store"
    store.cache_clear()
