"""Policies in the console: written with the parser's sentences, carried out at once."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.http import HttpRequest

from core.admin_base import ConsoleAdmin
from hibernation.admin.forms import PolicyForm
from hibernation.models import Policy
from hibernation.services.policies import policy_remove, policy_set


@admin.register(Policy)
class PolicyAdmin(ConsoleAdmin):
    form = PolicyForm
    list_display = ["scope", "owner", "gpu_type", "config", "updated_at"]
    list_filter = ["scope"]
    search_fields = ["owner__username", "gpu_type"]
    list_select_related = ["owner"]

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> list[str]:
        return ["scope", "owner", "gpu_type"] if obj else []

    def save_model(self, request: HttpRequest, obj: Policy, form: Any, change: bool) -> None:
        row = policy_set(
            scope=obj.scope,
            owner=obj.owner,
            gpu_type=obj.gpu_type,
            config=obj.config,
            by=request.user.get_username(),
        )
        obj.pk = row.pk

    def delete_model(self, request: HttpRequest, obj: Policy) -> None:
        policy_remove(obj, by=request.user.get_username())

    def delete_queryset(self, request: HttpRequest, queryset: Any) -> None:
        for row in queryset:
            self.delete_model(request, row)
