"""How take and restore move bytes: straight to a store, or by presigned requests over HTTP."""

from snapshots.engine.remote.base import ObjectPlan, Remote
from snapshots.engine.remote.direct import StoreRemote
from snapshots.engine.remote.presigned import AskGet, AskPut, PresignedRemote, new_session

__all__ = ["AskGet", "AskPut", "ObjectPlan", "PresignedRemote", "Remote", "StoreRemote", "new_session"]
