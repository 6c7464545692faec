"""What lives in a box of the small world: an agent of the tests' own that does the real thing in this process."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from io import BytesIO
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote, urlsplit

from agent import wire
from core import broker
from core.agents import AgentIdentity
from core.errors import DomainError, StandDown
from gateway import keys
from pool.models import Dispatch
from pool.services import enrollment, intake, reports
from pool.states import DispatchState
from snapshots.engine.errors import EngineError
from snapshots.engine.limits import Effort
from snapshots.engine.manifest import load_manifest
from snapshots.engine.progress import Progress
from snapshots.engine.remote import ObjectPlan, Remote
from snapshots.engine.restore import restore
from snapshots.engine.store.base import ObjectExists, ObjectMissing, SignedRequest, StoreRefused
from snapshots.engine.store.folder import FolderStore
from snapshots.engine.store.folder_http import Reply, respond
from snapshots.engine.take import take
from snapshots.services import taking
from snapshots.services.store import store

if TYPE_CHECKING:
    from tests.hibernation.world import World

EFFORT = Effort(streams=2, workers=1, retry_pause_s=0.0, rounds=2)


def agent_errors() -> tuple[type[Exception], ...]:
    """What an agent reports as a failure of its work."""
    return (EngineError, OSError)


class Agent:
    """What lives in a box. util: what its GPU does. Its first post follows its enrolment at once."""

    def __init__(self, world: World, ref: str, environment: dict[str, str]) -> None:
        self.world = world
        self.ref = ref
        self.token = environment["DORMOUSE_JOIN_TOKEN"]
        self.workspace = world.host.box(ref) / "workspace"
        self.identity: AgentIdentity | None = None
        self.util: float | None = 0.0
        self.stood_down = False
        self.works = True
        self.while_reading: Callable[[Progress], None] | None = None
        self.after_upload: Callable[[Agent, wire.Claimed], None] | None = None
        self.instead: dict[str, Callable[[Agent, wire.Claimed], wire.FinishPost | None]] = {}
        self.done: list[str] = []

    # -- its line ------------------------------------------------------------------------------------------------------

    def turn(self) -> bool:
        if self.stood_down:
            return False
        try:
            if self.identity is None:
                return self.enrol()
            return self.works and self.work()
        except StandDown:
            self.stood_down = True
            return True

    def enrol(self) -> bool:
        gpu = wire.Gpu(index=0, name="RTX 4090", util=0.0, mem_used_bytes=0, mem_total_bytes=24 * 1024**3)
        post = wire.EnrollPost(token=self.token, request_id=self.ref, name="box", gpus=(gpu,))
        try:
            given = enrollment.worker_enroll(post=post, now=self.world.now())
        except StandDown:
            raise
        except DomainError:
            self.stood_down = True
            return True
        self.identity = AgentIdentity(given.worker_id, given.epoch)
        self.post()
        return True

    def post(self, util: float | str | None = "own", **fields: Any) -> None:
        """A status post, through the stream and the intake as the gateway and the tick do it."""
        assert self.identity is not None
        enrollment.gate(self.identity)
        body = {
            "worker_id": self.identity.worker_id,
            "epoch": self.identity.epoch,
            "gpu_util": self.util if util == "own" else util,
            "jobs": list(self._held()),
            **fields,
        }
        at = self.world.now()
        broker.client().xadd(
            keys.STATUS_STREAM, {"body": json.dumps(body), "at": f"{at.timestamp():.6f}"}, id="*"
        )
        intake.intake_drain(now=self.world.now())

    def _held(self) -> list[str]:
        assert self.identity is not None
        rows = Dispatch.objects.filter(
            worker=self.identity.worker_id, epoch=self.identity.epoch, state=DispatchState.CLAIMED
        )
        return list(rows.values_list("pk", flat=True))

    def claim(self) -> wire.Claimed | None:
        """The next piece of work, if there is one."""
        assert self.identity is not None
        enrollment.gate(self.identity)
        rung = Dispatch.objects.filter(
            worker=self.identity.worker_id, epoch=self.identity.epoch, state=DispatchState.RUNG
        )
        waiting = rung.order_by("state_since", "pk").first()
        if waiting is None:
            return None
        return reports.dispatch_claim(identity=self.identity, dispatch_id=waiting.pk, now=self.world.now())

    def work(self) -> bool:
        """Claim one piece of work and do it to its end. True where there was one."""
        claim = self.claim()
        if claim is None:
            return False
        finished = self.do(claim)
        self.done.append(claim.kind)
        if finished is not None:
            self.finish(claim, finished)
        return True

    def do(self, claim: wire.Claimed) -> wire.FinishPost | None:
        if claim.kind in self.instead:
            return self.instead[claim.kind](self, claim)
        work = {"snapshot": self.take, "restore": self.restore, "command": self.succeed}[claim.kind]
        try:
            return work(claim)
        except agent_errors() as error:
            return wire.FinishPost(fence=claim.fence, outcome="failed", reason=str(error))

    def finish(self, claim: wire.Claimed, post: wire.FinishPost) -> None:
        assert self.identity is not None
        enrollment.gate(self.identity)
        reports.dispatch_finish(
            identity=self.identity, dispatch_id=claim.dispatch_id, post=post, now=self.world.now()
        )

    # -- its work --------------------------------------------------------------------------------------------------------

    def succeed(self, claim: wire.Claimed) -> wire.FinishPost:
        return wire.FinishPost(fence=claim.fence, outcome="succeeded", exit_code=0)

    def take(self, claim: wire.Claimed) -> wire.FinishPost:
        """The workspace into the store, the root last, then the commit."""
        assert self.identity is not None
        snapshot_id = str(claim.work["snapshot_id"])
        enrollment.gate(self.identity)
        terms = taking.snapshot_terms(taking.snapshot_for_agent(snapshot_id, self.identity))
        line = PlannedRemote(self, snapshot_id)
        parent = None
        if terms.parent_root_key is not None:
            parent = load_manifest(line, root_key=terms.parent_root_key, owner_key=terms.owner_key_bytes())
        taken = take(
            self.workspace,
            remote=line,
            owner_key=terms.owner_key_bytes(),
            owner_id=terms.owner_id,
            snapshot_id=terms.snapshot_id,
            parent=parent,
            effort=EFFORT,
            progress=self.while_reading,
        )
        if self.after_upload is not None:
            self.after_upload(self, claim)
        taking.snapshot_commit(
            snapshot_id,
            self.identity,
            facts={
                name: getattr(taken, name)
                for name in (
                    "root_key", "root_sha256", "root_length", "content_id", "files", "logical_bytes",
                    "stored_bytes", "new_packs",
                )
            } | {"warnings": list(taken.warnings)},
            now=self.world.now(),
        )  # fmt: skip
        return wire.FinishPost(
            fence=claim.fence, outcome="succeeded", result={"content_id": taken.content_id}
        )

    def restore(self, claim: wire.Claimed) -> wire.FinishPost:
        """A generation into the workspace, every chunk hashed."""
        assert self.identity is not None
        enrollment.gate(self.identity)
        snapshot_id = str(claim.work["snapshot_id"])
        terms = taking.snapshot_terms(taking.snapshot_to_restore(snapshot_id, self.identity))
        restored = restore(
            self.workspace,
            remote=PlannedRemote(self, snapshot_id, restores=True),
            owner_key=terms.owner_key_bytes(),
            root_key=terms.root_key,
            expected_content_id=terms.content_id,
            effort=EFFORT,
        )
        result = {
            "content_id": restored.content_id,
            "files": restored.files,
            "logical_bytes": restored.logical_bytes,
        }
        return wire.FinishPost(fence=claim.fence, outcome="succeeded", result=result)


class PlannedRemote(Remote):
    """Transfers as an agent makes them: each asked for, signed by the control plane, and carried out by the store's own
    HTTP side, without the wire in between."""

    def __init__(self, agent: Agent, snapshot_id: str, *, restores: bool = False) -> None:
        self._agent = agent
        self._snapshot_id = snapshot_id
        self._restores = restores

    def put(self, plan: ObjectPlan, data: bytes) -> None:
        wish = wire.PutWish(key=plan.key, length=plan.length, sha256=plan.sha256)
        signed = self._signed(put=[wish])
        reply = self._ask(signed, plan.key, body=data)
        if reply.status == 412:
            if self.get(plan.key, offset=0, length=plan.length + 1) != data:
                raise ObjectExists(plan.key)
        elif reply.status != 200:
            raise StoreRefused(f"{reply.status} for {plan.key}")

    def get(self, key: str, *, offset: int, length: int) -> bytes:
        if not length:
            return b""
        signed = self._signed(get=[key])
        reply = self._ask(signed, key, range_=f"bytes={offset}-{offset + length - 1}")
        body = b"".join(reply.body)
        if reply.status == 404:
            raise ObjectMissing(key)
        if reply.status == 416:
            return b""
        if reply.status not in (200, 206):
            raise StoreRefused(f"{reply.status} for {key}")
        return body[:length]

    def _signed(self, **wishes: Any) -> wire.Presigned:
        return self._agent.world.db_thread.submit(self._plan, **wishes).result()

    def _plan(self, *, put: list[wire.PutWish] | None = None, get: list[str] | None = None) -> wire.Presigned:
        identity = self._agent.identity
        assert identity is not None
        enrollment.gate(identity)
        find = taking.snapshot_to_restore if self._restores else taking.snapshot_for_agent
        try:
            puts, gets = taking.snapshot_plan(find(self._snapshot_id, identity), put=put or [], get=get or [])
        except DomainError as error:
            raise StoreRefused(error.message) from error
        return (puts + gets)[0]

    def _ask(
        self, signed: wire.Presigned | SignedRequest, key: str, *, body: bytes = b"", range_: str = ""
    ) -> Reply:
        parts = urlsplit(signed.url)
        folder = store()
        assert isinstance(folder, FolderStore)
        return respond(
            folder,
            method=signed.method,
            key=unquote(parts.path).removeprefix("/store/"),
            query=dict(parse_qsl(parts.query)),
            headers={
                **signed.headers,
                "Content-Length": str(len(body)),
                **({"Range": range_} if range_ else {}),
            },
            body=BytesIO(body),
            now=datetime.now(UTC).timestamp(),
        )
