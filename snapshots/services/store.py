"""The object store of this installation."""

from __future__ import annotations

from functools import lru_cache
from urllib.parse import urljoin

from django.conf import settings

from snapshots.engine.store import open_store
from snapshots.engine.store.base import Store

STORE_PATH = "/store/"
"""Where the web process serves a folder store; the gateway passes it through."""


@lru_cache(maxsize=1)
def store() -> Store:
    """SNAPSHOT_STORE, opened once a process. Raises StoreRefused where the setting cannot work."""
    s3 = settings.SNAPSHOT_S3
    if s3:
        address = f"s3://{s3['bucket']}/{s3['prefix']}".rstrip("/")
        return open_store(
            address,
            endpoint_url=s3["endpoint"] or None,
            access_key=s3["access_key_id"],
            secret_key=s3["secret_access_key"],
            region=s3["region"],
            path_style=s3["path_style"],
        )
    return open_store(
        str(settings.SNAPSHOT_STORE),
        base_url=urljoin(settings.PUBLIC_URL + "/", STORE_PATH.lstrip("/")),
        signing_key=settings.STORE_SIGNING_KEY.encode(),
    )
