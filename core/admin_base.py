"""Bases of the console's pages: what the engine owns is looked at, not edited; what changes the world is a POST."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest
from unfold.admin import ModelAdmin, TabularInline


class ConsoleAdmin(ModelAdmin):
    """A list and form in the console's look."""

    list_filter_submit = True
    show_full_result_count = False
    list_per_page = 50
    compressed_fields = True


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
