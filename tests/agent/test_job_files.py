"""Files of jobs on a real agent: laid out before the start, kept after the end, whatever happens in between."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent import jobs, processes, wire
from agent.client import Client, Http
from agent.hold import Hold
from agent.journal import Journal
from agent.session import boot_clock_s
from snapshots.engine.remote.retry import Backoff
from tests.agent.conftest import AgentProcess, eventually
from tests.agent.control_plane import STAND_DOWN, ControlPlane, Dispatch
from tests.agent.job_store import JobStore, inline

TRIES = Backoff(pause=lambda _: None).attempts
"""Of a transfer, where nobody has more patience than that."""


@pytest.fixture
def store(standing: AgentProcess, tmp_path: Path) -> Iterator[JobStore]:
    plane = standing.server
    yield JobStore(plane, tmp_path / "store")
    plane.extra = plane.raw = None


def shell(text: str) -> list[str]:
    return ["/bin/sh", "-c", text]


# -- in -----------------------------------------------------------------------------------------------


def test_a_job_finds_its_files_where_it_starts_and_starts_where_it_asked(
    standing: AgentProcess, store: JobStore
) -> None:
    plane = standing.server
    first, second = os.urandom(300_000), b"and the rest"
    pieces = [store.put("d_earlier", data) for data in (first, second)]
    store.given["d_given"] = [
        inline("data/x.csv", b"a,b\n1,2\n"),
        inline("run.sh", b"#!/bin/sh\necho ran\n", 0o755),
        inline("empty", b""),
        {
            "path": "model/big.bin",
            "mode": 0o600,
            "length": 300_012,
            "sha256": hashlib.sha256(first + second).hexdigest(),
            "pieces": pieces,
        },
    ]
    job = plane.dispatch(
        "d_given",
        command=shell(
            "pwd; ./run.sh; cat data/x.csv; sha256sum model/big.bin; stat -c %a model/big.bin; wc -c < empty"
        ),
        files=4,
        workdir="deep/down",
    )
    plane.wait(lambda: job.finish)
    lines = job.log.decode().splitlines()
    assert lines[0].endswith("/d_given" + "/".join(["", "work", "deep", "down"]))
    digest = hashlib.sha256(first + second).hexdigest()
    assert lines[1:] == ["ran", "a,b", "1,2", f"{digest}  model/big.bin", "600", "0"]


def test_what_was_not_stored_so_is_not_run_with(standing: AgentProcess, store: JobStore) -> None:
    plane = standing.server
    piece = store.put("d_earlier", b"what it should be")
    (store.store.root / piece["key"]).write_bytes(b"what it shall be?")
    file = {"path": "x", "mode": 0o644, "length": 17, "sha256": piece["sha256"], "pieces": [piece]}
    store.given["d_changed"] = [file]
    job = plane.dispatch("d_changed", command=["true"], files=1)
    plane.wait(lambda: job.finish)
    assert job.finish and job.finish["outcome"] == "failed"
    assert "file 'x' cannot be fetched" in job.finish["reason"] and "SHA-256" in job.finish["reason"]


def test_a_file_that_is_gone_or_refused_fails_the_job_with_the_reason(
    standing: AgentProcess, store: JobStore
) -> None:
    plane = standing.server
    gone = {"key": "j/o_1/d_x/" + "0" * 64, "length": 1, "sha256": "0" * 64}
    store.given["d_gone"] = [{"path": "x", "mode": 0o644, "length": 1, "sha256": "0" * 64, "pieces": [gone]}]
    job = plane.dispatch("d_gone", command=["true"], files=1)
    plane.wait(lambda: job.finish)
    assert job.finish and job.finish["outcome"] == "failed" and "there is no object" in job.finish["reason"]
    store.refuses = (400, {"code": "invalid", "message": "job j_1 has left no artifact x", "hint": ""})
    job = plane.dispatch("d_refused", command=["true"], files=1)
    plane.wait(lambda: job.finish)
    assert job.finish and "job j_1 has left no artifact x" in job.finish["reason"]


@pytest.mark.parametrize(
    "path", ["../out", "/etc/passwd", "a/../../b", "link/x"], ids=["up", "absolute", "up again", "a link"]
)
def test_no_file_lands_outside_the_folder(
    plane: ControlPlane, agent: AgentProcess, tmp_path: Path, path: str
) -> None:
    store = JobStore(plane, tmp_path / "store")
    workspace, elsewhere = tmp_path / "workspace", tmp_path / "elsewhere"
    workspace.mkdir(), elsewhere.mkdir()
    (workspace / "link").symlink_to(elsewhere)
    agent.enrolled().start("--workspace", str(workspace))
    store.given["d_1"] = [inline(path, b"x")]
    job = plane.dispatch("d_1", command=["true"], files=1)
    plane.wait(lambda: job.finish)
    assert job.finish and job.finish["outcome"] == "failed", job.finish
    assert [*elsewhere.iterdir()] == [] and not (tmp_path / "out").exists()
    job = plane.dispatch("d_2", command=["true"], workdir="link")
    plane.wait(lambda: job.finish)
    assert job.finish and "leads out of the job's folder by a link" in job.finish["reason"]


@pytest.mark.slow
def test_a_job_that_is_cancelled_while_its_files_are_fetched_never_starts(
    standing: AgentProcess, store: JobStore
) -> None:
    plane = standing.server
    store.delay_s = 1.0
    pieces = [store.put("d_earlier", bytes([n]) * 10) for n in range(30)]
    whole = hashlib.sha256(b"".join(bytes([n]) * 10 for n in range(30))).hexdigest()
    store.given["d_slow"] = [{"path": "x", "mode": 0o644, "length": 300, "sha256": whole, "pieces": pieces}]
    job = plane.dispatch("d_slow", command=shell("echo started"), files=1)
    plane.wait(lambda: store.transfers)
    plane.orders = [{"kind": "cancel", "id": "d_slow"}]
    plane.ring(wire.RING_STATUS)
    plane.wait(lambda: job.finish)
    assert job.finish and job.finish["outcome"] == "cancelled" and not job.log


def told(job: Dispatch) -> list[str]:
    return [post["phase"] for post in job.progress]


@pytest.mark.slow
def test_a_store_that_is_away_when_a_job_begins_is_waited_for(
    standing: AgentProcess, store: JobStore
) -> None:
    plane = standing.server
    piece = store.put("d_earlier", b"here it is")
    file = {"path": "x", "mode": 0o644, "length": 10, "sha256": piece["sha256"], "pieces": [piece]}
    store.given["d_wait"] = [file]
    store.broken = True
    job = plane.dispatch("d_wait", command=["cat", "x"], files=1)
    plane.wait(lambda: store.transfers > TRIES and wire.STORE_AWAY in told(job))
    assert not job.finish
    store.broken = False
    plane.wait(lambda: job.finish)
    assert job.finish and job.finish["outcome"] == "succeeded" and job.log == b"here it is"
    assert told(job) == [wire.STORE_AWAY, "files"]


@pytest.mark.slow
def test_the_time_limit_counts_from_the_commands_start_also_after_a_restart_of_the_agent(
    plane: ControlPlane, agent: AgentProcess, tmp_path: Path
) -> None:
    """Its file takes longer to come than the limit allows the command; then the agent is killed and started again."""
    store = JobStore(plane, tmp_path / "store")
    agent.enrolled().start()
    piece = store.put("d_earlier", b"here it is")
    file = {"path": "x", "mode": 0o644, "length": 10, "sha256": piece["sha256"], "pieces": [piece]}
    store.given["d_slow"] = store.given["d_long"] = [file]
    store.delay_s = 3.0
    job = plane.dispatch("d_slow", command=shell("sleep 0.3; cat x"), files=1, timeout_s=2.5)
    long = plane.dispatch("d_long", command=shell("echo up; sleep 600"), files=1, timeout_s=3.0)
    plane.wait(lambda: job.finish)
    assert job.finish and job.finish["outcome"] == "succeeded", job.finish
    plane.wait(lambda: long.log)
    began_s = float((agent.run_folder("d_long") / "started").read_text())
    agent.kill()
    agent.start()
    plane.wait(lambda: long.finish)
    assert long.finish and long.finish["reason"] == "timed out after 3 s"
    assert boot_clock_s() - began_s >= 3.0


@pytest.mark.slow
def test_what_a_job_is_given_has_a_bound_of_its_own(
    plane: ControlPlane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store never comes back; the attempt is given to somebody else."""
    store = JobStore(plane, tmp_path / "store")
    store.broken = True
    gone = {"key": "j/o_1/d_x/" + "0" * 64, "length": 1, "sha256": "0" * 64}
    store.given["d_1"] = [{"path": "x", "mode": 0o644, "length": 1, "sha256": "0" * 64, "pieces": [gone]}]
    plane.dispatch("d_1", command=["true"], files=1, ring=False)
    monkeypatch.setattr(jobs, "PREPARED_WITHIN_S", 0.9)
    plane.access.add("token")
    journal = Journal(tmp_path / "journal", epoch=1)
    keeper = jobs.JobKeeper(
        client=Client(Http(plane.url), OneToken()),
        journal=journal,
        jobs_dir=tmp_path / "jobs",
        workspace=None,
        environ={},
        own_env={},
        backoff_cap_s=0.1,
    )
    claim = wire.Claimed.from_json(plane.dispatches["d_1"].claim)
    entry = journal.claimed(claim, claimed_s=boot_clock_s(), boot_id="")
    finish = keeper.run(Hold(claim), entry)
    assert finish is not None and finish.outcome == "interrupted"
    assert "its files were not all here within" in (finish.reason or "")


