"""Everything that stops a hibernation: the box is not touched, the instance runs on, and it says why."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings

from agent import wire
from core.chain_states import ChainState
from core.models import Chain
from hibernation.models import Box, Instance
from hibernation.services.hibernate import FallingAsleep, hibernation_stop
from hibernation.services.instances import instance_keep_awake
from hibernation.states import BoxState, InstanceState
from pool.models import Dispatch, Job, Worker
from pool.services.job_spec import JobSpec
from pool.services.jobs import jobs_dispatch
from pool.services.submission import job_submit
from pool.states import DispatchState, JobState, WorkerState
from snapshots.models import Snapshot
from snapshots.services.deleting import snapshot_delete
from snapshots.states import SnapshotState
from tests.hibernation.boxed_agent import Agent
from tests.hibernation.world import CONFIG, World, last_generation, worker_of


def stopped(world: World, instance: Instance) -> str:
    """Hold the end of a hibernation that was stopped to everything it promises; returns the reason's code."""
    chain = world.run(instance)
    instance.refresh_from_db()
    assert chain.state == ChainState.ABORTED
    assert instance.state == InstanceState.RUNNING
    assert (instance.idle_since, instance.idle_due_at) == (None, None)
    box = world.box(instance)
    assert (box.state, box.safe_snapshot_id) == (BoxState.RUNNING, None)
    assert len(world.rented()) == 1, "the box was not touched"
    worker = worker_of(instance)
    assert worker.slots == 1 and worker.state != WorkerState.DRAINING, "it takes jobs again"
    assert not Snapshot.objects.filter(
        workspace_ref=instance.pk, state__in=(SnapshotState.TAKING, SnapshotState.COMMITTED)
    ).exists(), "nothing is left half done"
    assert not Dispatch.objects.filter(worker=worker, state__in=("rung", "claimed"), kind="snapshot").exists()
    assert "hibernation_stopped" in world.events(instance)[-2:]
    assert instance.reason_code == chain.reason_code
    return str(chain.reason_code)


def auto(world: World, **fields: Any) -> Instance:
    """An instance that a verdict puts to sleep: readings count."""
    instance = world.running(**fields)
    world.hibernate(instance, by="", asked=False)
    return instance


def submit(instance: Instance) -> Job:
    return job_submit(
        owner=instance.owner,
        spec=JobSpec(name="train", command=("true",), instance_ref=instance.pk),
        by=instance.owner.username,
    )


# -- before the snapshot ------------------------------------------------------------------------------------------------


def test_a_job_that_runs_stops_it(world: World) -> None:
    instance = world.running()
    submit(instance)
    jobs_dispatch(now=world.now())
    world.hibernate(instance, by="", asked=False)
    assert stopped(world, instance) == "job_on_it"
    assert Job.objects.get().state == JobState.DISPATCHED


def test_a_job_that_waits_for_it_stops_it(world: World) -> None:
    instance = auto(world)
    submit(instance)
    jobs_dispatch(now=world.now())
    assert Job.objects.get().state == JobState.QUEUED, "a worker that falls asleep takes no jobs"
    assert stopped(world, instance) == "job_waits_for_it"
    assert jobs_dispatch(now=world.now()) == 1


@pytest.mark.slow
def test_a_job_that_was_taken_back_and_may_still_run_stops_it(world: World) -> None:
    instance = world.running()
    submit(instance)
    jobs_dispatch(now=world.now())
    agent = world.agent(instance)
    agent.claim()
    world.silence(instance)
    Job.objects.update(state=JobState.CANCELLED)
    assert Dispatch.objects.get(kind="job").state == DispatchState.WITHDRAWN
    world.hibernate(instance, by="", asked=False)
    chain = world.chain(instance)
    world.enter(chain)
    assert chain.reason_code == "job_on_it"


def test_a_hold_stops_it_also_where_a_person_asked(world: World) -> None:
    instance = world.running()
    world.hibernate(instance)
    Instance.objects.filter(pk=instance.pk).update(keep_awake_until=world.now().replace(year=2100))
    assert stopped(world, instance) == "kept_awake"


