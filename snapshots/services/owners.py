"""Each owner's key: made at the first snapshot, kept encrypted, never shared with another owner."""

from __future__ import annotations

import base64
import secrets
from typing import Any

from django.db import IntegrityError, transaction

from core.ids import new_id
from snapshots.models import OwnerKey


def owner_key(owner: Any) -> OwnerKey:
    """The owner's key row; made where there is none yet."""
    row = OwnerKey.objects.filter(owner=owner).first()
    if row is not None:
        return row
    try:
        with transaction.atomic():
            return OwnerKey.objects.create(
                owner=owner,
                storage_id=new_id("o"),
                key=base64.b64encode(secrets.token_bytes(32)).decode("ascii"),
            )
    except IntegrityError:
        return OwnerKey.objects.get(owner=owner)


def key_bytes(row: OwnerKey) -> bytes:
    """The 32 bytes themselves."""
    return base64.b64decode(row.key)
