"""Encrypts every stored secret again with the first of the field keys."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import models, transaction

from config.stored import secret_columns
from core.fields import SecretField, SecretUnreadable


class Command(BaseCommand):
    help = (
        "Encrypts every stored secret with the first field key. Put a new key first, restart, run this, "
        "and only then take the old key away. Safe to repeat."
    )

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            with transaction.atomic():
                count = sum(_encrypt_again(model, field) for model, field in secret_columns())
        except SecretUnreadable as error:
            raise CommandError(f"{error}: put the key that wrote it back; nothing was changed") from error
        self.stdout.write(f"{count} secrets are now encrypted with the first key")


def _encrypt_again(model: type[models.Model], field: SecretField) -> int:
    """One column; by UPDATE of rows that are locked, so that nobody else's change is overwritten."""
    rows = (
        model._base_manager.select_for_update()
        .exclude(**{f"{field.name}__isnull": True})
        .values_list("pk", field.name)
    )
    for pk, plain in rows:
        model._base_manager.filter(pk=pk).update(**{field.name: plain})
    return len(rows)