@pytest.mark.slow
def test_an_agent_that_has_gone_silent_stops_it_after_ten_minutes(world: World) -> None:
    instance = world.running()
    world.silence(instance)
    world.hibernate(instance, by="", asked=False)
    chain = world.run(instance, agents=False, stride_s=120)
    assert (chain.state, chain.reason_code, chain.step) == (ChainState.ABORTED, "agent_silent", "drain")
    world.agent(instance).post()
    assert (worker_of(instance).state, worker_of(instance).slots) == (WorkerState.ONLINE, 1)


@pytest.mark.slow
def test_a_worker_that_was_lost_and_came_back_while_it_drained_takes_jobs_again_after_an_abort(
    world: World,
) -> None:
    instance = auto(world)
    world.run(instance, until="snapshot")
    assert worker_of(instance).state == WorkerState.DRAINING
    world.silence(instance)
    world.agent(instance).post()
    assert (worker_of(instance).state, worker_of(instance).slots) == (WorkerState.DRAINING, 0)
    hibernation_stop(instance, by="alice", now=world.now())
    assert stopped(world, instance) == "asked"
    assert (worker_of(instance).state, worker_of(instance).slots) == (WorkerState.ONLINE, 1)


# -- the snapshot ----------------------------------------------------------------------------------------------------------


def test_a_file_that_keeps_changing_is_refused_and_the_box_stays(world: World) -> None:
    instance = world.running()
    agent = world.agent(instance)
    turns = iter(range(1000))

    def scribble(_: object) -> None:
        (agent.workspace / f"log-{next(turns)}").write_text("more")

    agent.while_reading = scribble
    world.hibernate(instance)
    assert stopped(world, instance) == "snapshot_refused"
    assert "made, moved or removed" in world.chain(instance).reason
    assert last_generation(instance).state == SnapshotState.FAILED


def interrupt(agent: Agent, claim: wire.Claimed) -> wire.FinishPost:
    del agent.instead["snapshot"]
    return wire.FinishPost(fence=claim.fence, outcome="interrupted", reason="the agent was restarted")


def test_a_snapshot_that_is_interrupted_is_taken_again_as_another_generation(world: World) -> None:
    instance = world.running()
    world.agent(instance).instead["snapshot"] = interrupt
    world.hibernate(instance)
    assert world.run(instance).state == ChainState.SUCCEEDED
    states = Snapshot.objects.order_by("generation").values_list("generation", "state")
    assert list(states) == [(1, SnapshotState.FAILED), (2, SnapshotState.VERIFIED)]


@pytest.mark.slow
def test_a_snapshot_that_is_interrupted_three_times_stops_it(world: World) -> None:
    instance = world.running()
    world.agent(instance).instead["snapshot"] = lambda agent, claim: wire.FinishPost(
        fence=claim.fence, outcome="interrupted", reason="again"
    )
    world.hibernate(instance)
    assert stopped(world, instance) == "snapshot_refused"
    assert Snapshot.objects.count() == 3


def test_an_agent_that_dies_between_the_commit_and_its_report_has_done_its_work(world: World) -> None:
    instance = world.running()

    def dies(agent: Agent, claim: wire.Claimed) -> None:
        agent.take(claim)

    world.agent(instance).instead["snapshot"] = dies
    world.hibernate(instance)
    assert world.run(instance).state == ChainState.SUCCEEDED
    assert Dispatch.objects.get(kind="snapshot").state == DispatchState.WITHDRAWN
    assert Snapshot.objects.count() == 1


@pytest.mark.slow
def test_an_agent_that_is_lost_in_the_middle_is_waited_for_ten_minutes_not_twelve_hours(world: World) -> None:
    instance = auto(world)
    world.run(instance, until="snapshot")
    world.enter(world.chain(instance))
    world.silence(instance)
    began = world.now()
    chain = world.run(instance, agents=False, stride_s=120)
    assert (chain.reason_code, chain.step) == ("agent_silent", "snapshot")
    assert (world.now() - began).total_seconds() < 15 * 60


# -- the check ---------------------------------------------------------------------------------------------------------------


def packs(instance: Instance) -> list[Path]:
    store = Path(settings.SNAPSHOT_STORE)
    found = list(store.glob("o/*/p/*"))
    assert found, f"no packs below {store}"
    return found


