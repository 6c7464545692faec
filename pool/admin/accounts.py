"""Accounts: data that people own. Secrets go in and are never shown."""

from __future__ import annotations

from typing import Any

from django import forms
from django.conf import settings
from django.contrib import admin
from django.http import HttpRequest, HttpResponse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _
from unfold.dataclasses import UnfoldAction
from unfold.decorators import display
from unfold.enums import ActionVariant
from unfold.widgets import UnfoldAdminPasswordWidget, UnfoldBooleanWidget

from core.admin_base import ConsoleAdmin, action, row_key
from core.errors import Invalid
from pool.admin import account_dialogs as dialogs
from pool.models import Account, OfficialQuota
from pool.notebooks import NAMES
from pool.services.accounts import account_check, credentials_hint, limit_columns
from pool.services.enrollment import enrollment_token_issue
from pool.services.terms import terms_acknowledge, terms_acknowledgement, terms_of
from pool.terms import TERMS

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

    acknowledged = forms.BooleanField(
        label=_("I have read this, and it is known to the account's owner"), required=False
    )

    class Meta:
        model = Account
        fields = [*WHO, *HOURS, *RESET, *MONEY]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        kinds = (
            TERMS if self.instance._state.adding else [kind for kind in TERMS if kind == self.instance.kind]
        )
        # What is sent back is which texts stood there: a text that has changed since is not what was read.
        shown = " ".join(f"{kind}:{TERMS[kind].version}" for kind in kinds)
        self.fields["acknowledged"].widget = UnfoldBooleanWidget(attrs={"value": shown})
        self.fields["acknowledged"].help_text = format_html_join(
            "", "<p>{}</p>{}", ((f"{Account.Kind(kind).label}:", _terms_text(kind)) for kind in kinds)
        )

    def clean_acknowledged(self) -> bool:
        ticked = bool(self.cleaned_data["acknowledged"])
        kind = self.cleaned_data.get("kind") or self.instance.kind
        if ticked and kind in TERMS:
            sent = str(self.data.get(self.add_prefix("acknowledged"), "")).split()
            if f"{kind}:{TERMS[kind].version}" not in sent:
                raise forms.ValidationError(_("The text has changed since. Read it again."))
        return ticked

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
    readonly_fields = ["secret_state", "terms_state", "official", "created_at"]
    actions_detail = ["notebook", "start"]

    def get_form(self, request: HttpRequest, obj: Account | None = None, **kwargs: Any) -> Any:
        return super().get_form(request, obj, form=AccountForm if obj else NewAccountForm, **kwargs)

    def get_fieldsets(self, request: HttpRequest, obj: Account | None = None) -> Any:
        first = (None, {"fields": [*WHO, "secret", *(["secret_state"] if obj else [])]})
        forbidden = (_("What the provider forbids"), {"fields": ["terms_state", "acknowledged"]})
        if obj is None:
            return [first, (forbidden[0], {"fields": ["acknowledged"]})]
        return [
            first,
            *([forbidden] if terms_of(obj) else []),
            (_("Hours"), {"fields": HOURS}),
            (
                _("Weekly reset"),
                {"fields": [*RESET, *(["official"] if obj.kind == Account.Kind.KAGGLE else [])]},
            ),
            (_("Money"), {"fields": MONEY}),
        ]

    def get_readonly_fields(self, request: HttpRequest, obj: Account | None = None) -> Any:
        return [*self.readonly_fields, "kind"] if obj else self.readonly_fields

    def save_model(self, request: HttpRequest, obj: Account, form: AccountForm, change: bool) -> None:
        super().save_model(request, obj, form, change)
        terms = terms_of(obj)
        if terms is not None and form.cleaned_data.get("acknowledged"):
            terms_acknowledge(account=obj, version=terms.version, by=request.user.get_username())

    def has_notebook_permission(self, request: HttpRequest, object_id: str | None = None) -> bool:
        """For one's own accounts, as join tokens are; an administrator for all."""
        if not self.has_change_permission(request):
            return False
        return request.user.is_superuser or Account.objects.filter(pk=object_id, owner=request.user).exists()

    def get_actions_detail(self, request: HttpRequest, object_id: str) -> list[UnfoldAction]:
        """Only what this kind of account can do."""
        object_id = row_key(object_id)
        kind = Account.objects.filter(pk=object_id).values_list("kind", flat=True).first()
        fit = {"notebook": kind in NAMES, "start": kind == Account.Kind.KAGGLE}
        found = super().get_actions_detail(request, object_id)
        return [one for one in found if fit.get(one.method.__name__, True)]

    @action(
        description=_("Make its notebook"),
        icon="article",
        url_path="notebook",
        permissions=["notebook"],
        dialog={
            "title": _("Make a notebook for this account?"),
            "description": _(
                "A notebook that joins one machine: with this server's address and a join token."
            ),
            "form_class": dialogs.NotebookDialog,
            "form_submit_text": _("Make it"),
        },
    )
    def notebook(self, request: HttpRequest, form: dialogs.NotebookDialog, object_id: str) -> HttpResponse:
        account = form.account
        token = enrollment_token_issue(account=account, by=request.user.get_username())
        return dialogs.notebook_shown(
            account, token=token, worker_name=form.cleaned_data["worker_name"], url=settings.PUBLIC_URL
        )

    @action(
        description=_("Start a session"),
        icon="rocket_launch",
        url_path="start",
        permissions=["notebook"],
        variant=ActionVariant.PRIMARY,
        dialog={
            "title": _("Start a session at Kaggle?"),
            "description": _(
                "A private notebook of this account is run there. It uses hours of the account's week."
            ),
            "form_class": dialogs.StartDialog,
            "form_submit_text": _("Start it"),
        },
    )
    def start(self, request: HttpRequest, form: dialogs.StartDialog, object_id: str) -> HttpResponse:
        return dialogs.to_starts()

    @display(description=_("acknowledged"))
    def terms_state(self, account: Account) -> str:
        row = terms_acknowledgement(account)
        if row is None:
            return gettext("not yet: until then no worker of this account is enrolled")
        return gettext("%(at)s by %(by)s, the text of %(version)s") % {
            "at": f"{row.at:%Y-%m-%d %H:%M} UTC", "by": row.by, "version": row.version,
        }  # fmt: skip

    @display(description=_("Kaggle's own figure"))
    def official(self, account: Account) -> str:
        row = OfficialQuota.objects.filter(account=account).first()
        if row is None or (row.read_at is None and not row.error):
            return gettext("not known: store a Kaggle token in the credentials")
        if row.read_at is None:
            return row.error
        hours = " / ".join("?" if s is None else f"{s / 3600:.2f} h" for s in (row.used_s, row.total_s))
        return " · ".join(filter(None, [hours, f"{row.read_at:%Y-%m-%d %H:%M} UTC", row.error]))

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


def _terms_text(kind: str) -> SafeString:
    terms = TERMS[kind]
    lines = format_html_join("", "<li>{}</li>", ((line,) for line in terms.sentences))
    return format_html(
        '<ul class="list-disc ml-4 mb-2">{}</ul><p>{} ({})</p>', lines, terms.source, terms.version
    )
