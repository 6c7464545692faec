"""Bases of the console's pages: what the engine owns is looked at, not edited; what changes the world is a POST."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import wraps
from typing import Any

from django import forms
from django.contrib import messages
from django.contrib.admin.utils import quote
from django.contrib.auth import get_permission_codename
from django.http import Http404, HttpRequest, HttpResponse
from django.urls import reverse
from django.utils.html import format_html, format_html_join
from django.utils.http import url_has_allowed_host_and_scheme
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _
from unfold.admin import ModelAdmin, TabularInline
from unfold.decorators import action as unfold_action
from unfold.forms import BaseDialogForm
from unfold.widgets import UnfoldAdminTextInputWidget

from core.errors import DomainError, NotFound
from core.reasons import Reason, because

_ID = re.compile("[A-Za-z0-9_-]{1,64}")


def row_key(object_id: str) -> str:
    """The key that an address means: Django's own links write an underscore as _5F, which no key of ours contains,
    unfold's links of a row leave it as it is."""
    return object_id.replace("_5F", "_")


def _address(object_id: str) -> str:
    return str(quote(row_key(object_id)))


def action(**options: Any) -> Callable[[Callable[..., HttpResponse]], Callable[..., HttpResponse]]:
    """Unfold's action, whose object_id is the row's key however the address writes it."""

    def decorate(function: Callable[..., HttpResponse]) -> Callable[..., HttpResponse]:
        inner = unfold_action(**options)(function)

        @wraps(inner)
        def act(admin: ModelAdmin, request: HttpRequest, **kwargs: Any) -> HttpResponse:
            if "object_id" in kwargs:
                kwargs["object_id"] = row_key(kwargs["object_id"])
            return inner(admin, request, **kwargs)

        return act

    return decorate


class ConsoleAdmin(ModelAdmin):
    """A list and form in the console's look."""

    list_filter_submit = True
    show_full_result_count = False
    list_per_page = 50
    compressed_fields = True

    # An address with the key as it is (in a mail, in somebody's notes) means that row as well: Django alone would read
    # the hexadecimal digits after its underscore as another character.

    def changeform_view(
        self, request: HttpRequest, object_id: str | None = None, *args: Any, **kwargs: Any
    ) -> HttpResponse:
        return super().changeform_view(request, object_id and _address(object_id), *args, **kwargs)

    def delete_view(self, request: HttpRequest, object_id: str, *args: Any, **kwargs: Any) -> HttpResponse:
        return super().delete_view(request, _address(object_id), *args, **kwargs)

    def history_view(self, request: HttpRequest, object_id: str, *args: Any, **kwargs: Any) -> HttpResponse:
        return super().history_view(request, _address(object_id), *args, **kwargs)


class ReadOnlyAdmin(ConsoleAdmin):
    """Rows that only the engine writes: they can be read and searched, never added, edited or deleted by hand."""

    def has_add_permission(self, request: HttpRequest, *args: Any) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


class ReadOnlyInline(TabularInline):
    """Rows of the engine on another row's page."""

    extra = 0
    can_delete = False
    show_change_link = True

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


class OperatedAdmin(ReadOnlyAdmin):
    """Rows that only the engine writes, and that people act upon: through confirmed dialogs, never by a link."""

    def has_operate_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Whoever may change the rows elsewhere may act upon them here."""
        return request.user.has_perm(f"{self.opts.app_label}.{get_permission_codename('change', self.opts)}")

    def act(
        self, request: HttpRequest, object_id: str, do: Callable[[Any], object], *, done: str
    ) -> HttpResponse:
        """Run a service on the row and go back to where the dialog was opened, with what it did or why it refused."""
        try:
            row = self.get_queryset(request).filter(pk=object_id).first()
        except ValueError:  # a word where the key is a number
            row = None
        try:
            if row is None:
                raise NotFound(gettext("It is not there any more"))
            do(row)
        except DomainError as error:
            messages.error(request, f"{error.message}. {error.hint}".strip())
        else:
            messages.success(request, done)
        back = request.headers.get("HX-Current-URL", "")
        own = reverse(f"admin:{self.opts.app_label}_{self.opts.model_name}_changelist")
        # Only ever to a page of this console: the header is the browser's to send.
        safe = url_has_allowed_host_and_scheme(back, {request.get_host()}, require_https=request.is_secure())
        return HttpResponse(headers={"HX-Redirect": back if safe else own})


class Dialog(BaseDialogForm):
    """Unfold's dialog shows the errors of fields only; this one shows the others as well. 404 for what can be no id:
    not every database can be asked for it."""

    def __init__(self, request: HttpRequest, object_id: Any = None, *args: Any, **kwargs: Any) -> None:
        if object_id is not None and not _ID.fullmatch(str(object_id)):
            raise Http404
        super().__init__(request, object_id, *args, **kwargs)

    def render_before_template(self) -> str:
        errors = format_html_join(
            "",
            '<p class="mb-4 text-red-600 dark:text-red-500">{}</p>',
            ((each,) for each in self.non_field_errors()),
        )
        return format_html("{}{}", errors, super().render_before_template())


class NoteDialog(Dialog):
    """A confirmation that asks for a word why, for the record."""

    note = forms.CharField(label=_("Why"), required=False, max_length=200, widget=UnfoldAdminTextInputWidget)

    def reason(self) -> Reason:
        note = self.cleaned_data["note"]
        if note:
            return because("operator", note=note)
        return because("asked", by=self.request.user.get_username())


def shown_once(secret: str, *, what: str) -> HttpResponse:
    """What replaces a dialog's form when it made a secret: the secret, and that it is never shown again."""
    return HttpResponse(
        format_html(
            '<div id="dialog-form" class="mb-6 mt-6"><p class="mb-3">{}</p>'
            '<pre class="p-3 rounded-default bg-base-100 dark:bg-base-800 whitespace-pre-wrap break-all">{}</pre>'
            '<p class="mt-3">{}</p></div>',
            what,
            secret,
            gettext("It is shown here and never again."),
        ),
        headers={"Cache-Control": "no-store"},
    )
