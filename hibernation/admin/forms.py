"""Forms of the console: what a person may change, with the policy parser's own sentences as errors."""

from __future__ import annotations

from typing import Any

from django import forms
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from core.reasons import words
from hibernation.models import Instance, Policy
from hibernation.policy import PolicyInvalid
from hibernation.providers.base import gpu_key
from hibernation.services.policies import config_check, policy_check


def sentences(refused: PolicyInvalid) -> list[str]:
    """Everything that is wrong with a policy, in the reader's language."""
    return [
        f"{path} {words(reason.code, reason.params, translate=gettext)}".strip()
        for path, reason in refused.problems
    ]


class InstanceForm(forms.ModelForm):
    """The columns of an instance that are a person's; everything else is the engine's."""

    class Meta:
        model = Instance
        fields = ["name", "gpu_type", "region", "price_cap_usd_per_h", "on_wake", "config"]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # A default that is a function makes Django compare with a hidden field of the page, not with the row.
        self.fields["config"].show_hidden_initial = False

    def clean_name(self) -> str:
        name: str = self.cleaned_data["name"]
        same = Instance.objects.filter(owner=self.instance.owner, name=name).exclude(pk=self.instance.pk)
        if same.exists():
            raise forms.ValidationError(_("Its owner has another instance of this name."))
        return name

    def clean(self) -> dict[str, Any]:
        fields: dict[str, Any] = super().clean() or self.cleaned_data
        if "config" in fields:
            fields["config"] = fields["config"] or {}
            try:
                config_check(fields["config"], owner=self.instance.owner, gpu_type=fields.get("gpu_type", ""))
            except PolicyInvalid as refused:
                self.add_error("config", sentences(refused))
        return fields


class PolicyForm(forms.ModelForm):
    """One level of the policies."""

    class Meta:
        model = Policy
        fields = ["scope", "owner", "gpu_type", "config"]

    def clean(self) -> dict[str, Any]:
        fields: dict[str, Any] = super().clean() or self.cleaned_data
        said = {
            name: fields.get(name, getattr(self.instance, name)) for name in ("scope", "owner", "gpu_type")
        }
        self._check_scope(**said)
        if "config" in fields and not self.errors:
            try:
                policy_check(config=fields["config"], **said)
            except PolicyInvalid as refused:
                self.add_error("config", sentences(refused))
        return fields

    def _check_scope(self, *, scope: str, owner: Any, gpu_type: str) -> None:
        of_site, of_gpu = scope == Policy.Scope.SITE, scope == Policy.Scope.GPU_TYPE
        if of_site == (owner is not None) and "owner" in self.fields:
            self.add_error(
                "owner", _("The site's policy has no owner.") if of_site else _("Whose policy is it?")
            )
        if of_gpu != bool(gpu_type) and "gpu_type" in self.fields:
            self.add_error(
                "gpu_type",
                _("Which GPU type is it for?") if of_gpu else _("Only a GPU type's policy names one."),
            )
        same = Policy.objects.filter(scope=scope, owner=owner).exclude(pk=self.instance.pk)
        if any(gpu_key(row.gpu_type) == gpu_key(gpu_type) for row in same):
            raise forms.ValidationError(_("There is one for this already: change that one."))
