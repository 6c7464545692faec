"""The story: a pool that minds its quotas, a job or two, and a rented instance that sleeps through the night."""

from __future__ import annotations

import sysconfig
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from config.launcher.agents import agent_program
from config.launcher.demo import tree
from config.launcher.demo.api import Api
from config.launcher.demo.markets import Market
from config.launcher.demo.telling import Teller
from config.launcher.stack import Stack
from pool.terms import TERMS

NEAR_ITS_LIMIT_H = 10.81
"""Of 11.5 h: 94 %, above the 90 % below which a Colab session counts as safe."""

POLICY = {
    "auto_hibernation": {
        "enabled": True,
        "pause_after_idle_minutes": 0.1,
        "delete_after_pause_minutes": 30,
        "gpu_usage_threshold": 5,
        "check_interval_seconds": 1,
        "wake_method": "manual",
        "minimum_awake_minutes": 0.05,
    }
}
TRAINING = """\
import json, os, random, time
weights, loss = [random.random() for _ in range(4096)], 4.0
for step in range(1, 11):
    loss *= 0.8
    weights = [w - 0.01 * loss for w in weights]
    print(f"step {step:2d}  loss {loss:.4f}", flush=True)
    time.sleep(0.1)
with open("checkpoint.json", "w") as file:
    json.dump({"step": step, "loss": loss, "weights": weights}, file)
print("checkpoint.json", os.path.getsize("checkpoint.json"), "bytes", flush=True)
"""
PATIENCE_S = 300
"""Far more than either takes: a busy disk can need a minute to remove a box of 13,000 files."""

TENSOR_BYTES = 256 * 1024 * 1024
FILL = """\
import os, random, shutil, struct, sys
source, tensor_bytes = sys.argv[1], int(sys.argv[2])
shutil.copytree(source, "site-packages", symlinks=True)
rng = random.Random(7)
rows = [struct.pack("<2048H", *((struct.unpack("<I", struct.pack("<f", rng.gauss(0, 0.02)))[0] >> 16) for _ in range(2048))) for _ in range(512)]
with open("model.bf16", "wb") as file:
    while file.tell() < tensor_bytes:
        row = rows[rng.randrange(len(rows))]
        turn = rng.randrange(0, len(row), 2)
        file.write((row[turn:] + row[:turn])[: tensor_bytes - file.tell()])
os.symlink("model.bf16", "latest")
os.link("model.bf16", "hard-link.bf16")
os.makedirs("empty/folder")
with open("sparse.bin", "wb") as file:
    file.truncate(64 * 1024 * 1024)
print(sum(len(files) for _, _, files in os.walk(".")), "files")
"""
PYTHON_FILES_MIN, BYTES_MIN = 5_000, 200 * 10**6


class StoryFailed(Exception):
    """Something did not happen as it must. The text says what."""


def tell(stack: Stack, api: Api, teller: Teller, market: Market) -> None:
    """All of it, in order. Raises StoryFailed at the first thing that is not as it must be."""
    _pool(stack, api, teller)
    _jobs(api, teller)
    instance = _rent(api, teller, market)
    workspace, before = _work(stack, api, teller, instance, market)
    _night(api, teller, instance, workspace)
    _morning(stack, api, teller, instance, before, market)
    _bill(api, teller, instance)
    teller.line(f"the whole story took {teller.elapsed_s:.0f} s")


# -- the pool ------------------------------------------------------------------------------------------------------


def _pool(stack: Stack, api: Api, teller: Teller) -> None:
    teller.chapter("Three workers join the pool")
    late = datetime.now(UTC) - timedelta(hours=NEAR_ITS_LIMIT_H)
    for kind, name, extra in (
        ("colab", "colab-1", ["--session-started", late.isoformat()]),
        ("kaggle", "kaggle-1", []),
        ("local", "local-1", []),
    ):
        # No provider is behind a simulated worker; where one is, this is for the account's owner to say.
        known = {"acknowledged_terms": TERMS[kind].version} if kind in TERMS else {}
        account = api.post("/api/accounts", kind=kind, label=f"demo {kind}", **known)
        token = api.post("/api/enrollment-tokens", account=account["id"])["token"]
        folder = stack.plan.env.data_dir / "agents" / name
        stack.supervisor.start(
            agent_program(stack.plan, name=name, folder=folder, token=token, provider=kind, extra=extra)
        )
    workers = _until(stack, lambda: _all_online(api, 3), what="three workers are online", within_s=30)
    for worker in sorted(workers, key=lambda worker: worker["name"]):
        quota = worker["quota"]
        mark = "safe" if quota["safe"] else "SKIPPED"
        teller.line(
            f"{worker['name']:<10} {worker['provider']:<7} {quota['percent']:5.1f} %  {mark:<8} {quota['reason']}"
        )
    colab = next(worker for worker in workers if worker["name"] == "colab-1")
    _must(not colab["quota"]["safe"], "the Colab-like worker at 94 % of its session is not safe")


