"""The chains of the pool: looking at a checkpoint. Importing this registers them."""

from pool.chains import checkpoint

__all__ = ["checkpoint"]
