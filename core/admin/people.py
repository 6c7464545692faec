"""People, groups and their API tokens."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django import forms
from django.contrib import admin
from django.contrib.auth.admin import GroupAdmin as PlainGroupAdmin
from django.contrib.auth.admin import UserAdmin as PlainUserAdmin
from django.contrib.auth.models import Group, User
from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _
from unfold.decorators import display
from unfold.forms import AdminPasswordChangeForm, UserChangeForm, UserCreationForm
from unfold.widgets import UnfoldAdminSelectWidget, UnfoldAdminTextInputWidget

from core.admin_base import ConsoleAdmin, Dialog, OperatedAdmin, action, shown_once
from core.models import ApiToken
from core.tokens import DEFAULT_LIFE, token_issue, token_revoke

admin.site.unregister(User)
admin.site.unregister(Group)


@admin.register(User)
class UserAdmin(PlainUserAdmin, ConsoleAdmin):
    form = UserChangeForm
    add_form = UserCreationForm
    change_password_form = AdminPasswordChangeForm


@admin.register(Group)
class GroupAdmin(PlainGroupAdmin, ConsoleAdmin):
    pass


class IssueDialog(Dialog):
    name = forms.CharField(label=_("What it is for"), max_length=80, widget=UnfoldAdminTextInputWidget)
    scope = forms.ChoiceField(
        label=_("What it may do"),
        choices=[
            ("read", _("look")),
            ("operate", _("look and change")),
            ("admin", _("everything, as an administrator")),
        ],
        initial="operate",
        widget=UnfoldAdminSelectWidget,
    )
    days = forms.IntegerField(
        label=_("Days that it lives"),
        initial=DEFAULT_LIFE.days,
        min_value=1,
        max_value=3650,
        widget=UnfoldAdminTextInputWidget,
    )

    def clean_scope(self) -> str:
        scope: str = self.cleaned_data["scope"]
        if scope == "admin" and not self.request.user.is_superuser:
            raise forms.ValidationError(_("Only a superuser may make such a token."))
        return scope

    def scopes(self) -> list[str]:
        """A scope with those below it."""
        return list(ApiToken.SCOPES[: ApiToken.SCOPES.index(self.cleaned_data["scope"]) + 1])


@admin.register(ApiToken)
class ApiTokenAdmin(OperatedAdmin):
    """Everybody sees and makes her own tokens; a superuser sees all."""

    list_display = ["prefix", "name", "user", "scopes", "valid_now", "expires_at", "last_used_at"]
    search_fields = ["name", "prefix", "user__username"]
    list_select_related = ["user"]
    fields = ["prefix", "name", "user", "scopes", "created_at", "expires_at", "last_used_at", "revoked_at"]
    actions_list = ["issue"]
    actions_detail = ["revoke"]
    actions_row = ["revoke"]

    def get_queryset(self, request: HttpRequest) -> Any:
        rows = super().get_queryset(request)
        return rows if request.user.is_superuser else rows.filter(user=request.user)

    @display(description=_("valid"), boolean=True)
    def valid_now(self, token: ApiToken) -> bool:
        return token.valid(now=timezone.now())

    @action(
        description=_("Make a token"),
        icon="add",
        url_path="issue",
        permissions=["operate"],
        dialog={
            "title": _("Make an API token"),
            "description": _("For the API and the command line, in your own name."),
            "form_class": IssueDialog,
            "form_submit_text": _("Make it"),
        },
    )
    def issue(self, request: HttpRequest, form: IssueDialog) -> HttpResponse:
        fields = form.cleaned_data
        _row, plain = token_issue(
            user=request.user,
            name=fields["name"],
            scopes=form.scopes(),
            expires_at=timezone.now() + timedelta(days=fields["days"]),
        )
        return shown_once(plain, what=gettext("Your new token:"))

    @action(
        description=_("Revoke"),
        icon="block",
        url_path="revoke",
        permissions=["operate"],
        dialog={
            "title": _("Revoke this token?"),
            "description": _("From now on it opens nothing. This cannot be undone."),
            "form_class": Dialog,
            "form_submit_text": _("Revoke it"),
        },
    )
    def revoke(self, request: HttpRequest, form: Dialog, object_id: str) -> HttpResponse:
        return self.act(request, object_id, token_revoke, done=gettext("The token is revoked."))
