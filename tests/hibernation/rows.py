"""Rows for the tests of this folder: a person, her account, and an instance whose box runs."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from django.contrib.auth import get_user_model

from hibernation.models import Box, Instance
from hibernation.states import AWAKE, BoxState, InstanceState
from pool.models import Account, Dispatch, Sample, Worker
from pool.signals import samples_stored
from pool.states import DispatchState, WorkerState
from snapshots.models import Snapshot
from snapshots.states import SnapshotState

T0 = datetime(2026, 11, 21, 14, 30, tzinfo=UTC)
AWAKE_SINCE = T0 - timedelta(hours=1)


def at(seconds: float) -> datetime:
    return T0 + timedelta(seconds=seconds)


def person(name: str = "alice", **fields: Any) -> Any:
    return get_user_model().objects.create_user(name, password="correct horse", **fields)


def account_of(owner: Any, *, kind: str = Account.Kind.LOCAL, label: str = "main") -> Account:
    return Account.objects.create(owner=owner, kind=kind, label=label)


def instance_of(
    owner: Any,
    *,
    name: str = "studio",
    state: str = InstanceState.RUNNING,
    account: Account | None = None,
    config: dict[str, Any] | None = None,
    price: str = "0.50",
    **columns: Any,
) -> Instance:
    """An instance in a state, with its worker; one that is awake has a box that runs since AWAKE_SINCE."""
    account = account or Account.objects.filter(owner=owner).first() or account_of(owner)
    awake = state in AWAKE
    columns = {"awake_since": AWAKE_SINCE, "last_active_at": AWAKE_SINCE, "epoch": 1, **columns}
    instance = Instance.objects.create(
        owner=owner,
        name=name,
        account=account,
        state=state,
        state_since=AWAKE_SINCE,
        created_at=AWAKE_SINCE,
        config={"auto_hibernation": config} if config else {},
        **columns,
    )
    instance.worker = Worker.objects.create(
        account=account,
        owner=owner,
        name=instance.pk,
        instance_ref=instance.pk,
        epoch=instance.epoch,
        state=WorkerState.ONLINE if awake else WorkerState.OFFLINE,
    )
    instance.save(update_fields=["worker"])
    if awake:
        box_of(instance, price=price)
    return instance


def box_of(
    instance: Instance,
    *,
    state: str = BoxState.RUNNING,
    price: str = "0.50",
    rented_at: datetime = AWAKE_SINCE,
    gone_at: datetime | None = None,
    epoch: int | None = None,
    **columns: Any,
) -> Box:
    epoch = instance.epoch if epoch is None else epoch
    columns = {
        "label": f"dormouse-{instance.pk}-{epoch}",
        "provider_ref": "" if state == BoxState.REFUSED else f"ref-{epoch}",
        **columns,
    }
    return Box.objects.create(
        instance=instance,
        epoch=epoch,
        account=instance.account,
        gpu_name="RTX 4090",
        region="eu",
        price_usd_per_h=Decimal(price),
        state=state,
        created_at=rented_at,
        rented_at=rented_at,
        handed_over_at=rented_at,
        gone_at=gone_at or (T0 if state == BoxState.GONE else None),
        **columns,
    )


def snapshot_of(
    instance: Instance, *, generation: int = 1, stored_bytes: int = 0, **columns: Any
) -> Snapshot:
    """A verified generation, which becomes the instance's."""
    columns = {"committed_at": AWAKE_SINCE, "verified_at": AWAKE_SINCE, **columns}
    snapshot = Snapshot.objects.create(
        owner=instance.owner,
        workspace_ref=instance.pk,
        generation=generation,
        epoch=instance.epoch,
        key=f"{instance.pk}:{generation}",
        worker_ref=instance.worker_id or "",
        worker_epoch=instance.epoch,
        root_key="roots/x",
        root_sha256="0" * 64,
        content_id="0" * 64,
        stored_bytes=stored_bytes,
        logical_bytes=stored_bytes,
        state=SnapshotState.VERIFIED,
        **columns,
    )
    Instance.objects.filter(pk=instance.pk).update(snapshot=snapshot)
    instance.snapshot = snapshot
    return snapshot


def asleep_of(owner: Any, *, state: str = InstanceState.HIBERNATED, **columns: Any) -> Instance:
    """An instance that sleeps on a verified generation."""
    instance = instance_of(owner, state=InstanceState.RUNNING, **columns)
    snapshot = snapshot_of(instance)
    Box.objects.filter(instance=instance).update(state=BoxState.GONE, gone_at=T0)
    Worker.objects.filter(pk=instance.worker_id).update(state=WorkerState.OFFLINE)
    Instance.objects.filter(pk=instance.pk).update(state=state, hibernated_at=T0, snapshot=snapshot)
    instance.refresh_from_db()
    return instance


def post(
    instance: Instance, *readings: tuple[float, float | None], now: datetime | None = None, **more: Any
) -> None:
    """Store readings (seconds after T0, utilisation) as the intake does, and tell of them."""
    samples = Sample.objects.bulk_create(
        Sample(
            worker_id=instance.worker_id, epoch=instance.epoch, at=at(second), gpu_util=util, readings=more
        )
        for second, util in readings
    )
    samples_stored.send(sender=Sample, samples=samples, now=now or at(readings[-1][0]))


def work_of(
    instance: Instance, *, kind: str = Dispatch.Kind.COMMAND, state: str = DispatchState.CLAIMED
) -> Dispatch:
    """A piece of work that the instance's agent holds."""
    return Dispatch.objects.create(
        worker=instance.worker,
        epoch=instance.epoch,
        kind=kind,
        state=state,
        fence=1,
        claimed_at=T0,
        lease_until=T0 + timedelta(hours=1),
    )