def _all_online(api: Api, count: int) -> list[dict[str, Any]] | None:
    workers = api.get("/api/workers")["results"]
    online = [worker for worker in workers if worker["status"] == "online"]
    return online if len(online) == count else None


def _jobs(api: Api, teller: Teller) -> None:
    teller.chapter("Two jobs go to the workers that are safe on quota, least used first")
    jobs = [
        api.post("/api/jobs", name=f"train-{number}", command=["python3", "-c", TRAINING], timeout_s=60)
        for number in (1, 2)
    ]
    used = []
    for job in jobs:
        done = _until(None, lambda job=job: _ended(api, job["id"]), what=f"{job['name']} ends", within_s=60)
        _must(done["status"] == "succeeded", f"{job['name']} succeeds: {done['reason']}")
        log = api.get(f"/api/jobs/{job['id']}/logs", offset=0)["data"].strip().splitlines()
        used.append(done["worker"]["name"])
        teller.line(f"{job['name']} on {used[-1]:<9} {done['status']}: {log[-2]} … {log[-1]}")
    _must("colab-1" not in used, "no job went to the worker near its limit")
    _must(len(set(used)) == 2, "the two jobs went to different workers, round robin")


def _ended(api: Api, job_id: str) -> dict[str, Any] | None:
    job = api.get(f"/api/jobs/{job_id}")
    return job if job["status"] in ("succeeded", "failed", "cancelled") else None


# -- the rented instance -------------------------------------------------------------------------------------------


def _rent(api: Api, teller: Teller, market: Market) -> str:
    teller.chapter("An instance is rented, and sleeps when nobody uses it")
    account = market.account(api)
    instance = api.post(
        "/api/instances", name="llm-dev", account=account["id"], gpu_type="RTX 4090", config=POLICY
    )
    _watch(api, teller, instance["id"], until="running", within_s=PATIENCE_S)
    return str(instance["id"])


def _work(
    stack: Stack, api: Api, teller: Teller, instance: str, market: Market
) -> tuple[Path, dict[bytes, tree.Entry]]:
    packages = sysconfig.get_path("purelib")
    job = api.post(
        "/api/jobs",
        name="fill the workspace",
        command=["python3", "-c", FILL, packages, str(TENSOR_BYTES)],
        instance=instance,
        timeout_s=120,
    )
    done = _until(stack, lambda: _ended(api, job["id"]), what="the workspace is filled", within_s=120)
    log = api.get(f"/api/jobs/{job['id']}/logs", offset=0)["data"].strip()
    _must(done["status"] == "succeeded", f"the workspace is filled: {done['reason']} {log}")
    workspace = _workspace(stack, market)
    before = tree.look(workspace)
    files = tree.files_of(before)
    total_bytes = sum(entry.size for entry in files)
    teller.line(
        f"its workspace holds {len(files):,} files, {total_bytes / 1e6:,.0f} MB, a 256 MB bf16 tensor among them"
    )
    _must(len(files) >= PYTHON_FILES_MIN, f"at least {PYTHON_FILES_MIN} files")
    _must(total_bytes - TENSOR_BYTES >= BYTES_MIN, f"at least {BYTES_MIN // 10**6} MB besides the tensor")
    return workspace, before


def _workspace(stack: Stack, market: Market) -> Path:
    """The one box's workspace. Only a demo can look: its boxes are folders of this machine."""
    found = market.workspaces(stack)
    _must(len(found) == 1, f"exactly one box exists, not {len(found)}")
    return found[0]