class OneToken:
    """Of a test's own client."""

    def current(self) -> str:
        return "token"

    def renew(self, *, stale: str) -> str:
        raise AssertionError(f"{stale} was refused")


# -- out ----------------------------------------------------------------------------------------------


def test_what_matches_is_kept_after_success_and_after_failure(
    standing: AgentProcess, store: JobStore
) -> None:
    plane = standing.server
    make = "mkdir -p out/deep; echo 1 > a.json; echo 2 > out/m.pt; head -c 100 /dev/zero > out/deep/m.pt; touch out/e.pt; echo no > out/x"
    for name, code in (("d_good", 0), ("d_bad", 3)):
        job = plane.dispatch(
            name, command=shell(f"{make}; exit {code}"), artifacts=store.keep(name, "*.json", "out/**/*.pt")
        )
        plane.wait(lambda job=job: job.finish)
        assert job.finish and job.finish["exit_code"] == code
        assert sorted(store.kept[name]) == ["a.json", "out/deep/m.pt", "out/e.pt", "out/m.pt"]
        assert store.content(name, "a.json") == b"1\n"
        assert store.content(name, "out/deep/m.pt") == bytes(100)
        assert store.content(name, "out/e.pt") == b""
        assert job.finish["result"]["artifacts"] == {
            "files": 4,
            "bytes": 104,
            "left_out": [],
            "left_out_count": 0,
        }


