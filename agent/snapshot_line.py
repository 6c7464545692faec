"""The line to the control plane during a snapshot or restore: terms, signed transfers, progress."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from agent import wire
from agent.backoff import Backoff
from agent.client import Client, Refused, StandDown, Unreachable, post_until_answered
from agent.hold import Hold
from agent.store_away import pause_until
from agent.wire import PlanAnswer, PlanPost, ProgressPost, PutWish, SnapshotTerms
from snapshots.engine.errors import Cancelled
from snapshots.engine.progress import Progress
from snapshots.engine.remote import ObjectPlan, PresignedRemote
from snapshots.engine.remote.retry import Patience
from snapshots.engine.store.base import SignedRequest, StoreRefused

log = logging.getLogger("agent.snapshotting")

PROGRESS_EVERY_S = 0.5
PROGRESS_AT_LEAST_EVERY_S = 1.0
"""Also where nothing moves: the answer may say that somebody has cancelled."""


class Line:
    """The line to the control plane for one snapshot: terms and presigned requests, asked for as long as it takes.

    given_up: asked several times a second while it is away. stood_down: called where the snapshot is not ours any more.
    """

    def __init__(
        self,
        client: Client,
        *,
        snapshot_id: str,
        fence: int,
        verb: str,
        backoff_cap_s: float,
        given_up: Callable[[], bool],
        stood_down: Callable[[], None],
    ) -> None:
        self._client = client
        self._snapshot_id = snapshot_id
        self._fence = fence
        self._verb = verb
        self._backoff_cap_s = backoff_cap_s
        self._given_up = given_up
        self._stood_down = stood_down

    @classmethod
    def of(cls, client: Client, hold: Hold, *, verb: str, backoff_cap_s: float) -> Line:
        """For a dispatch that is a snapshot or restore. Raises WireError where its work does not say of which."""
        snapshot_id = hold.claim.work.get("snapshot_id")
        if not isinstance(snapshot_id, str) or not snapshot_id:
            raise wire.WireError("work of a snapshot or restore needs its snapshot_id")
        return cls(
            client,
            snapshot_id=snapshot_id,
            fence=hold.claim.fence,
            verb=verb,
            backoff_cap_s=backoff_cap_s,
            given_up=lambda: hold.halt is not None,
            stood_down=hold.supersede,
        )

    def terms(self) -> SnapshotTerms:
        return self._plan(PlanPost(fence=self._fence)).terms

    def remote(self, *, patience: Patience | None = None) -> PresignedRemote:
        """patience: how long a store that is away is waited for."""
        pause = pause_until(self._given_up)
        return PresignedRemote(self._ask_put, self._ask_get, pause=pause, patience=patience)

    def post(self, verb: str, body: Mapping[str, Any]) -> dict[str, Any] | None:
        """Repeated until answered; Cancelled once the work is to stop. Raises Refused."""
        try:
            return post_until_answered(
                self._client,
                wire.snapshot_path(self._snapshot_id, verb),
                body,
                backoff=Backoff(cap_s=self._backoff_cap_s),
                given_up=self._given_up,
            )
        except Unreachable as error:
            raise Cancelled("stopped while the control plane was away") from error
        except StandDown as error:
            self._stood_down()
            raise Cancelled("stood down") from error

    def _plan(self, post: PlanPost) -> PlanAnswer:
        return PlanAnswer.from_json(self.post(self._verb, wire.to_json(post)))

    def _ask_put(self, plans: Sequence[ObjectPlan]) -> Sequence[SignedRequest]:
        wishes = tuple(PutWish(key=plan.key, length=plan.length, sha256=plan.sha256) for plan in plans)
        return self._signed(PlanPost(fence=self._fence, put=wishes))

    def _ask_get(self, keys: Sequence[str]) -> Sequence[SignedRequest]:
        return self._signed(PlanPost(fence=self._fence, get=tuple(keys)))

    def _signed(self, post: PlanPost) -> Sequence[SignedRequest]:
        try:
            answer = self._plan(post)
        except (Refused, wire.WireError) as error:
            raise StoreRefused(f"the control plane does not sign this transfer: {error}") from error
        return [
            SignedRequest(item.method, self._absolute(item.url), item.headers)
            for item in (*answer.put, *answer.get)
        ]

    def _absolute(self, url: str) -> str:
        """A path is one of the control plane's own: it need not know by which address this machine reaches it."""
        return self._client.url + url if url.startswith("/") else url


class Teller:
    """Tells the control plane how far it is, from a thread of its own so that a slow server never slows the bytes."""

    def __init__(self, client: Client, hold: Hold) -> None:
        self._client = client
        self._hold = hold
        self._latest: Progress | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(
            target=self._run, name=f"progress {hold.claim.dispatch_id}", daemon=True
        )

    def __enter__(self) -> Teller:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        # Not joined: a report in flight to a silent server must not hold up the end.
        self._over.set()

    def tell(self, progress: Progress) -> None:
        self._latest = progress

    def _run(self) -> None:
        told: Progress | None = None
        told_s = float("-inf")
        while not self._over.wait(PROGRESS_EVERY_S):
            latest = self._latest
            overdue = time.monotonic() - told_s >= PROGRESS_AT_LEAST_EVERY_S
            if latest is not None and (latest != told or overdue):
                told, told_s = latest, time.monotonic()
                self._post(latest)

    def _post(self, progress: Progress) -> None:
        post = ProgressPost(fence=self._hold.claim.fence, **asdict(progress))
        try:
            answer = self._client.post(
                wire.dispatch_path(self._hold.claim.dispatch_id, "progress"), wire.to_json(post)
            )
        except Unreachable as error:
            log.info("dispatch=%s progress not told: %s", self._hold.claim.dispatch_id, error)
        except Refused as error:
            if isinstance(error, StandDown) or error.status == 404:
                self._hold.supersede()
            log.info("dispatch=%s progress refused: %s", self._hold.claim.dispatch_id, error)
        else:
            if (answer or {}).get("cancel") is True:
                self._hold.cancel()
