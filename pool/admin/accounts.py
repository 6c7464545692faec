"""Accounts: data that people own. Secrets go in and are never shown."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin
from django.http import HttpRequest
from django.utils.translation import gettext_lazy as _
from unfold.decorators import display
from unfold.widgets import UnfoldAdminPasswordWidget

from core.admin_base import ConsoleAdmin
from core.errors import Invalid
from pool.models import Account
from pool.services.accounts import account_check, credentials_hint, limit_columns

WHO = ("owner", "kind", "label", "enabled")
HOURS = ("session_limit_h", "session_shutdown_h", "weekly_limit_h", "safe_percent", "check_interval_s")
RESET = ("reset_weekday", "reset_hour", "reset_zone")
MONEY = ("budget_usd_per_day", "budget_usd_per_month", "price_cap_usd_per_h")


class AccountForm(forms.ModelForm):
    secret = forms.CharField(
        label=_("Credentials"),
        required=False,
        strip=False,
        widget=UnfoldAdminPasswordWidget(attrs={"autocomplete": "off"}),
        help_text=_('JSON, such as {"api_key": "…"}. Left empty, what is stored stays as it is.'),
    )

    class Meta:
        model = Account
        fields = [*WHO, *HOURS, *RESET, *MONEY]

    def clean(self) -> dict[str, Any]:
        fields: dict[str, Any] = super().clean() or self.cleaned_data
        secret = fields.get("secret")
        if secret:
            self.instance.credentials = secret
        return fields

    def _post_clean(self) -> None:
        """Once the fields are on the row: the checks that the API makes as well."""
        super()._post_clean()
        if self.errors:
            return
        try:
            account_check(self.instance)
        except Invalid as error:
            self.add_error(None, f"{error.message}. {error.hint}".strip())


class NewAccountForm(AccountForm):
    """A new account begins with the limits of its kind; they can be changed afterwards."""

    class Meta(AccountForm.Meta):
        fields = list(WHO)

    def _post_clean(self) -> None:
        kind = self.cleaned_data.get("kind")
        if kind:
            for name, value in limit_columns(kind).items():
                setattr(self.instance, name, value)
        super()._post_clean()


@admin.register(Account)
class AccountAdmin(ConsoleAdmin):
    list_display = ["label", "kind", "owner", "enabled", "limits", "secret_state"]
    list_filter = ["kind", "enabled"]
    search_fields = ["label", "owner__username", "=id"]
    list_select_related = ["owner"]
    readonly_fields = ["secret_state", "created_at"]

    def get_form(self, request: HttpRequest, obj: Account | None = None, **kwargs: Any) -> Any:
        return super().get_form(request, obj, form=AccountForm if obj else NewAccountForm, **kwargs)

    def get_fieldsets(self, request: HttpRequest, obj: Account | None = None) -> Any:
        first = (None, {"fields": [*WHO, "secret", *(["secret_state"] if obj else [])]})
        if obj is None:
            return [first]
        return [
            first,
            (_("Hours"), {"fields": HOURS}),
            (_("Weekly reset"), {"fields": RESET}),
            (_("Money"), {"fields": MONEY}),
        ]

    def get_readonly_fields(self, request: HttpRequest, obj: Account | None = None) -> Any:
        return [*self.readonly_fields, "kind"] if obj else self.readonly_fields

    @display(description=_("limits"))
    def limits(self, account: Account) -> str:
        parts = []
        if account.session_shutdown_h is not None:
            parts.append(f"{account.session_shutdown_h:g} h/session")
        if account.weekly_limit_h is not None:
            parts.append(f"{account.weekly_limit_h:g} h/week")
        if account.budget_usd_per_month is not None:
            parts.append(f"{account.budget_usd_per_month:g} USD/month")
        return ", ".join(parts) or "–"

    @display(description=_("credentials"))
    def secret_state(self, account: Account) -> str:
        return credentials_hint(account)
