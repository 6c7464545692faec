"""Instances, the boxes they live on, their policies, schedules and the machines that are banned."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from django.conf import settings
from django.core.validators import MinValueValidator
from django.db import models
from django.db.models import F, Q
from django.utils import timezone
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from core.ids import new_id
from core.models import Stateful, WithReason
from core.reasons import words
from hibernation.states import AWAKE, BOX, INSTANCE, LIVE, BoxState, InstanceState
from pool.models import Account, Worker
from snapshots.models import Snapshot


def instance_id() -> str:
    return new_id("i")


def box_id() -> str:
    return new_id("b")


class Instance(Stateful):
    """A rented workspace with an owner. It outlives its boxes; `epoch` counts them.

    idle_since: the first idle sample of the present idle stretch (T0). idle_due_at: T0 + the pause window, when
    hibernation is due; null while it is active. last_active_at: the last time that anything held it awake.
    judge_at: when it is to be judged next, null: at once. judged_to: the newest reading that the last verdict saw.
    verdict: that verdict's {code, params}, for lists; a change of code is a row of Verdict.
    """

    TABLE = INSTANCE
    SUBJECT = "instance"
    FENCE = "epoch"

    id = models.CharField(primary_key=True, max_length=24, default=instance_id, editable=False)
    owner = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="instances")
    name = models.CharField(max_length=80)
    account = models.ForeignKey(Account, on_delete=models.PROTECT, related_name="instances")
    worker = models.OneToOneField(
        Worker, null=True, blank=True, on_delete=models.PROTECT, related_name="instance"
    )
    epoch = models.PositiveIntegerField(default=0)
    gpu_type = models.CharField(max_length=80, blank=True, default="", help_text=_("empty: any"))
    region = models.CharField(max_length=40, blank=True, default="", help_text=_("empty: any"))
    price_cap_usd_per_h = models.DecimalField(
        max_digits=10,
        decimal_places=4,
        null=True,
        blank=True,
        validators=[MinValueValidator(Decimal("0.0001"))],
    )
    disk_bytes = models.BigIntegerField(default=50 * 1024**3)
    on_wake = models.TextField(blank=True, default="", help_text=_("script that starts what should run"))
    config = models.JSONField(
        default=dict, blank=True, help_text=_("what it says differently from its owner's policy")
    )
    gpu_util = models.FloatField(null=True, blank=True)
    last_active_at = models.DateTimeField(null=True, blank=True)
    idle_since = models.DateTimeField(null=True, blank=True)
    idle_due_at = models.DateTimeField(null=True, blank=True)
    awake_since = models.DateTimeField(null=True, blank=True)
    keep_awake_until = models.DateTimeField(null=True, blank=True)
    hibernated_at = models.DateTimeField(null=True, blank=True)
    delete_due_at = models.DateTimeField(null=True, blank=True)
    wake_asked_at = models.DateTimeField(null=True, blank=True)
    judge_at = models.DateTimeField(null=True, blank=True, editable=False)
    judged_to = models.DateTimeField(null=True, blank=True, editable=False)
    verdict = models.JSONField(default=dict, blank=True, editable=False)
    restore_incomplete = models.BooleanField(
        default=False, help_text=_("a restore failed: nothing may be snapshotted until one succeeds")
    )
    snapshot = models.ForeignKey(
        Snapshot,
        null=True,
        blank=True,
        on_delete=models.PROTECT,
        related_name="+",
        help_text=_("the last verified one"),
    )
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ["name"]
        constraints = [
            models.UniqueConstraint(fields=["owner", "name"], name="instance_name"),
            models.CheckConstraint(
                condition=~Q(state=InstanceState.HIBERNATED) | Q(snapshot__isnull=False),
                name="instance_hibernated_has_a_snapshot",
            ),
            models.CheckConstraint(
                condition=~Q(state=InstanceState.HIBERNATING) | Q(restore_incomplete=False),
                name="instance_snapshotted_only_when_restored",
            ),
        ]
        indexes = [
            models.Index(fields=["owner", "state"], name="instance_owner_state"),
            models.Index(
                fields=["idle_due_at"], condition=Q(state=InstanceState.IDLE), name="instance_idle_due"
            ),
            models.Index(
                fields=["delete_due_at"],
                condition=Q(state=InstanceState.HIBERNATED),
                name="instance_delete_due",
            ),
            models.Index(fields=["judge_at"], condition=Q(state__in=AWAKE), name="instance_judge"),
        ]

    def __str__(self) -> str:
        return f"{self.name} ({self.id})"

    def event_data(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "gpu_util": self.gpu_util, "snapshot": self.snapshot_id}

    @property
    def why(self) -> str:
        """Why it is as it is: awake, what the last verdict said; otherwise the reason of its state."""
        if self.state in AWAKE and self.verdict:
            return words(self.verdict["code"], self.verdict["params"], translate=gettext)
        return self.reason


class Box(Stateful):
    """One rental of an instance: what is billed. `label` is written before the provider is asked to create it.

    The database itself refuses to let a box go that holds somebody's work: it may be destroying only if it was never
    handed over, or its workspace is a verified generation of this very epoch, or its owner said "discard".
    """

    TABLE = BOX
    SUBJECT = "box"

    id = models.CharField(primary_key=True, max_length=24, default=box_id, editable=False)
    instance = models.ForeignKey(Instance, on_delete=models.PROTECT, related_name="boxes")
    epoch = models.PositiveIntegerField()
    account = models.ForeignKey(Account, on_delete=models.PROTECT, related_name="boxes")
    label = models.CharField(max_length=80, unique=True)
    provider_ref = models.CharField(max_length=80, blank=True, default="")
    machine_id = models.CharField(max_length=80, blank=True, default="")
    offer_id = models.CharField(max_length=80, blank=True, default="")
    gpu_name = models.CharField(max_length=80, blank=True, default="")
    region = models.CharField(max_length=40, blank=True, default="")
    price_usd_per_h = models.DecimalField(
        max_digits=10, decimal_places=4, help_text=_("while it runs: GPU and disk")
    )
    gpu_usd_per_h = models.DecimalField(
        max_digits=12, decimal_places=6, null=True, blank=True, help_text=_("of that, the GPU's part")
    )
    disk_bytes = models.BigIntegerField(default=0)
    disk_usd_per_gb_month = models.DecimalField(
        max_digits=12,
        decimal_places=6,
        default=0,
        help_text=_("in every state, also stopped; 10^9 bytes, 720 hours"),
    )
    upload_usd_per_gb = models.DecimalField(
        max_digits=12, decimal_places=6, default=0, help_text=_("for what it sends")
    )
    download_usd_per_gb = models.DecimalField(
        max_digits=12, decimal_places=6, default=0, help_text=_("for what it receives")
    )
    created_at = models.DateTimeField(default=timezone.now)
    create_asked_at = models.DateTimeField(
        null=True, blank=True, help_text=_("from here the provider may have created it")
    )
    rented_at = models.DateTimeField(null=True, blank=True, help_text=_("billed from here"))
    handed_over_at = models.DateTimeField(
        null=True, blank=True, help_text=_("from here it may hold new work")
    )
    destroy_asked_at = models.DateTimeField(null=True, blank=True)
    absent_since = models.DateTimeField(
        null=True, blank=True, help_text=_("first complete listing without it")
    )
    gone_at = models.DateTimeField(null=True, blank=True, help_text=_("billed until here"))
    safe_snapshot = models.ForeignKey(
        Snapshot, null=True, blank=True, on_delete=models.PROTECT, related_name="+"
    )
    safe_epoch = models.PositiveIntegerField(null=True, blank=True)
    discarded_by = models.CharField(max_length=150, blank=True, default="")

    class Meta:
        ordering = ["-created_at"]
        verbose_name_plural = "boxes"
        constraints = [
            models.CheckConstraint(
                condition=~Q(state=BoxState.DESTROYING)
                | Q(handed_over_at__isnull=True)
                # A CHECK lets pass what is neither true nor false: NULL = epoch is such a thing.
                | Q(safe_snapshot__isnull=False, safe_epoch__isnull=False, safe_epoch=F("epoch"))
                | ~Q(discarded_by=""),
                name="box_destroyed_only_with_a_verified_generation",
            ),
            models.CheckConstraint(
                condition=~Q(state=BoxState.REFUSED) | Q(provider_ref=""),
                name="box_that_was_rented_is_never_refused",
            ),
            models.CheckConstraint(
                condition=Q(state=BoxState.GONE, gone_at__isnull=False)
                | (~Q(state=BoxState.GONE) & Q(gone_at__isnull=True)),
                name="box_billed_until_it_is_gone",
            ),
            models.UniqueConstraint(
                fields=["instance"], condition=Q(state__in=LIVE), name="box_one_live_per_instance"
            ),
            models.UniqueConstraint(fields=["instance", "epoch"], name="box_one_per_epoch"),
        ]
        indexes = [models.Index(fields=["account", "state"], name="box_account_state")]

    def __str__(self) -> str:
        return f"{self.label} ({self.state})"

    def event_owner_id(self) -> int | None:
        return self.instance.owner_id

    def event_data(self) -> dict[str, Any]:
        return {
            "instance": self.instance_id,
            "epoch": self.epoch,
            "price_usd_per_h": str(self.price_usd_per_h),
        }


class Policy(models.Model):
    """What an owner, a GPU type of an owner, or the site says about sleeping. Fields that it leaves out are inherited."""

    class Scope(models.TextChoices):
        SITE = "site", _("the site")
        OWNER = "owner", _("an owner")
        GPU_TYPE = "gpu_type", _("an owner's GPU type")

    scope = models.CharField(max_length=12, choices=Scope)
    owner = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.CASCADE, related_name="policies"
    )
    gpu_type = models.CharField(max_length=80, blank=True, default="")
    config = models.JSONField(default=dict)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        verbose_name_plural = "policies"
        constraints = [
            models.UniqueConstraint(fields=["scope"], condition=Q(scope="site"), name="policy_one_site"),
            models.UniqueConstraint(
                fields=["owner"], condition=Q(scope="owner"), name="policy_one_per_owner"
            ),
            models.UniqueConstraint(
                fields=["owner", "gpu_type"], condition=Q(scope="gpu_type"), name="policy_one_per_gpu_type"
            ),
            models.CheckConstraint(
                condition=Q(scope="site", owner__isnull=True, gpu_type="")
                | Q(scope="owner", owner__isnull=False, gpu_type="")
                | (Q(scope="gpu_type", owner__isnull=False) & ~Q(gpu_type="")),
                name="policy_scope_fits",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.scope} {self.owner or ''} {self.gpu_type}".strip()


class Schedule(models.Model):
    """When an instance wakes and sleeps, in its own time zone; the next moments in UTC are computed from it."""

    instance = models.OneToOneField(Instance, on_delete=models.CASCADE, related_name="schedule")
    next_wake_at = models.DateTimeField(null=True, blank=True)
    next_sleep_at = models.DateTimeField(null=True, blank=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        indexes = [
            models.Index(fields=["next_wake_at"], name="schedule_wake"),
            models.Index(fields=["next_sleep_at"], name="schedule_sleep"),
        ]

    def __str__(self) -> str:
        return f"{self.instance_id} wakes {self.next_wake_at} sleeps {self.next_sleep_at}"


class MachineBan(models.Model):
    """A provider's machine that is not rented again for a while: its box never came up, say."""

    account_kind = models.CharField(max_length=12)
    machine_id = models.CharField(max_length=80)
    until = models.DateTimeField()
    note = models.CharField(max_length=200, blank=True, default="")

    class Meta:
        constraints = [models.UniqueConstraint(fields=["account_kind", "machine_id"], name="machine_ban")]

    def __str__(self) -> str:
        return f"{self.account_kind} {self.machine_id} until {self.until:%Y-%m-%d %H:%M}"


class Verdict(WithReason):
    """Keep or hibernate, with the policy, the facts and the samples behind it, so that it can be replayed."""

    instance = models.ForeignKey(Instance, on_delete=models.CASCADE, related_name="verdicts")
    at = models.DateTimeField()
    idle = models.BooleanField()
    policy = models.JSONField(default=dict)
    facts = models.JSONField(default=dict)
    samples = models.JSONField(default=list)

    class Meta:
        ordering = ["-id"]
        indexes = [models.Index(fields=["instance", "-at"], name="verdict_instance_at")]

    def __str__(self) -> str:
        return f"{self.instance_id} {'idle' if self.idle else 'active'} {self.reason_code}"
