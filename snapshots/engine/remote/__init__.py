"""How take and restore move bytes: straight to a store, or by presigned requests over HTTP."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from snapshots.engine.remote.base import ObjectPlan, Remote
from snapshots.engine.remote.direct import StoreRemote

if TYPE_CHECKING:
    from snapshots.engine.remote.presigned import AskGet, AskPut, PresignedRemote, new_session

__all__ = ["AskGet", "AskPut", "ObjectPlan", "PresignedRemote", "Remote", "StoreRemote", "new_session"]


def __getattr__(name: str) -> Any:
    """The HTTP client takes a tenth of a second to import, which a take straight into a folder need not wait for."""
    if name not in __all__:
        raise AttributeError(name)
    from snapshots.engine.remote import presigned

    return getattr(presigned, name)
