"""A small world to sleep and wake in: the database, Valkey, a local host with real boxes, a real store, and in each box
an agent of the tests' own that does the real thing (enrols, posts, takes and restores with the engine) in this process.

Time is `world.now()`: the clock of this machine plus what `world.forward(seconds)` added. Nothing here sleeps to win a
race; what another process does (the host starts or removes a box) is waited for by looking.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from django.conf import settings
from django.db import connections
from django.utils import timezone

from agent import wire
from core import broker, chains
from core.agents import AgentIdentity
from core.chain_states import ChainState
from core.errors import DomainError, StandDown
from core.models import Chain, Event
from core.reasons import because
from core.transitions import advance
from gateway import keys
from hibernation.models import Box, Instance
from hibernation.providers.base import Phase
from hibernation.providers.local import LocalProvider, local_folder
from hibernation.providers.local_faults import FaultKind, fault_add, faults_clear
from hibernation.services.boxes import provider_of
from hibernation.services.hibernate import instance_hibernate
from hibernation.services.instances import instance_create
from hibernation.services.reconcile import account_reconcile
from hibernation.services.wake import instance_wake
from hibernation.states import InstanceState
from pool.models import Account, Dispatch, Worker
from pool.services import enrollment, intake, reports
from pool.services.workers import worker_lost
from pool.states import DispatchState, WorkerState
from snapshots.engine.compare import Difference, compare
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
from snapshots.models import Snapshot
from snapshots.services import taking
from snapshots.services.store import store
from tests.hibernation.providers.hosts import LocalHost, eventually
from tests.hibernation.rows import account_of, person

GB = 10**9
EFFORT = Effort(streams=2, workers=1, retry_pause_s=0.0, rounds=2)
CONFIG = {
    "auto_hibernation": {
        "pause_after_idle_minutes": 3,
        "minimum_awake_minutes": 0,
        "check_interval_seconds": 30,
        "verify_share": 1,
    }
}


def agent_errors() -> tuple[type[Exception], ...]:
    """What an agent reports as a failure of its work."""
    return (EngineError, OSError)


class World:
    """host: the running local host. agents: by the ref of the box that they live in."""

    def __init__(self, host: LocalHost) -> None:
        self.host = host
        self.skipped = timedelta(0)
        self.agents: dict[str, Agent] = {}
        self.enrolling = True
        self.db_thread = ThreadPoolExecutor(1, thread_name_prefix="agent's line")

    # -- time ---------------------------------------------------------------------------------------------------------

    def now(self) -> datetime:
        return datetime.now(UTC) + self.skipped

    def forward(self, seconds: float) -> None:
        self.skipped += timedelta(seconds=max(0.0, seconds))

    # -- rows ---------------------------------------------------------------------------------------------------------

    def account(self, owner: Any = None, **columns: Any) -> Account:
        account = account_of(owner or person())
        if columns:
            Account.objects.filter(pk=account.pk).update(**columns)
            account.refresh_from_db()
        return account

    def create(self, *, owner: Any = None, name: str = "studio", **fields: Any) -> Instance:
        """An instance that is being provisioned. Its owner is alice unless somebody else is named."""
        owner = owner or person()
        account = Account.objects.filter(owner=owner).first() or self.account(owner)
        given = {"gpu_type": "RTX 4090", "disk_bytes": GB, "config": CONFIG, "by": "alice", **fields}
        return instance_create(owner=owner, name=name, account=account, now=self.now(), **given)

    def running(self, **fields: Any) -> Instance:
        """An instance that runs on its first box, with files in its workspace."""
        instance = self.create(**fields)
        self.run(instance)
        instance.refresh_from_db()
        assert instance.state == InstanceState.RUNNING, instance.reason
        furnish(self.agent(instance).workspace)
        return instance

    def asleep(self, **fields: Any) -> tuple[Instance, Path]:
        """An instance that sleeps, and a copy of what its workspace held."""
        instance = self.running(**fields)
        kept = self.copy(instance)
        self.hibernate(instance)
        assert self.run(instance).state == ChainState.SUCCEEDED
        instance.refresh_from_db()
        return instance, kept

    def hibernate(self, instance: Instance, *, by: str = "alice", asked: bool | None = None) -> Chain:
        instance.refresh_from_db()
        return instance_hibernate(
            instance, reason=because("hibernate_asked", by=by), by=by, now=self.now(), asked=asked
        )

    def wake(self, instance: Instance, **wishes: Any) -> Chain:
        instance.refresh_from_db()
        return instance_wake(
            instance, reason=because("wake_asked", by="alice"), by="alice", now=self.now(), **wishes
        )

    def copy(self, instance: Instance) -> Path:
        """The workspace as it is now, kept elsewhere to compare with."""
        kept = self.host.folder.parent / f"kept-{instance.pk}-{len(list(self.host.folder.parent.iterdir()))}"
        shutil.copytree(self.agent(instance).workspace, kept, symlinks=True)
        shutil.copystat(self.agent(instance).workspace, kept)
        return kept

    def differences(self, instance: Instance, kept: Path) -> list[Difference]:
        return compare(kept, self.agent(instance).workspace, ignore=frozenset({"links", "blocks"}))

    # -- the provider --------------------------------------------------------------------------------------------------

    def fault(self, kind: FaultKind, **how: Any) -> None:
        fault_add(self.host.folder, kind, **how)

    def faults_clear(self) -> None:
        faults_clear(self.host.folder)

    def box(self, instance: Instance) -> Box:
        return (
            Box.objects.select_related("account", "instance__worker")
            .filter(instance=instance)
            .latest("epoch")
        )

    def rented(self) -> list[dict[str, Any]]:
        """The host's own books: every box that it has, whoever's."""
        found = []
        for path in sorted((self.host.folder / "boxes").iterdir()):
            with suppress(FileNotFoundError):  # the host removes it at this moment
                found.append(json.loads((path / "box.json").read_text()))
        return found

    def settled(self) -> None:
        """Wait until the host has done what it is about to do: start what boots, remove what must go."""
        eventually(lambda: not any(self._in_motion(book) for book in self.rented()))

    def _in_motion(self, book: dict[str, Any]) -> bool:
        if book["destroying"]:
            return True
        boots = book["boots_at"] is not None and not book["ended"]
        return boots and book["running_since"] is None

    # -- agents --------------------------------------------------------------------------------------------------------

    def agent(self, instance: Instance) -> Agent:
        """The agent of the instance's newest box."""
        return self.agents[self.box(instance).provider_ref]

    def agents_turn(self) -> bool:
        """Every agent does what it has to do. True where there was something."""
        busy = False
        for book in self.rented():
            ref = book["ref"]
            if ref not in self.agents and self.enrolling and book["running_since"] is not None:
                self.agents[ref] = Agent(self, ref, book["environment"])
        for ref, agent in self.agents.items():
            if (self.host.box(ref) / "workspace").is_dir():
                busy = agent.turn() or busy
        return busy

    def silence(self, instance: Instance) -> None:
        """Its agent's posts stop coming: suspect, then lost, as the liveness tick does it."""
        worker = worker_of(instance)
        if worker.state == WorkerState.ONLINE:
            advance(worker, WorkerState.SUSPECT, reason=because("created"), now=self.now())
        worker_lost(worker, reason=because("created"), now=self.now())

    # -- chains ---------------------------------------------------------------------------------------------------------

    def chain(self, instance: Instance) -> Chain:
        """The instance's newest chain."""
        rows = Chain.objects.filter(subject_type=Instance.SUBJECT, subject_id=instance.pk)
        return rows.order_by("-created_at", "-pk")[0]

    def enter(self, chain: Chain) -> bool:
        """One entry into the chain's step, at this world's time."""
        self.settled()
        entered = chains.chain_enter(chain.pk, now=self.now())
        chain.refresh_from_db()
        return entered

    def run(
        self,
        instance: Instance,
        *,
        until: str | Callable[[Chain], bool] | None = None,
        agents: bool = True,
        stride_s: float = 0.0,
        most: int = 200,
    ) -> Chain:
        """Enter the instance's chain until it has ended, or has come to the step `until`. Agents work in between, and
        where there is nothing to do the time goes on to the moment at which there will be (by stride_s at least)."""
        reached = (lambda chain: chain.step == until) if isinstance(until, str) else until
        chain = self.chain(instance)
        for _ in range(most):
            if chain.state != ChainState.ACTIVE or (reached is not None and reached(chain)):
                return chain
            if self.enter(chain) or (agents and self.agents_turn()):
                chain.refresh_from_db()
                continue
            if agents and chain.step == "recheck":
                self.agent(instance).post()
            chain.refresh_from_db()
            assert chain.next_at is not None
            self.forward(max(stride_s, (chain.next_at - self.now()).total_seconds()))
        raise AssertionError(f"{chain.kind} does not get beyond {chain.step}: {chain.reason}")

    def reconcile(self, account: Account | None = None, *, times: int = 1) -> None:
        for _ in range(times):
            self.settled()
            for row in [account] if account else Account.objects.filter(kind="local"):
                account_reconcile(row, now=self.now())
            self.forward(15)

    def events(self, row: Any) -> list[str]:
        """Codes of what happened to a row, the oldest first."""
        mine = Event.objects.filter(subject_type=row.SUBJECT, subject_id=row.pk)
        return list(mine.order_by("id").values_list("code", flat=True))

    # -- the end ---------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        self.db_thread.submit(connections.close_all).result()
        self.db_thread.shutdown()
        faults_clear(self.host.folder)
        for book in self.rented():
            LocalProvider(self.host.folder, tenant=book["tenant"], timeout_s=5).destroy(book["ref"])
        eventually(lambda: not self.rented())


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


