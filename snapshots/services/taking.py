"""From "take a snapshot" to "the agent says that everything is uploaded"."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from django.db import transaction
from django.db.models import Max
from django.utils import timezone

from agent import wire
from core.agents import AgentIdentity
from core.errors import DomainError, Invalid, NotFound, StandDown
from core.ids import new_id
from core.reasons import because
from core.text import storable
from core.transitions import advance, event_add
from snapshots import signals
from snapshots.engine.keys import KeyRefused, ObjectKind, parse_key, root_key
from snapshots.models import OwnerKey, Pack, RestoreGrant, Snapshot
from snapshots.services.owners import owner_key
from snapshots.services.store import store
from snapshots.states import SnapshotState

URL_LIFE_S = 15 * 60
OBJECT_LIMIT_BYTES = 256 * 1024 * 1024
COMMITTED = (SnapshotState.COMMITTED, SnapshotState.VERIFIED)


class RootPlanned(DomainError):
    """This snapshot cannot be taken a second time; a new generation can."""

    code = wire.ROOT_PLANNED


class AlreadyCommitted(DomainError):
    """This agent has committed this snapshot: it died, or was cut off, between the commit and its report."""

    code = wire.COMMITTED


def snapshot_begin(
    *,
    owner: Any,
    workspace_ref: str,
    epoch: int,
    worker_ref: str,
    worker_epoch: int,
    key: str,
    now: datetime | None = None,
) -> Snapshot:
    """The workspace's next generation, to be taken by that worker in that epoch. Asking again with the same key finds it.

    workspace_ref, epoch: as the model says: an instance and its epoch, or a job and its attempt.

    Generations are counted up without a gap or a double, also where several begin at once: the owner's key is the lock.
    """
    now = now or timezone.now()
    keys = owner_key(owner)
    with transaction.atomic():
        OwnerKey.objects.select_for_update().get(pk=keys.pk)
        found = Snapshot.objects.filter(key=key).first()
        if found is not None:
            return found
        last = Snapshot.objects.filter(workspace_ref=workspace_ref).aggregate(last=Max("generation"))["last"]
        snapshot_id = new_id("sn")
        row = Snapshot.objects.create(
            id=snapshot_id,
            owner=owner,
            workspace_ref=workspace_ref,
            generation=(last or 0) + 1,
            epoch=epoch,
            key=key,
            worker_ref=worker_ref,
            worker_epoch=worker_epoch,
            parent=verified_latest(workspace_ref),
            root_key=root_key(keys.storage_id, snapshot_id),
            state=SnapshotState.TAKING,
            state_since=now,
            started_at=now,
        )
        reason = because("snapshot_begun", generation=row.generation)
        event_add(row, "snapshot_begun", reason=reason, now=now, to_state=SnapshotState.TAKING)
        return row


def snapshot_fail(snapshot: Snapshot, *, error: str, now: datetime | None = None) -> None:
    """It will never be finished. A snapshot that is past that (verified, failed already) stays as it is."""
    if snapshot.state == SnapshotState.TAKING:
        advance(
            snapshot, SnapshotState.FAILED, reason=because("snapshot_not_taken", error=error[:500]), now=now
        )
    elif snapshot.state == SnapshotState.COMMITTED:
        advance(snapshot, SnapshotState.FAILED, reason=because("snapshot_given_up"), now=now)


def verified_latest(workspace_ref: str) -> Snapshot | None:
    """The newest verified generation of a workspace."""
    return (
        Snapshot.objects.filter(workspace_ref=workspace_ref, state=SnapshotState.VERIFIED)
        .order_by("-generation")
        .first()
    )


def snapshot_terms(snapshot: Snapshot) -> wire.SnapshotTerms:
    """What the agent must know: whose it is, the key, where the root goes, and what it may build on.

    Only for an agent that `snapshot_for_agent` or `snapshot_to_restore` has let through. A parent that is not whole
    any more, or was let go, is not built on.
    """
    keys = owner_key(snapshot.owner)
    parent = snapshot.parent
    return wire.SnapshotTerms(
        snapshot_id=snapshot.pk,
        owner_id=keys.storage_id,
        owner_key=keys.key,
        root_key=snapshot.root_key,
        parent_root_key=parent.root_key if parent and parent.state == SnapshotState.VERIFIED else None,
        content_id=snapshot.content_id or None,
    )


def snapshot_for_agent(snapshot_id: str, identity: AgentIdentity) -> Snapshot:
    """The snapshot that this agent may take. NotFound for anybody else's, StandDown once it is no longer being taken.

    Raises AlreadyCommitted where this very agent has committed it: there is nothing left to do.
    """
    snapshot = (
        Snapshot.objects.select_related("parent", "owner")
        .filter(pk=snapshot_id, worker_ref=identity.worker_id)
        .first()
    )
    return _takeable(snapshot, snapshot_id, identity)


def _takeable(snapshot: Snapshot | None, snapshot_id: str, identity: AgentIdentity) -> Snapshot:
    if snapshot is None:
        raise NotFound(f"no snapshot {snapshot_id} is being taken by this worker")
    same_epoch = snapshot.worker_epoch == identity.epoch
    if same_epoch and snapshot.state in COMMITTED:
        raise AlreadyCommitted(f"snapshot {snapshot_id} is committed", hint="report it as done")
    if not same_epoch or snapshot.state != SnapshotState.TAKING:
        raise StandDown(
            f"snapshot {snapshot_id} is {snapshot.state}, for epoch {snapshot.worker_epoch}",
            hint="stop taking it",
        )
    return snapshot


def snapshot_start(snapshot: Snapshot) -> None:
    """Its agent is about to read the workspace. Raises RootPlanned where it had done so before, as far as the root.

    Without this it would upload everything again, to be refused at the very end: an object is written once.
    """
    if Pack.objects.filter(key=snapshot.root_key).exists():
        raise RootPlanned(
            f"an earlier run of this agent planned the root of {snapshot.pk} and did not commit it",
            hint="report the dispatch as interrupted",
        )


def snapshot_plan(
    snapshot: Snapshot, *, put: Sequence[wire.PutWish], get: Sequence[str], now: datetime | None = None
) -> tuple[list[wire.Presigned], list[wire.Presigned]]:
    """Presigned requests for these uploads and downloads, in the order asked for.

    Every key must be a snapshot object of this owner; the root must be this snapshot's own. What may be uploaded is
    written down first, and a commit accepts no other root. What may be downloaded was written down for a snapshot of
    the same workspace: a machine that somebody else owns sees no other workspace of this owner. Invalid names the key
    that was refused.
    """
    keys = owner_key(snapshot.owner)
    if len(put) + len(get) > wire.REQUESTS_PER_PLAN:
        raise Invalid(f"at most {wire.REQUESTS_PER_PLAN} requests a plan", hint="ask in several plans")
    for wish in put:
        _check_put(wish, snapshot, keys.storage_id)
    _check_get(get, snapshot, keys.storage_id)
    _write_down(snapshot, put, now or timezone.now())
    puts = [
        store().put_request(wish.key, length=wish.length, sha256=wish.sha256, ttl_s=URL_LIFE_S)
        for wish in put
    ]
    gets = [store().get_request(key, ttl_s=URL_LIFE_S) for key in get]
    return [_presigned(request) for request in puts], [_presigned(request) for request in gets]


def _write_down(snapshot: Snapshot, put: Sequence[wire.PutWish], now: datetime) -> None:
    rows = [
        Pack(
            owner=snapshot.owner,
            snapshot=snapshot,
            key=wish.key,
            length=wish.length,
            sha256=wish.sha256,
            planned_at=now,
        )
        for wish in put
    ]
    Pack.objects.bulk_create(rows, ignore_conflicts=True)
    known = {row.key: row for row in Pack.objects.filter(key__in=[wish.key for wish in put])}
    for wish in put:
        row = known[wish.key]
        if (row.length, row.sha256) != (wish.length, wish.sha256):
            raise Invalid(
                f"{wish.key} was planned with another length or hash",
                hint="an object is written once: use a new key for new bytes",
            )


def _check_put(wish: wire.PutWish, snapshot: Snapshot, storage_id: str) -> None:
    kind, name = _check_owner(wish.key, storage_id)
    if kind == ObjectKind.ROOT and name != snapshot.pk:
        raise Invalid(
            f"{wish.key} is the root of another snapshot", hint=f"this one's is {snapshot.root_key}"
        )
    if not 0 < wish.length <= OBJECT_LIMIT_BYTES:
        raise Invalid(f"{wish.key}: {wish.length} bytes", hint=f"from 1 to {OBJECT_LIMIT_BYTES}")
    if len(wish.sha256) != 64 or set(wish.sha256) - set("0123456789abcdef"):
        raise Invalid(f"{wish.key}: the hash is not SHA-256 in hex")


def _check_get(keys: Sequence[str], snapshot: Snapshot, storage_id: str) -> None:
    for key in keys:
        _check_owner(key, storage_id)
    known = Pack.objects.filter(key__in=keys, snapshot__workspace_ref=snapshot.workspace_ref)
    foreign = set(keys) - set(known.values_list("key", flat=True))
    if foreign:
        raise Invalid(
            f"{min(foreign)[:100]} is no object of this workspace", hint="ask for what its manifests name"
        )


def _check_owner(key: str, storage_id: str) -> tuple[ObjectKind, str]:
    try:
        name = parse_key(key)
    except KeyRefused as error:
        raise Invalid(str(error)) from error
    if name.owner_id != storage_id:
        raise Invalid(f"{key[:100]} belongs to another owner")
    return name.kind, name.name


def _presigned(request: Any) -> wire.Presigned:
    return wire.Presigned(method=request.method, url=request.url, headers=dict(request.headers))


def snapshot_commit(
    snapshot_id: str, identity: AgentIdentity, *, facts: dict[str, Any], now: datetime | None = None
) -> Snapshot:
    """The agent says that everything is uploaded, the root last. Nothing is believed yet: verification follows.

    facts: root_key, root_sha256, root_length, content_id, files, logical_bytes, stored_bytes, new_packs, warnings.
    The same commit again changes nothing and is accepted. NotFound for anybody else's snapshot, StandDown once it is no
    longer being taken, Invalid for a root that this snapshot was not allowed to upload.
    """
    now = now or timezone.now()
    with transaction.atomic():
        mine = Snapshot.objects.select_for_update().filter(pk=snapshot_id, worker_ref=identity.worker_id)
        snapshot = mine.first()
        try:
            snapshot = _takeable(snapshot, snapshot_id, identity)
        except AlreadyCommitted:
            assert snapshot is not None, "a snapshot that is committed was found"
            if snapshot.root_sha256 == facts["root_sha256"]:
                return snapshot
            raise
        _check_root(snapshot, facts)
        _committed(snapshot, storable(facts), now)
        signals.snapshot_committed.send(sender=Snapshot, snapshot=snapshot, now=now)
    return snapshot


def _check_root(snapshot: Snapshot, facts: dict[str, Any]) -> None:
    if facts["root_key"] != snapshot.root_key:
        raise Invalid(f"the root of {snapshot.pk} is {snapshot.root_key}, not {facts['root_key']}")
    planned = Pack.objects.filter(
        snapshot=snapshot,
        key=snapshot.root_key,
        sha256=facts["root_sha256"],
        length=facts["root_length"],
    )
    if not planned.exists():
        raise Invalid(
            f"{snapshot.root_key} was never planned with this length and hash",
            hint="plan the upload of the root, upload it, then commit",
        )


def _committed(snapshot: Snapshot, facts: dict[str, Any], now: datetime) -> None:
    advance(
        snapshot,
        SnapshotState.COMMITTED,
        reason=because(
            "snapshot_committed",
            files=facts["files"],
            packs=facts["new_packs"],
            stored_bytes=facts["stored_bytes"],
        ),
        now=now,
        committed_at=now,
        root_sha256=facts["root_sha256"],
        root_length=facts["root_length"],
        content_id=facts["content_id"],
        files=facts["files"],
        logical_bytes=facts["logical_bytes"],
        stored_bytes=facts["stored_bytes"],
        warnings=facts["warnings"],
    )


def restore_allow(snapshot: Snapshot, *, worker_ref: str, worker_epoch: int) -> None:
    """Let that worker, in that epoch, read this snapshot. It ends with the restore (restore_forbid) or the epoch."""
    RestoreGrant.objects.get_or_create(snapshot=snapshot, worker_ref=worker_ref, worker_epoch=worker_epoch)


def restore_forbid(*, worker_ref: str, snapshot_id: str | None = None) -> None:
    """That worker has restored what it should, or is gone: it reads that snapshot, or any (None), no more."""
    grants = RestoreGrant.objects.filter(worker_ref=worker_ref)
    (grants if snapshot_id is None else grants.filter(snapshot=snapshot_id)).delete()


def snapshot_to_restore(snapshot_id: str, identity: AgentIdentity) -> Snapshot:
    """The snapshot that this agent may restore. NotFound where it has not been allowed to."""
    grant = (
        RestoreGrant.objects.select_related("snapshot__owner", "snapshot__parent")
        .filter(snapshot_id=snapshot_id, worker_ref=identity.worker_id, worker_epoch=identity.epoch)
        .first()
    )
    if grant is None:
        raise NotFound(f"no snapshot {snapshot_id} may be restored by this worker")
    return grant.snapshot
