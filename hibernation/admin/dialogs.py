"""Dialogs that confirm what an action will do. They check what can be known beforehand; the services decide."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from django import forms
from django.template.defaultfilters import filesizeformat
from django.utils.translation import gettext_lazy as _
from unfold.widgets import (
    UnfoldAdminDecimalFieldWidget,
    UnfoldAdminSelectWidget,
    UnfoldAdminTextInputWidget,
    UnfoldBooleanSwitchWidget,
)

from core.admin_base import Dialog
from hibernation.models import Instance
from hibernation.providers.registry import provider_kinds
from hibernation.services.wake import wake_estimate
from hibernation.states import ASLEEP, AWAKE
from pool.models import Account


class InstanceDialog(Dialog):
    """A dialog about one instance. allowed: the states in which it makes sense."""

    allowed: tuple[str, ...] = ()
    otherwise = _("It is %(state)s.")

    @property
    def row(self) -> Instance | None:
        return Instance.objects.select_related("snapshot", "owner").filter(pk=self.object_id).first()

    def clean(self) -> dict[str, Any]:
        row = self.row
        if row is None:
            raise forms.ValidationError(_("There is no such instance."))
        if self.allowed and row.state not in self.allowed:
            raise forms.ValidationError(self.otherwise % {"state": row.state})
        return self.cleaned_data


class WakeDialog(InstanceDialog):
    allowed = ASLEEP
    otherwise = _("Only one that sleeps can be woken: it is %(state)s.")
    form_before_template = "hibernation/wake_before.html"

    gpu_type = forms.CharField(
        label=_("GPU type"),
        required=False,
        max_length=80,
        help_text=_("Empty: its own."),
        widget=UnfoldAdminTextInputWidget,
    )
    region = forms.CharField(
        label=_("Region"),
        required=False,
        max_length=40,
        help_text=_("Empty: its own."),
        widget=UnfoldAdminTextInputWidget,
    )

    def get_before_template_context(self, request: Any, object_id: Any = None) -> dict[str, Any]:
        row = self.row
        if row is None:
            return {}
        estimate = wake_estimate(row)
        return {
            "estimate": estimate,
            "rent": _minutes(estimate["rent_s"]),
            "restore": _minutes(estimate["restore_s"]),
            "size": filesizeformat(estimate["bytes"]),
        }


class HibernateDialog(InstanceDialog):
    allowed = AWAKE
    otherwise = _("Only one that is awake can be put to sleep: it is %(state)s.")


class KeepAwakeDialog(InstanceDialog):
    minutes = forms.FloatField(
        label=_("Minutes"),
        initial=60,
        min_value=0,
        max_value=7 * 24 * 60,
        help_text=_("From now; 0 lifts the hold."),
        widget=UnfoldAdminTextInputWidget,
    )


class GiveUpDialog(InstanceDialog):
    discard = forms.BooleanField(
        label=_("Destroy its box although its workspace is not saved"),
        required=False,
        help_text=_("Needed only where it is awake. Everything since its last snapshot is lost."),
        widget=UnfoldBooleanSwitchWidget,
    )
    confirm = forms.CharField(
        label=_("Its name"), help_text=_("Type it to confirm."), widget=UnfoldAdminTextInputWidget
    )

    def clean(self) -> dict[str, Any]:
        fields = super().clean()
        row = self.row
        if row is not None and fields.get("confirm", row.name) != row.name:
            self.add_error("confirm", _("This is not its name."))
        if row is not None and row.state in AWAKE and not fields.get("discard"):
            self.add_error("discard", _("It is awake: hibernate it first, or say that its work may be lost."))
        return fields


class RentDialog(Dialog):
    name = forms.CharField(label=_("Name"), max_length=80, widget=UnfoldAdminTextInputWidget)
    account = forms.ModelChoiceField(
        label=_("Account"), queryset=Account.objects.none(), widget=UnfoldAdminSelectWidget
    )
    gpu_type = forms.CharField(
        label=_("GPU type"),
        required=False,
        max_length=80,
        help_text=_("Empty: any."),
        widget=UnfoldAdminTextInputWidget,
    )
    region = forms.CharField(
        label=_("Region"),
        required=False,
        max_length=40,
        help_text=_("Empty: any."),
        widget=UnfoldAdminTextInputWidget,
    )
    price_cap_usd_per_h = forms.DecimalField(
        label=_("At most, US$ an hour"),
        required=False,
        min_value=Decimal("0.0001"),
        max_digits=10,
        decimal_places=4,
        widget=UnfoldAdminDecimalFieldWidget,
    )
    disk_gb = forms.IntegerField(
        label=_("Disk, GB"), initial=50, min_value=1, max_value=16_000, widget=UnfoldAdminTextInputWidget
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        renting = Account.objects.filter(kind__in=provider_kinds(), enabled=True).select_related("owner")
        self.fields["account"].queryset = renting
        self.fields["account"].label_from_instance = _account_label

    def clean(self) -> dict[str, Any]:
        fields = self.cleaned_data
        account = fields.get("account")
        same = account and Instance.objects.filter(owner=account.owner, name=fields.get("name", ""))
        if same and same.exists():
            self.add_error("name", _("Its owner has another instance of this name."))
        return fields


def _account_label(account: Account) -> str:
    return f"{account} ({account.owner})"


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
