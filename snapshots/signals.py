"""What snapshots tell other apps. Sent inside the transaction that made it true, as the pool's are (pool/signals.py)."""

from django.dispatch import Signal

snapshot_committed = Signal()
"""snapshot: Snapshot, its agent has uploaded everything; nobody has checked it yet. now: datetime."""
