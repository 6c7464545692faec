"""What the pool tells other apps. Every signal is sent inside the transaction that made it true.

A receiver writes rows and rings doorbells (they wait for the commit); it does no network of its own. What it raises
rolls the whole change back.
"""

from django.dispatch import Signal

samples_stored = Signal()
"""samples: list[Sample], new ones, oldest first, of any number of workers. now: datetime."""

worker_online = Signal()
"""worker: Worker. It has enrolled a new session, or its posts (re)appeared. now: datetime."""

worker_away = Signal()
"""worker: Worker. It was lost, went offline or was revoked; its open dispatches are withdrawn. now: datetime."""

dispatch_claimed = Signal()
"""dispatch: Dispatch, now claimed for the first time. now: datetime."""

dispatch_finished = Signal()
"""dispatch: Dispatch, in its final state: succeeded, failed, cancelled, interrupted or withdrawn. now: datetime."""
