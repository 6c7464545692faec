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
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import connections, transaction
from django.utils import timezone

from agent import wire
from core import chains
from core.chain_states import ChainState
from core.models import Chain, Event
from core.reasons import because
from core.transitions import advance
from hibernation.chains.hibernate import let_go
from hibernation.models import Box, Instance
from hibernation.providers.base import OfferQuery, Phase
from hibernation.providers.local import LocalProvider, local_folder
from hibernation.providers.local_faults import FaultKind, fault_add, faults_clear
from hibernation.services import boxes, pursuit
from hibernation.services.boxes import provider_of
from hibernation.services.hibernate import instance_hibernate
from hibernation.services.instances import instance_create
from hibernation.services.reconcile import account_reconcile
from hibernation.services.wake import instance_wake
from hibernation.states import BoxState, InstanceState
from pool.models import Account, Worker
from pool.services.workers import worker_lost, worker_slots_set
from pool.states import WorkerState
from snapshots.engine.compare import Difference, compare
from snapshots.models import Snapshot
from snapshots.services import taking, verifying
from snapshots.services.store import store
from tests.hibernation.boxed_agent import Agent
from tests.hibernation.providers.hosts import LocalHost, eventually
from tests.hibernation.rows import account_of, person

GB = 10**9
CONFIG = {
    "auto_hibernation": {
        "pause_after_idle_minutes": 3,
        "minimum_awake_minutes": 0,
        "check_interval_seconds": 30,
        "verify_share": 1,
    }
}


class World:
    """host: the running local host, or what stands for it. agents: by the ref of the box that they live in."""

    def __init__(self, host: Any) -> None:
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

    def provisioned(self, **fields: Any) -> Instance:
        """An instance that runs on its first box, brought up by its own chain."""
        instance = self.create(**fields)
        self.run(instance)
        instance.refresh_from_db()
        assert instance.state == InstanceState.RUNNING, instance.reason
        furnish(self.agent(instance).workspace)
        return instance

    def running(self, **fields: Any) -> Instance:
        """The same without the chain: its rows as the chain would leave them, a real box, an agent that has enrolled."""
        instance = self.create(**fields)
        Chain.objects.filter(subject_id=instance.pk).delete()
        provider = provider_of(instance.account)
        offer = min(
            provider.offers(OfferQuery(gpu_type=instance.gpu_type, disk_bytes=instance.disk_bytes)),
            key=lambda offer: offer.price_usd_per_h,
        )
        now = self.now()
        box = boxes.box_plan(instance, offer, now=now)
        boxes.box_asked_for(box, now=now)
        ref = provider.create(box.offer_id, boxes.box_spec(box, now=now))
        boxes.box_rented(box, ref=ref, reason=because("rented", ref=ref), now=now)
        self.settled()
        self.agents_turn()
        boxes.box_up(box, now=now)
        boxes.box_hand_over(box, now=now)
        started = because("first_start")
        advance(instance, InstanceState.RUNNING, reason=started, now=now, awake_since=now, last_active_at=now)
        worker_slots_set(worker_of(instance), 1)
        furnish(self.agent(instance).workspace)
        instance.refresh_from_db()
        return instance

    def asleep(self, **fields: Any) -> tuple[Instance, Path]:
        """An instance that sleeps, and a copy of what its workspace held: as its chain would leave it, without the chain."""
        instance = self.running(**fields)
        kept, agent, box = self.copy(instance), self.agent(instance), self.box(instance)
        generation = taking.snapshot_begin(
            owner=instance.owner,
            workspace_ref=instance.pk,
            epoch=1,
            worker_ref=str(instance.worker_id),
            worker_epoch=1,
            key=f"{instance.pk}:night",
            now=self.now(),
        )
        agent.take(
            wire.Claimed(
                dispatch_id="", kind="snapshot", fence=0, lease_s=60, work={"snapshot_id": generation.pk}
            )
        )
        generation.refresh_from_db()
        assert verifying.snapshot_verify(generation, share=1)
        advance(
            instance, InstanceState.HIBERNATING, reason=because("hibernate_asked", by="alice"), now=self.now()
        )
        with transaction.atomic():
            let_go(instance, box, generation, now=self.now())
        provider_of(box.account).destroy(box.provider_ref)
        self.settled()
        eventually(lambda: box.label not in listed(instance.account))
        for _ in range(2):
            pursuit.box_pursue(box, provider_of(box.account), now=self.now())
            self.forward(pursuit.SEEN_TWICE_S)
        assert box.state == BoxState.GONE
        advance(
            instance,
            InstanceState.HIBERNATED,
            reason=because("saved_and_gone", generation=1, box=box.provider_ref),
            now=self.now(),
            snapshot_id=generation.pk,
            hibernated_at=self.now(),
            delete_due_at=self.now() + timedelta(minutes=30),
        )
        worker_slots_set(worker_of(instance), 0)
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

    def until_gone(self, instance: Instance) -> None:
        """Wait until the provider has nothing any more of the instance's newest box, seen with its account's eyes."""
        box = self.box(instance)
        provider = provider_of(box.account)
        eventually(
            lambda: (
                provider.read(box.provider_ref) is None
                and box.provider_ref not in {facts.ref for facts in provider.listing()}
            )
        )

    def settled(self) -> None:
        """Wait until the host has done what it is about to do: start what boots, remove what must go."""
        eventually(lambda: not any(self._in_motion(book) for book in self.rented()))
        kept = {book["ref"] for book in self.rented()}
        destroying = Box.objects.filter(state=BoxState.DESTROYING).exclude(provider_ref="")
        for box in destroying.select_related("account"):
            if box.provider_ref not in kept:  # its folder is gone; the host lists it a moment longer
                provider = provider_of(box.account)
                eventually(lambda ref=box.provider_ref, ask=provider.read: ask(ref) is None)

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
        self.empty()
        eventually(lambda: not self.rented())

    def empty(self) -> None:
        """No faults, and no box of anybody's."""
        self.faults_clear()
        for book in self.rented():
            LocalProvider(self.host.folder, tenant=book["tenant"], timeout_s=5).destroy(book["ref"])


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
    return Snapshot.objects.filter(workspace_ref=instance.pk).latest("generation")


def worker_of(instance: Instance) -> Worker:
    return Worker.objects.get(instance_ref=instance.pk)


def listed(account: Account) -> list[str]:
    """Labels of what the provider has for this account."""
    return [facts.label for facts in provider_of(account).listing()]


def hidden(world: World, instance: Instance, monkeypatch: Any) -> None:
    """The provider no longer has the box, in its list and by id: as after a partition between its own machines."""
    listing, read, label = LocalProvider.listing, LocalProvider.read, world.box(instance).label
    monkeypatch.setattr(
        LocalProvider, "listing", lambda self: [facts for facts in listing(self) if facts.label != label]
    )
    monkeypatch.setattr(
        LocalProvider,
        "read",
        lambda self, ref: facts if (facts := read(self, ref)) and facts.label != label else None,
    )


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
