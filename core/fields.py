"""A text column that is encrypted at rest."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from django.conf import settings
from django.core.exceptions import FieldError
from django.db import models


class SecretUnreadable(Exception):
    """A stored secret that none of the configured keys opens. The key that wrote it must be put back first."""


@lru_cache(maxsize=4)
def _fernet(keys: tuple[str, ...]) -> MultiFernet:
    return MultiFernet([Fernet(key) for key in keys])


def fernet() -> MultiFernet:
    """The cipher of settings.FIELD_KEYS: the first key encrypts, all of them decrypt."""
    return _fernet(tuple(settings.FIELD_KEYS))


class SecretField(models.TextField):
    """Holds text; the database holds a Fernet token (AES-128-CBC with HMAC-SHA-256). Lookups are refused.

    Rotation: put the new key first in FIELD_KEYS and save each row again (`manage.py rotate_keys`).
    """

    def get_prep_value(self, value: Any) -> str | None:
        value = super().get_prep_value(value)
        if value is None or value == "":
            return value
        return fernet().encrypt(value.encode()).decode("ascii")

    def from_db_value(self, value: str | None, expression: Any, connection: Any) -> str | None:
        if value is None or value == "":
            return value
        try:
            return fernet().decrypt(value.encode("ascii")).decode()
        except InvalidToken as error:
            raise SecretUnreadable(
                f"{self.model._meta.label}.{self.name} cannot be decrypted with the configured FIELD_KEYS"
            ) from error

    def get_lookup(self, lookup_name: str) -> Any:
        if lookup_name == "isnull":
            return super().get_lookup(lookup_name)
        raise FieldError(f"{self.name} is encrypted: it cannot be searched by {lookup_name}")
