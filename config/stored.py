"""Which columns of the database are encrypted."""

from __future__ import annotations

from django.apps import apps
from django.db import models

from core.fields import SecretField


def secret_columns() -> list[tuple[type[models.Model], SecretField]]:
    """Every encrypted column of the installation, of whichever app."""
    return [
        (model, field)
        for model in apps.get_models()
        for field in model._meta.concrete_fields
        if isinstance(field, SecretField)
    ]
