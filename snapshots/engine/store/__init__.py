"""Object stores behind one port (base.Store): a folder, or an S3 bucket."""

from __future__ import annotations

from urllib.parse import urlsplit

from snapshots.engine.store.base import Store, StoreRefused
from snapshots.engine.store.folder import FolderStore

__all__ = ["open_store"]


def open_store(
    address: str,
    *,
    base_url: str = "",
    signing_key: bytes = b"",
    endpoint_url: str | None = None,
    access_key: str | None = None,
    secret_key: str | None = None,
    region: str = "auto",
    path_style: bool = False,
) -> Store:
    """A folder's path, or s3://bucket[/prefix]. base_url and signing_key are a folder's, the rest a bucket's.

    Raises StoreRefused: an address of another kind, a folder that cannot be written, a missing boto3.
    """
    if "://" not in address:
        return FolderStore(address, base_url=base_url, signing_key=signing_key)
    parts = urlsplit(address)
    if parts.scheme != "s3" or not parts.netloc:
        raise StoreRefused(f"a store is a folder or s3://bucket/prefix, not {parts.scheme}://…")
    try:
        from snapshots.engine.store.s3 import S3Store  # boto3 is not among an agent's packages
    except ImportError as error:
        raise StoreRefused("s3:// needs the package boto3: pip install boto3") from error
    return S3Store(
        parts.netloc,
        prefix=parts.path,
        endpoint_url=endpoint_url,
        access_key=access_key,
        secret_key=secret_key,
        region=region,
        path_style=path_style,
    )