@pytest.mark.parametrize("harm", [Path.unlink, lambda path: path.write_bytes(path.read_bytes()[:-1])])
def test_a_pack_that_is_missing_or_short_stops_it(world: World, harm: Callable[[Path], object]) -> None:
    instance = world.running()
    world.hibernate(instance)
    world.run(instance, until="verify")
    harm(packs(instance)[0])
    assert stopped(world, instance) == "not_verified"
    generation = last_generation(instance)
    assert generation.state == SnapshotState.FAILED and "the check found" in generation.reason


@pytest.mark.slow
def test_a_store_that_is_busy_is_no_verdict(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    from snapshots.engine.store.base import StoreBusy
    from snapshots.engine.store.folder import FolderStore

    instance = world.running()
    world.hibernate(instance)
    chain = world.run(instance, until="verify")
    head = FolderStore.head

    def busy(self: FolderStore, key: str) -> object:
        raise StoreBusy("slow down", retry_after_s=30)

    monkeypatch.setattr(FolderStore, "head", busy)
    for _ in range(12):
        world.forward(30)
        assert world.enter(chain)
    assert (chain.state, chain.step, chain.attempts) == (ChainState.ACTIVE, "verify", 0)
    monkeypatch.setattr(FolderStore, "head", head)
    assert world.run(instance).state == ChainState.SUCCEEDED


# -- since the snapshot began ---------------------------------------------------------------------------------------------------


def test_a_gpu_that_was_busy_during_the_snapshot_stops_it(world: World) -> None:
    instance = auto(world)
    world.agent(instance).after_upload = lambda agent, claim: agent.post(util=77.0)
    assert stopped(world, instance) == "active_since_snapshot"
    assert "GPU 77" in world.chain(instance).reason


def test_a_reading_without_a_figure_is_activity(world: World) -> None:
    instance = auto(world)
    world.agent(instance).after_upload = lambda agent, claim: agent.post(util=None)
    assert stopped(world, instance) == "unknown_since_snapshot"


@pytest.mark.slow
def test_silence_after_the_snapshot_is_activity(world: World) -> None:
    instance = auto(world)
    world.run(instance, until="recheck")
    chain = world.run(instance, agents=False, stride_s=120)
    assert (chain.state, chain.reason_code) == (ChainState.ABORTED, "no_reading_since_snapshot")
    assert stopped(world, instance) == "no_reading_since_snapshot"


def signals(**thresholds: float) -> dict[str, Any]:
    inner = {**CONFIG["auto_hibernation"], "signals": thresholds}
    return {"auto_hibernation": inner}


@pytest.mark.slow
def test_somebody_who_logs_in_during_the_snapshot_stops_it_where_the_policy_minds(world: World) -> None:
    instance = auto(world, config=signals(ssh_sessions=0))
    world.agent(instance).after_upload = lambda agent, claim: agent.post(sessions={"ssh": 1, "jupyter": 0})
    assert stopped(world, instance) == "signal_since_snapshot"
    assert "ssh_sessions was 1" in world.chain(instance).reason


@pytest.mark.slow
def test_the_upload_itself_is_no_activity_of_the_network(world: World) -> None:
    instance = auto(world, config=signals(net_bytes_per_s=1000))
    world.agent(instance).after_upload = lambda agent, claim: agent.post(net_bytes_per_s=10**9)
    world.run(instance, until="recheck")
    chain = world.chain(instance)
    agent = world.agent(instance)
    agent.post(net_bytes_per_s=10**8)
    world.enter(chain)
    assert (chain.step, chain.reason_code) == ("recheck", "waiting_for_reading"), "a mean over the upload"
    world.forward(40)
    agent.post(net_bytes_per_s=10)
    world.enter(chain)
    assert chain.step == "destroy"


@pytest.mark.parametrize(
    ("thresholds", "posts"),
    [({}, [330]), pytest.param({"cpu_percent": 20}, [250, 330], marks=pytest.mark.slow)],
)
def test_an_agent_that_posts_every_five_minutes_is_waited_for(
    world: World, thresholds: dict[str, float], posts: list[float]
) -> None:
    """Its policy allows that interval (and a tenth: posts are jittered), so such a reading must have the time to come, or
    the box is billed for ever. Where the policy minds the processor, the first post is still about the upload."""
    inner = {**signals(**thresholds)["auto_hibernation"], "check_interval_seconds": 300}
    instance = auto(world, config={"auto_hibernation": {**inner, "pause_after_idle_minutes": 10}})
    chain = world.run(instance, until="recheck")
    for after_s in posts:
        world.forward(after_s)
        world.enter(chain)
        assert chain.step == "recheck", chain.reason
        world.agent(instance).post(cpu_util=1.0)
    assert world.run(instance, agents=False).state == ChainState.SUCCEEDED


@pytest.mark.slow
def test_a_person_who_asked_is_not_held_up_by_a_busy_gpu(world: World) -> None:
    instance = world.running()
    world.agent(instance).util = 90.0
    world.hibernate(instance)
    assert world.run(instance).state == ChainState.SUCCEEDED


# -- until the very last moment -----------------------------------------------------------------------------------------------


def at_destroy(world: World, **fields: Any) -> tuple[Instance, Chain]:
    instance = auto(world, **fields)
    chain = world.run(instance, until="destroy")
    return instance, chain


def test_what_happens_between_the_recheck_and_the_destroy_still_stops_it(world: World) -> None:
    instance, _ = at_destroy(world)
    world.agent(instance).post(util=50.0)
    assert stopped(world, instance) == "active_since_snapshot"


@pytest.mark.slow
def test_a_hold_between_the_recheck_and_the_destroy_still_stops_it(world: World) -> None:
    instance, _ = at_destroy(world)
    instance_keep_awake(instance, minutes=5, by="alice", now=world.now())
    assert stopped(world, instance) == "keep_awake_asked"


def test_after_an_outage_it_looks_again_before_it_lets_anything_go(world: World) -> None:
    instance, chain = at_destroy(world)
    world.forward(3600)
    world.enter(chain)
    assert (chain.step, chain.reason_code) == ("recheck", "waiting_for_reading")
    assert world.box(instance).state == BoxState.RUNNING
    assert world.run(instance).state == ChainState.SUCCEEDED


def test_a_generation_that_was_let_go_meanwhile_lets_nothing_go(world: World) -> None:
    instance, _ = at_destroy(world)
    snapshot_delete(last_generation(instance), by="alice", now=world.now())
    assert stopped(world, instance) == "not_let_go"


# -- a person stops it --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "step",
    [
        *(pytest.param(step, marks=pytest.mark.slow) for step in ("drain", "snapshot", "verify", "recheck")),
        "destroy",
    ],
)
def test_a_person_stops_it_at_every_step_before_the_box_is_let_go(world: World, step: str) -> None:
    instance = auto(world)
    if step != "drain":
        world.run(instance, until=step)
    hibernation_stop(instance, by="ops", now=world.now())
    assert instance.state == InstanceState.RUNNING
    assert stopped(world, instance) == "asked"
    assert (world.agent(instance).workspace / "notes" / "today.txt").exists()


def test_nobody_stops_it_after_that(world: World) -> None:
    instance = auto(world)
    chain = world.run(instance, until="confirm")
    for _ in range(2):
        with pytest.raises(FallingAsleep) as refused:
            hibernation_stop(instance, by="ops", now=world.now())
    assert refused.value.retry_after_s > 0 and "ask again" in refused.value.hint
    chain.refresh_from_db()
    assert (chain.state, chain.fence) == (ChainState.ACTIVE, Chain.objects.get(pk=chain.pk).fence)
    assert world.run(instance).state == ChainState.SUCCEEDED
    assert Box.objects.get().state == BoxState.GONE


@pytest.mark.slow
def test_stopping_while_the_agent_uploads_takes_its_work_back(world: World) -> None:
    instance = auto(world)
    agent = world.agent(instance)

    def person_stops(agent: Agent, claim: wire.Claimed) -> None:
        hibernation_stop(instance, by="alice", now=world.now())

    agent.after_upload = person_stops
    world.run(instance)
    assert agent.stood_down, "its commit was answered with stand down"
    assert last_generation(instance).state == SnapshotState.FAILED
    assert Worker.objects.get(pk=instance.worker_id).state == WorkerState.ONLINE
