"""What is done with an account of a notebook provider: its notebook is made, a session of it is started."""

from __future__ import annotations

import base64

from django import forms
from django.http import HttpResponse
from django.urls import reverse
from django.utils.html import format_html
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _
from unfold.widgets import UnfoldAdminSelectWidget, UnfoldAdminTextInputWidget

from core.admin_base import Dialog
from core.errors import DomainError
from core.places import is_near
from pool.models import Account
from pool.notebooks import MEDIA_TYPE, NAMES, notebook_file
from pool.services.enrollment import NAME_LIMIT
from pool.services.kaggle_starts import ACCELERATORS, start_request
from pool.services.terms import terms_require


class NotebookDialog(Dialog):
    worker_name = forms.CharField(
        label=_("Name of the worker"),
        required=False,
        max_length=NAME_LIMIT,
        widget=UnfoldAdminTextInputWidget,
        help_text=_("Left empty, the server chooses one."),
    )

    def clean(self) -> dict[str, object]:
        account = Account.objects.filter(pk=self.object_id).first()
        if account is None:
            raise forms.ValidationError(_("It is not there any more"))
        if account.kind not in NAMES:
            raise forms.ValidationError(_("Only accounts at Colab and Kaggle have a notebook."))
        self.account = account
        try:
            terms_require(account)
        except DomainError as error:
            raise forms.ValidationError(f"{error.message}. {error.hint}") from error
        return super().clean() or self.cleaned_data


class StartDialog(NotebookDialog):
    worker_name = forms.CharField(
        label=_("Name of the worker"), max_length=NAME_LIMIT, widget=UnfoldAdminTextInputWidget
    )
    accelerator = forms.ChoiceField(
        label=_("Accelerator"),
        choices=[(name, name) for name in ACCELERATORS],
        widget=UnfoldAdminSelectWidget,
    )

    def clean(self) -> dict[str, object]:
        fields = super().clean()
        if not self.errors:
            try:
                self.start = start_request(
                    account=self.account,
                    name=str(fields["worker_name"]),
                    accelerator=str(fields["accelerator"]),
                    by=self.request.user.get_username(),
                )
            except DomainError as error:
                raise forms.ValidationError(f"{error.message}. {error.hint}") from error
        return fields


def notebook_shown(account: Account, *, token: str, worker_name: str, url: str) -> HttpResponse:
    """What replaces the dialog's form: the notebook as a file, token and all, and that it is made only once."""
    data = notebook_file(account.kind, SERVER_URL=url, JOIN_TOKEN=token, WORKER_NAME=worker_name)
    return HttpResponse(
        format_html(
            '<div id="dialog-form" class="mb-6 mt-6"><p class="mb-3">{}</p>{}'
            '<p><a class="text-primary-600 underline" download="dormouse-{}.ipynb" href="data:{};base64,{}">{}</a></p>'
            "</div>",
            gettext(
                "It holds a join token of one use and one hour. Open it at the provider and run all cells."
            ),
            _warning(url),
            account.kind,
            MEDIA_TYPE,
            base64.b64encode(data).decode("ascii"),
            gettext("Download the notebook"),
        ),
        headers={"Cache-Control": "no-store"},
    )


def _warning(url: str) -> str:
    """Said before somebody spends a session on it: from the provider, this address leads nowhere."""
    if not is_near(url):
        return ""
    return format_html(
        '<p class="mb-3 font-semibold text-red-600">{}</p>',
        gettext(
            "No session can reach this server: its address is %(url)s. Set DORMOUSE_PUBLIC_URL to the address under"
            " which the internet reaches it, restart it, and make the notebook again."
        )
        % {"url": url},
    )


def to_starts() -> HttpResponse:
    return HttpResponse(headers={"HX-Redirect": reverse("admin:pool_notebookstart_changelist")})
