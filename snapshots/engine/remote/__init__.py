"""How take and restore move bytes: straight to a store, or by presigned requests over HTTP."""

from snapshots.engine.remote.base import ObjectPlan, Remote

__all__ = ["ObjectPlan", "Remote"]
