"""A job's line to the store: the control plane signs, the snapshot engine's remote moves the bytes and tries again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from agent import wire
from agent.backoff import Backoff
from agent.client import Client, Refused, StandDown, Unreachable, post_until_answered
from agent.hold import Hold
from agent.store_away import StoreAway, pause_until
from snapshots.engine.errors import Cancelled
from snapshots.engine.remote import ObjectPlan, PresignedRemote
from snapshots.engine.store.base import SignedRequest, StoreRefused


class JobLine:
    """For one dispatch. `stopped` is asked several times a second; everything here raises Cancelled once it says so."""

    def __init__(
        self, client: Client, hold: Hold, *, stopped: Callable[[], bool], backoff_cap_s: float
    ) -> None:
        self._client = client
        self._hold = hold
        self._stopped = stopped
        self._backoff_cap_s = backoff_cap_s

    def post(self, verb: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Repeated until answered. Raises Refused, Cancelled."""
        try:
            answer = post_until_answered(
                self._client,
                wire.dispatch_path(self._hold.claim.dispatch_id, verb),
                body,
                backoff=Backoff(cap_s=self._backoff_cap_s),
                given_up=self._stopped,
            )
        except Unreachable as error:
            raise Cancelled("stopped while the control plane was away") from error
        except StandDown as error:
            self._hold.supersede()
            raise Cancelled("stood down") from error
        return answer or {}

    def remote(self, *, phase: str) -> PresignedRemote:
        """phase: what is told once a store that was away is back."""
        away = StoreAway(self._client, self._hold, phase=phase)
        return PresignedRemote(self._ask_put, self._ask_get, pause=pause_until(self._stopped), patience=away)

    def _ask_put(self, plans: Sequence[ObjectPlan]) -> Sequence[SignedRequest]:
        wishes = tuple(wire.PutWish(key=plan.key, length=plan.length, sha256=plan.sha256) for plan in plans)
        return self._signed(wire.PlanPost(fence=self._hold.claim.fence, put=wishes))

    def _ask_get(self, keys: Sequence[str]) -> Sequence[SignedRequest]:
        return self._signed(wire.PlanPost(fence=self._hold.claim.fence, get=tuple(keys)))

    def _signed(self, post: wire.PlanPost) -> Sequence[SignedRequest]:
        try:
            answer = wire.ObjectsAnswer.from_json(self.post("objects", wire.to_json(post)))
        except (Refused, wire.WireError) as error:
            raise StoreRefused(f"the control plane does not sign this transfer: {error}") from error
        return [
            SignedRequest(item.method, self._absolute(item.url), item.headers)
            for item in (*answer.put, *answer.get)
        ]

    def _absolute(self, url: str) -> str:
        """A path is one of the control plane's own: it need not know by which address this machine reaches it."""
        return self._client.url + url if url.startswith("/") else url