def furnish(workspace: Path) -> None:
    """Files of several kinds, some bytes that do not compress."""
    (workspace / "notes").mkdir()
    (workspace / "notes" / "today.txt").write_text("slept well\n" * 400)
    (workspace / "model.bin").write_bytes(bytes(range(256)) * 4096)
    (workspace / "run.sh").write_text("#!/bin/sh\n")
    (workspace / "run.sh").chmod(0o755)
    (workspace / "latest").symlink_to("model.bin")
    (workspace / "empty").mkdir(mode=0o700)


def instance_state(instance: Instance) -> str:
    return Instance.objects.values_list("state", flat=True).get(pk=instance.pk)


def last_generation(instance: Instance) -> Snapshot:
    return Snapshot.objects.filter(instance_ref=instance.pk).latest("generation")


def worker_of(instance: Instance) -> Worker:
    return Worker.objects.get(instance_ref=instance.pk)


def listed(account: Account) -> list[str]:
    """Labels of what the provider has for this account."""
    return [facts.label for facts in provider_of(account).listing()]


def phase_of(account: Account, ref: str) -> Phase | None:
    facts = provider_of(account).read(ref)
    return facts and facts.phase


def the_world(host: LocalHost, monkeypatch: Any, folder: Path) -> Iterator[World]:
    """A world for one test: its own clock, its own store, an empty host."""
    world = World(host)
    monkeypatch.setattr(timezone, "now", world.now)
    monkeypatch.setattr(settings, "SNAPSHOT_STORE", str(folder / "store"))
    store.cache_clear()
    yield world
    world.close()
    store.cache_clear()


def started_host() -> LocalHost:
    return LocalHost(local_folder(settings.DATA_DIR), boot_s=0, boxes=16, grace_s=1).start()