@pytest.mark.slow
def test_a_large_file_goes_up_in_pieces(standing: AgentProcess, store: JobStore) -> None:
    plane = standing.server
    size = wire.PIECE_BYTES + 1_000
    job = plane.dispatch(
        "d_large",
        command=shell(f"head -c {size} /dev/urandom | tee big | sha256sum"),
        artifacts=store.keep("d_large", "big"),
    )
    plane.wait(lambda: job.finish, within_s=60)
    kept = store.kept["d_large"]["big"]
    assert [piece["length"] for piece in kept["pieces"]] == [wire.PIECE_BYTES, 1_000]
    assert hashlib.sha256(store.content("d_large", "big")).hexdigest() == job.log.decode().split()[0]


def test_bounds_and_links_leave_files_out_and_say_so(
    standing: AgentProcess, store: JobStore, tmp_path: Path
) -> None:
    plane = standing.server
    (tmp_path / "secret").write_text("secret")
    make = (
        f"echo 1 > a; ln -s a b; ln -s {tmp_path}/secret c; ln -s {tmp_path} d; ln -s nowhere e; mkfifo f; "
        "head -c 50 /dev/zero > g; head -c 5 /dev/zero > h; head -c 4 /dev/zero > i; echo 2 > j"
    )
    keep = store.keep("d_bounds", "**", files_at_most=4, file_bytes=40, total_bytes=12)
    job = plane.dispatch("d_bounds", command=shell(make), artifacts=keep)
    plane.wait(lambda: job.finish)
    assert job.finish and job.finish["outcome"] == "succeeded"
    assert sorted(store.kept["d_bounds"]) == ["a", "b", "h", "j"]
    assert store.content("d_bounds", "b") == b"1\n", "a link within the folder counts as its file"
    said = job.finish["result"]["artifacts"]
    why = {one["path"]: one["why"] for one in said["left_out"]}
    assert said["left_out_count"] == len(why) and set(why) == {"c", "d", "e", "f", "g", "i"}
    assert (
        "leads out of the folder" in why["c"]
        and "cannot be read" in why["e"]
        and "no regular file" in why["f"]
    )
    assert "at most 40" in why["g"] and "more than 12 bytes" in why["i"]


def test_a_job_whose_files_cannot_be_kept_has_not_succeeded(standing: AgentProcess, store: JobStore) -> None:
    plane = standing.server
    store.refuses = (400, {"code": "invalid", "message": "no key of this attempt", "hint": ""})
    job = plane.dispatch("d_no", command=shell("echo 1 > a"), artifacts=store.keep("d_no", "a"))
    plane.wait(lambda: job.finish)
    assert job.finish and (job.finish["outcome"], job.finish["exit_code"]) == ("failed", 0)
    assert "its artifact 'a' could not be uploaded" in job.finish["reason"]


def test_a_job_that_succeeded_is_not_run_again_for_what_it_did_to_its_folder(
    standing: AgentProcess, store: JobStore, tmp_path: Path
) -> None:
    plane = standing.server
    job = plane.dispatch(
        "d_link",
        command=shell(f"cd ..; rmdir down; ln -s {tmp_path} down"),
        workdir="down",
        artifacts=store.keep("d_link", "*"),
    )
    plane.wait(lambda: job.finish)
    assert job.finish and (job.finish["outcome"], job.finish["exit_code"]) == ("failed", 0)
    assert "its artifacts could not be uploaded: workdir 'down' leads out" in job.finish["reason"]


