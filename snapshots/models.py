"""Snapshots of workspaces, the packs that hold their bytes, and each owner's key."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from core.fields import SecretField
from core.ids import new_id
from core.models import Stateful
from snapshots.states import SNAPSHOT, SnapshotState


def snapshot_id() -> str:
    return new_id("sn")


class OwnerKey(models.Model):
    """The 32 random bytes (base64) that key every content id of one owner: nothing is shared between owners."""

    owner = models.OneToOneField(settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="+")
    storage_id = models.CharField(max_length=24, unique=True, help_text=_("names the owner in the store"))
    key = SecretField()
    created_at = models.DateTimeField(default=timezone.now)

    def __str__(self) -> str:
        return self.storage_id


class Snapshot(Stateful):
    """An immutable copy of a workspace; the n-th generation of it.

    workspace_ref: whose workspace it is, an instance's id or a job's; epoch counts the instance's boxes or the job's attempts.
    worker_ref and worker_epoch: the only agent that may plan and commit it. content_id: a digest over everything that a
    restore must bring back; a restore that reports another one has failed.
    """

    TABLE = SNAPSHOT
    SUBJECT = "snapshot"

    id = models.CharField(primary_key=True, max_length=24, default=snapshot_id, editable=False)
    owner = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="snapshots")
    workspace_ref = models.CharField(max_length=40)
    generation = models.PositiveIntegerField()
    epoch = models.PositiveIntegerField(
        help_text=_("the epoch of the instance, or the attempt of the job, in which it was taken")
    )
    key = models.CharField(max_length=80, unique=True, help_text=_("makes asking twice find the first"))
    worker_ref = models.CharField(max_length=24)
    worker_epoch = models.PositiveIntegerField()
    parent = models.ForeignKey(
        "self", null=True, blank=True, on_delete=models.SET_NULL, related_name="children"
    )
    root_key = models.CharField(max_length=200, blank=True, default="")
    root_sha256 = models.CharField(max_length=64, blank=True, default="")
    root_length = models.BigIntegerField(default=0)
    content_id = models.CharField(max_length=64, blank=True, default="")
    files = models.BigIntegerField(default=0)
    logical_bytes = models.BigIntegerField(default=0)
    stored_bytes = models.BigIntegerField(default=0, help_text=_("new bytes in the store"))
    warnings = models.JSONField(default=list, blank=True)
    started_at = models.DateTimeField(default=timezone.now)
    committed_at = models.DateTimeField(null=True, blank=True)
    verified_at = models.DateTimeField(null=True, blank=True)
    checked_at = models.DateTimeField(
        null=True, blank=True, help_text=_("when the store was last asked for it")
    )
    pinned = models.BooleanField(default=False)

    class Meta:
        ordering = ["-started_at"]
        constraints = [
            models.UniqueConstraint(fields=["workspace_ref", "generation"], name="snapshot_generation"),
            models.CheckConstraint(
                condition=~Q(state=SnapshotState.VERIFIED)
                | (Q(verified_at__isnull=False) & ~Q(root_sha256="") & ~Q(content_id="")),
                name="snapshot_verified_is_complete",
            ),
        ]
        indexes = [
            models.Index(fields=["workspace_ref", "state", "-generation"], name="snapshot_workspace"),
            models.Index(
                fields=["state_since"], condition=Q(state=SnapshotState.DAMAGED), name="snapshot_damaged"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.workspace_ref} generation {self.generation}"

    def event_data(self) -> dict[str, Any]:
        return {"workspace": self.workspace_ref, "generation": self.generation}


class Pack(models.Model):
    """An object in the store that an agent was allowed to upload: one per key, written once."""

    owner = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="+")
    snapshot = models.ForeignKey(Snapshot, on_delete=models.CASCADE, related_name="packs")
    key = models.CharField(max_length=200, unique=True)
    length = models.BigIntegerField()
    sha256 = models.CharField(max_length=64)
    planned_at = models.DateTimeField(default=timezone.now)
    verified_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        indexes = [models.Index(fields=["owner", "verified_at"], name="pack_owner")]

    def __str__(self) -> str:
        return self.key


class RestoreGrant(models.Model):
    """Which worker, in which epoch, may read a snapshot: given when a restore is asked of it."""

    snapshot = models.ForeignKey(Snapshot, on_delete=models.CASCADE, related_name="+")
    worker_ref = models.CharField(max_length=24)
    worker_epoch = models.PositiveIntegerField()
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["snapshot", "worker_ref", "worker_epoch"], name="restore_grant")
        ]

    def __str__(self) -> str:
        return f"{self.worker_ref}#{self.worker_epoch} reads {self.snapshot_id}"