def _night(api: Api, teller: Teller, instance: str, workspace: Path) -> None:
    _watch(api, teller, instance, until="hibernated", within_s=PATIENCE_S)
    _until(None, lambda: not workspace.exists(), what="the box and everything on it are gone", within_s=60)
    snapshot = api.get("/api/snapshots", workspace_ref=instance)["results"][0]
    _must(snapshot["status"] == "verified", "the generation is verified")
    teller.line(
        f"generation {snapshot['generation']}: {snapshot['files']:,} files, {snapshot['logical_bytes'] / 1e6:,.0f} MB kept in "
        f"{snapshot['stored_bytes'] / 1e6:,.0f} MB; {snapshot['reason']}"
    )


def _morning(
    stack: Stack, api: Api, teller: Teller, instance: str, before: dict[bytes, tree.Entry], market: Market
) -> None:
    teller.chapter("It is woken through the API, on whatever host there is")
    answer = api.post(f"/api/instances/{instance}/wake")
    estimate = answer["estimate"]
    teller.line(
        f"POST /api/instances/{instance}/wake: about {estimate['rent_s']:.0f} s to rent and {estimate['restore_s']:.0f} s to "
        f"restore {estimate['bytes'] / 1e6:,.0f} MB ({estimate['basis']})"
    )
    _watch(api, teller, instance, until="running", within_s=PATIENCE_S)
    after = tree.look(_workspace(stack, market))
    wrong = tree.differences(before, after)
    _must(not wrong, f"every entry is as it was; {len(wrong)} are not: {wrong[:3]}")
    files = len(tree.files_of(after))
    teller.line(
        f"{files:,} files and {len(after) - files:,} folders and links compared by SHA-256, mode, mtime and hard links: 0 differences"
    )


def _bill(api: Api, teller: Teller, instance: str) -> None:
    teller.chapter("What it cost, and what sleeping saves")
    money = api.get(f"/api/instances/{instance}/savings")
    for line in money["lines"]:
        teller.line(line)


# -- watching ------------------------------------------------------------------------------------------------------


def _watch(api: Api, teller: Teller, instance: str, *, until: str, within_s: float) -> None:
    """Tell every event of the instance and its chain's progress until it is in the state `until`."""
    told = getattr(teller, "told", 0)
    deadline = time.monotonic() + within_s
    while True:
        now = api.get(f"/api/instances/{instance}")
        events = api.get(f"/api/instances/{instance}/events", after=told)["results"]
        for event in sorted(events, key=lambda event: event["id"]):
            told = event["id"]
            if event["to_state"] and event["to_state"] != event["from_state"]:
                teller.transition(
                    name=now["name"],
                    state=event["to_state"],
                    reason=event["reason"],
                    usd_per_h=float(event["usd_per_h"] or 0),
                )
        teller.told = told
        if now["status"] == until:
            _tell_steps(api, teller, instance)
            return
        if now.get("progress"):
            teller.progress(now["progress"])
        if time.monotonic() > deadline:
            raise StoryFailed(
                f"{now['name']} is {now['status']} ({now['reason']}), not {until}, after {within_s:.0f} s"
            )
        time.sleep(0.2)


def _tell_steps(api: Api, teller: Teller, instance: str) -> None:
    """The chain that has just ended: each of its steps with how long it took."""
    chain = api.get(f"/api/instances/{instance}/chains", limit=1)["results"][0]
    steps = [f"{step['step']} {_seconds(step):.1f} s" for step in chain["steps"]]
    teller.line(f"{chain['kind']}: {' → '.join(steps)}")


def _seconds(step: dict[str, Any]) -> float:
    began, ended = (datetime.fromisoformat(step[name]) for name in ("started_at", "ended_at"))
    return (ended - began).total_seconds()


def _until(stack: Stack | None, look: Callable[[], Any], *, what: str, within_s: float) -> Any:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        found = look()
        if found:
            return found
        if stack is not None:
            stack.supervisor.look()
        time.sleep(0.1)
    raise StoryFailed(f"{what}: not within {within_s:.0f} s")


def _must(holds: bool, what: str) -> None:
    if not holds:
        raise StoryFailed(f"this must hold and does not: {what}")
