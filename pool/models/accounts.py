"""Provider accounts, and the hours of their weeks."""

from __future__ import annotations

from django.conf import settings
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from core.fields import SecretField
from core.ids import new_id


def account_id() -> str:
    return new_id("acc")


class Account(models.Model):
    """A provider account of one person, with its quota as data: nothing about limits is written into the code.

    Hours are hours of session runtime. percent: a worker is safe below it. Where a limit is null it does not apply.
    """

    class Kind(models.TextChoices):
        COLAB = "colab", "Google Colab"
        KAGGLE = "kaggle", "Kaggle"
        VAST = "vast", "vast.ai"
        LOCAL = "local", _("this machine")

    id = models.CharField(primary_key=True, max_length=24, default=account_id, editable=False)
    owner = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="accounts")
    kind = models.CharField(max_length=12, choices=Kind)
    label = models.CharField(max_length=80)
    enabled = models.BooleanField(default=True)
    credentials = SecretField(
        blank=True, default="", help_text=_("JSON, encrypted at rest, never shown again")
    )
    session_limit_h = models.FloatField(
        null=True, blank=True, help_text=_("the provider ends a session then")
    )
    session_shutdown_h = models.FloatField(
        null=True, blank=True, help_text=_("the agent ends it itself then")
    )
    weekly_limit_h = models.FloatField(
        null=True, blank=True, help_text=_("per week and account, all workers together")
    )
    safe_percent = models.FloatField(
        default=90,
        validators=[MinValueValidator(1), MaxValueValidator(100)],
        help_text=_("safe below this use"),
    )
    reset_weekday = models.PositiveSmallIntegerField(
        default=0, validators=[MaxValueValidator(6)], help_text=_("0 = Monday")
    )
    reset_hour = models.PositiveSmallIntegerField(default=0, validators=[MaxValueValidator(23)])
    reset_zone = models.CharField(max_length=64, default="UTC")
    budget_usd_per_day = models.DecimalField(max_digits=10, decimal_places=2, null=True, blank=True)
    budget_usd_per_month = models.DecimalField(max_digits=10, decimal_places=2, null=True, blank=True)
    price_cap_usd_per_h = models.DecimalField(max_digits=10, decimal_places=4, null=True, blank=True)
    # At most what a policy may say: a worker that posts more seldom would be lost between two posts.
    check_interval_s = models.FloatField(
        default=30,
        validators=[MinValueValidator(0.05), MaxValueValidator(300)],
        help_text=_("how often its new workers post"),
    )
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ["kind", "label"]
        constraints = [models.UniqueConstraint(fields=["owner", "kind", "label"], name="account_label")]

    def __str__(self) -> str:
        return f"{self.kind} {self.label}"


class AccountWeek(models.Model):
    """Seconds of session runtime that an account's workers used in one of its weeks.

    used_s: proven by their reports. estimated_s: of sessions that fell silent or never say how long they have run.
    official_s: what the provider itself said at official_at, own_s what was counted here by then; since_s and
    since_estimated_s: what was counted here of the time after official_at, and so is added to official_s.
    starts_at is by the reset as it stood then; where that has been moved, AccountUse says what fell into the present week.
    """

    account = models.ForeignKey(Account, on_delete=models.CASCADE, related_name="weeks")
    starts_at = models.DateTimeField()
    used_s = models.FloatField(default=0)
    estimated_s = models.FloatField(default=0, db_default=0)
    official_s = models.FloatField(null=True, blank=True)
    official_at = models.DateTimeField(null=True, blank=True)
    own_s = models.FloatField(null=True, blank=True)
    since_s = models.FloatField(default=0, db_default=0)
    since_estimated_s = models.FloatField(default=0, db_default=0)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["account", "starts_at"], name="account_week")]

    def __str__(self) -> str:
        return f"{self.account_id} {self.starts_at:%Y-%m-%d}"


class AccountUse(models.Model):
    """Seconds of session runtime of an account's machines in one quarter of an hour. at: its beginning.

    Every reset there is falls on a quarter: whatever an account's reset becomes, its weeks can be counted anew from these.
    shared_s: what of used_s and estimated_s is of the shared pool's workers, and not of rented boxes.
    """

    account = models.ForeignKey(Account, on_delete=models.CASCADE, related_name="+")
    at = models.DateTimeField()
    used_s = models.FloatField(default=0)
    estimated_s = models.FloatField(default=0)
    shared_s = models.FloatField(default=0)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["account", "at"], name="account_use")]

    def __str__(self) -> str:
        return f"{self.account_id} {self.at:%Y-%m-%d %H:%M}"