@pytest.mark.parametrize("how", ["cancelled", "timed out"])
def test_what_a_stopped_job_has_left_is_kept(standing: AgentProcess, store: JobStore, how: str) -> None:
    plane = standing.server
    name = f"d_{how.replace(' ', '_')}"
    limits = {"timeout_s": 0.4} if how == "timed out" else {}
    job = plane.dispatch(
        name,
        command=shell("trap 'echo saved > model; exit 1' TERM; echo up; while :; do sleep 0.05; done"),
        artifacts=store.keep(name, "model"),
        grace_s=20,
        **limits,
    )
    if how == "cancelled":
        plane.wait(lambda: b"up" in job.log)
        plane.orders = [{"kind": "cancel", "id": name}]
        plane.ring(wire.RING_STATUS)
    plane.wait(lambda: job.finish)
    assert store.content(name, "model") == b"saved\n"
    assert job.finish and job.finish["outcome"] == ("cancelled" if how == "cancelled" else "failed")
    assert job.finish.get("timed_out_s") == limits.get("timeout_s")


def test_a_cancel_while_artifacts_go_up_ends_them_within_the_grace(
    standing: AgentProcess, store: JobStore
) -> None:
    plane = standing.server
    store.delay_s = 3.0
    job = plane.dispatch(
        "d_up",
        command=shell(
            "for n in 1 2 3 4 5 6 7 8 9; do echo $n > f$n; done; sleep 600 > /dev/null 2>&1 & echo up"
        ),
        artifacts=store.keep("d_up", "f*"),
        grace_s=0.3,
    )
    plane.wait(lambda: store.transfers)
    mark = (standing.run_folder("d_up") / "mark").read_text()
    plane.orders = [{"kind": "cancel", "id": "d_up"}]
    plane.ring(wire.RING_STATUS)
    plane.wait(lambda: job.finish, within_s=2.5)
    assert job.finish and job.finish["outcome"] == "cancelled"
    assert job.finish["reason"] == "cancelled while its artifacts were uploaded"
    assert processes.members(pgid=0, mark=mark, trust_group=False) == []


@pytest.mark.slow
def test_a_store_that_is_away_when_a_job_ends_loses_none_of_its_files(
    standing: AgentProcess, store: JobStore
) -> None:
    plane = standing.server
    store.broken = True
    job = plane.dispatch(
        "d_away", command=shell("echo 1 > a; echo 2 > b; echo 3 > c"), artifacts=store.keep("d_away", "*")
    )
    plane.wait(lambda: store.transfers > 2 * TRIES and wire.STORE_AWAY in told(job))
    assert not job.finish, "it goes on trying for longer than any one transfer has tries"
    store.broken = False
    plane.wait(lambda: job.finish)
    assert job.finish and (job.finish["outcome"], job.finish["exit_code"]) == ("succeeded", 0)
    assert [store.content("d_away", name) for name in "abc"] == [b"1\n", b"2\n", b"3\n"]
    assert told(job) == [wire.STORE_AWAY, "artifacts"]


def test_another_attempt_ends_the_upload_at_once_and_nothing_is_reported(
    standing: AgentProcess, store: JobStore
) -> None:
    plane = standing.server
    store.refuses = STAND_DOWN
    job = plane.dispatch("d_old", command=shell("echo 1 > a; echo up"), artifacts=store.keep("d_old", "a"))
    eventually(lambda: plane.count("d_old/objects"))
    eventually(lambda: not (standing.run_folder("d_old") / "pid").exists())
    assert not job.finishes and "d_old" not in store.kept


@pytest.mark.slow
def test_an_agent_that_dies_while_artifacts_go_up_finishes_when_it_is_back(
    plane: ControlPlane, agent: AgentProcess, tmp_path: Path
) -> None:
    store = JobStore(plane, tmp_path / "store")
    agent.enrolled().start()
    store.delay_s = 2.0
    count = tmp_path / "count"
    job = plane.dispatch(
        "d_1", command=shell(f"echo ran >> {count}; echo 1 > a; echo 2 > b"), artifacts=store.keep("d_1", "*")
    )
    plane.wait(lambda: store.transfers)
    agent.kill()
    store.delay_s = 0.0
    agent.start()
    plane.wait(lambda: job.finish)
    assert job.finish and job.finish["outcome"] == "succeeded"
    assert store.content("d_1", "a") == b"1\n" and store.content("d_1", "b") == b"2\n"
    assert count.read_text() == "ran\n"
