"""Files of jobs between agents and store: what may be signed, what is kept, who sees it, when it goes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client

from agent import wire
from core.errors import Invalid, NotFound, StandDown
from core.reasons import because
from pool.models import Dispatch, Job, JobObject, Worker
from pool.services.artifacts import artifact_find, artifacts_add, files_given, objects_plan
from pool.services.dispatches import dispatch_withdraw
from pool.services.job_spec import FileSpec
from pool.services.jobs import jobs_dispatch
from pool.services.specs import artifacts_prefix
from snapshots.services.store import store
from tests.pool.conftest import NOON
from tests.pool.services.jobs import SOON, attempt, claim, finish, identity, state, submit

Enrol = Callable[..., Worker]


def running(owner: User, **spec: Any) -> Job:
    job = submit(owner, **spec)
    jobs_dispatch(now=NOON)
    claim(job)
    return job


def piece(row: Dispatch, data: bytes) -> wire.PutWish:
    digest = hashlib.sha256(data).hexdigest()
    return wire.PutWish(key=artifacts_prefix(row) + digest, length=len(data), sha256=digest)


def plan(
    row: Dispatch, *put: wire.PutWish, get: tuple[str, ...] = (), fence: int | None = None
) -> wire.ObjectsAnswer:
    post = wire.PlanPost(fence=row.fence if fence is None else fence, put=put, get=get)
    return objects_plan(identity=identity(row.worker), dispatch_id=row.pk, post=post, now=SOON)


def kept(path: str, data: bytes, *pieces: wire.PutWish) -> wire.KeptFile:
    digest = hashlib.sha256(data).hexdigest()
    return wire.KeptFile(path=path, mode=0o644, length=len(data), sha256=digest, pieces=pieces)


def report(row: Dispatch, *files: wire.KeptFile) -> int:
    post = wire.ArtifactsPost(fence=row.fence, artifacts=files)
    return artifacts_add(identity=identity(row.worker), dispatch_id=row.pk, post=post, now=SOON)


def leave(row: Dispatch, path: str, data: bytes) -> wire.PutWish:
    """As an agent does: plan, PUT to the store, report."""
    wish = piece(row, data)
    (signed,) = plan(row, wish).put
    answer = Client().put(
        signed.url, data, content_type="application/octet-stream", headers={"If-None-Match": "*"}
    )
    assert answer.status_code in (200, 201, 204), answer.content
    report(row, kept(path, data, wish))
    return wish


def test_what_an_attempt_leaves_is_planned_uploaded_and_reported(alice: User, enrol: Enrol) -> None:
    enrol()
    job = running(alice, artifacts=["out/*"])
    row = attempt(job)
    assert claim(job).work["artifacts"]["key_prefix"] == artifacts_prefix(row)
    wish = leave(row, "out/a", b"hello")
    assert store().read(wish.key) == b"hello"
    found = artifact_find(row, "out/a")
    assert (found.length, found.pieces) == (5, [[wish.sha256, 5]])
    assert report(row, kept("out/a", b"hello", wish)) == 1, "the same again changes nothing"
    with pytest.raises(NotFound, match="has no artifact out/b"):
        artifact_find(row, "out/b")


def test_only_its_own_keys_and_only_while_it_holds_the_job(alice: User, bob: User, enrol: Enrol) -> None:
    enrol(slots=2)
    row, other = attempt(running(alice)), attempt(running(bob))
    theirs = leave(other, "x", b"theirs")
    for wish, why in (
        (piece(other, b"x"), "no key of this attempt"),
        (wire.PutWish(key="o/x/m/y", length=1, sha256="0" * 64), "no key of this attempt"),
        (wire.PutWish(key=artifacts_prefix(row) + "0" * 64, length=0, sha256="0" * 64), "0 bytes"),
        (wire.PutWish(key=artifacts_prefix(row) + "0" * 64, length=2**40, sha256="0" * 64), "bytes"),
        (wire.PutWish(key=artifacts_prefix(row) + "zz", length=1, sha256="zz"), "SHA-256"),
    ):
        with pytest.raises(Invalid, match=why):
            plan(row, wish)
    with pytest.raises(Invalid, match="nothing that this job is given"):
        plan(row, get=(theirs.key,))
    with pytest.raises(StandDown):
        plan(row, piece(row, b"x"), fence=9)
    with pytest.raises(NotFound):
        objects_plan(
            identity=identity(Worker(pk="w_x", epoch=1)), dispatch_id=row.pk, post=wire.PlanPost(fence=1)
        )
    assert JobObject.objects.filter(dispatch=row).count() == 0
    dispatch_withdraw(row, reason=because("lease_over", lease_s=1), now=SOON)
    with pytest.raises(StandDown):
        plan(row, piece(row, b"x"))


def test_a_report_names_only_what_was_planned(alice: User, enrol: Enrol) -> None:
    enrol()
    row = attempt(running(alice))
    wish = leave(row, "a", b"hello")
    for file, why in (
        (kept("b", b"other", piece(row, b"other")), "never planned"),
        (kept("../b", b"hello", wish), "part '..'"),
        (kept("b", b"hellohello", wish), "do not make 10 bytes"),
        (wire.KeptFile(path="b", mode=0, length=5, sha256="x", pieces=(wish,)), "SHA-256"),
    ):
        with pytest.raises(Invalid, match=why):
            report(row, file)
    assert row.artifacts.count() == 1


def test_the_same_piece_and_the_same_path_twice_are_one(alice: User, enrol: Enrol) -> None:
    """Two files with the same bytes are uploaded side by side. PostgreSQL affects no row twice in one statement."""
    enrol()
    row = attempt(running(alice, artifacts=["*"]))
    same = piece(row, b"the same in both")
    answer = plan(row, same, same)
    assert len(answer.put) == 2 and row.objects_stored.count() == 1
    both = [kept(name, b"the same in both", same) for name in ("a", "b")]
    assert report(row, *both, both[0]) == 2
    with pytest.raises(Invalid, match="two lengths"):
        plan(row, same, replace(same, length=same.length + 1))


def test_bounds_hold_whatever_an_agent_says(alice: User, enrol: Enrol, settings: Any) -> None:
    settings.JOB_ARTIFACTS_AT_MOST, settings.JOB_ARTIFACTS_BYTES, settings.JOB_ARTIFACT_BYTES = 2, 100, 60
    enrol()
    row = attempt(running(alice))
    for name in "ab":
        leave(row, name, name.encode() * 40)
    with pytest.raises(Invalid, match="more than an attempt may leave"):
        leave(row, "c", b"c")
    with pytest.raises(Invalid, match="these are too many"):
        leave(row, "a", b"x" * 61)
    assert row.artifacts.count() == 2
    many = [
        wire.PutWish(key=artifacts_prefix(row) + f"{n:064x}", length=wire.PIECE_BYTES, sha256=f"{n:064x}")
        for n in range(2)
    ]
    with pytest.raises(Invalid, match="at most 100 bytes of artifacts"):
        plan(row, *many)


# -- given --------------------------------------------------------------------------------------------


def given(job: Job) -> list[wire.GivenFile]:
    row = attempt(job)
    return files_given(identity=identity(row.worker), dispatch_id=row.pk, fence=row.fence)


def test_a_job_is_given_what_came_with_it_and_what_an_earlier_one_left(alice: User, enrol: Enrol) -> None:
    enrol(slots=2)
    first = running(alice, artifacts=["out/*.pt"])
    wish = leave(attempt(first), "out/m.pt", b"weights")
    files = [
        FileSpec(path="x.csv", data=b"a,b", mode=0o600),
        FileSpec(path="m.pt", source_job=first.pk, source_path="out/m.pt"),
    ]
    second = submit(alice, files=files, after=[first.pk])
    assert state(second)[0] == "deferred"
    finish(first)
    jobs_dispatch(now=SOON)
    assert claim(second).work["files"] == 2
    inline, artifact = given(second)
    assert (inline.path, inline.mode, inline.content(), inline.pieces) == ("x.csv", 0o600, b"a,b", ())
    assert (artifact.path, artifact.length, artifact.pieces) == ("m.pt", 7, (wish,))
    assert artifact.sha256 == hashlib.sha256(b"weights").hexdigest()
    (signed,) = plan(attempt(second), get=(wish.key,)).get
    assert b"".join(Client().get(signed.url).streaming_content) == b"weights"


def test_an_array_is_given_its_files_once_stored(alice: User, enrol: Enrol) -> None:
    from pool.models import JobFile
    from tests.pool.services.test_arrays import array

    enrol(slots=3)
    made = array(alice, 3, files=[FileSpec(path="x", data=b"shared")])
    jobs_dispatch(now=NOON)
    for job in made.jobs.all():
        claim(job)
        assert [file.content() for file in given(job)] == [b"shared"]
    assert JobFile.objects.count() == 1


def test_an_artifact_that_was_not_left_is_said_when_the_job_would_start(alice: User, enrol: Enrol) -> None:
    enrol()
    first = running(alice, artifacts=["*.pt"])
    second = submit(
        alice, files=[FileSpec(path="m", source_job=first.pk, source_path="m.pt")], after=[first.pk]
    )
    finish(first)
    jobs_dispatch(now=SOON)
    claim(second)
    with pytest.raises(Invalid, match=rf"job {first.pk} has left no artifact m\.pt"):
        given(second)


@pytest.mark.parametrize(
    ("files", "why"),
    [
        ([FileSpec(path="../x", data=b"")], "part '..'"),
        ([FileSpec(path="/x", data=b"")], "absolute"),
        ([FileSpec(path="x", data=b"a" * (1024 * 1024 + 1))], "1048577 bytes, at most 1048576"),
        (
            [FileSpec(path="a", data=b"x" * 600_000), FileSpec(path="b", data=b"x" * 600_000)],
            "at most 1048576",
        ),
        ([FileSpec(path="x")], "needs one of text, base64 and from"),
        ([FileSpec(path="x", data=b""), FileSpec(path="x", data=b"")], "named twice"),
        ([FileSpec(path="x", data=b""), FileSpec(path="x/y", data=b"")], "would lie in 'x'"),
        ([FileSpec(path=f"{n}", data=b"") for n in range(101)], "at most 100"),
        ([FileSpec(path="x", data=b"", mode=0o4755)], "mode"),
    ],
)
def test_wrong_files_are_refused_whole(alice: User, files: list[FileSpec], why: str) -> None:
    with pytest.raises(Invalid, match=why) as refused:
        submit(alice, files=files)
    assert refused.value.facts["errors"][0]["field"] == "files"
    assert not Job.objects.exists()


def test_an_earlier_jobs_file_must_be_one_that_can_come(alice: User, bob: User, enrol: Enrol) -> None:
    enrol(slots=3)
    first = running(alice, artifacts=["*.pt"])

    def asks(owner: User, path: str, **spec: Any) -> Job:
        return submit(owner, files=[FileSpec(path="m", source_job=first.pk, source_path=path)], **spec)

    with pytest.raises(Invalid, match=r"no job .* of yours"):
        asks(bob, "m.pt")
    with pytest.raises(Invalid, match="has not ended") as refused:
        asks(alice, "m.pt")
    assert refused.value.hint == f'add "{first.pk}" to after'
    with pytest.raises(Invalid, match=r"leaves no artifact 'm\.txt'"):
        asks(alice, "m.txt", after=[first.pk])
    leave(attempt(first), "m.pt", b"x")
    finish(first)
    assert state(asks(alice, "m.pt"))[0] == "queued"
    with pytest.raises(Invalid, match="has left no artifact"):
        asks(alice, "n.pt")


# -- how it ends --------------------------------------------------------------------------------------


def test_files_that_were_left_out_are_said_with_the_success(alice: User, enrol: Enrol) -> None:
    enrol()
    job = running(alice, artifacts=["*"])
    said = {"files": 1, "bytes": 1, "left_out": [{"path": "x", "why": "too large"}], "left_out_count": 3}
    finish(job, result={"artifacts": said})
    assert state(job) == ("succeeded", "exit code 0; 3 of its files were not kept, first x: too large")


@pytest.mark.parametrize(
    ("fields", "why"),
    [({"exit_code": 3}, "exit code 3"), ({"exit_code": 143, "timed_out_s": 60.0}, "timed out after 60 s")],
)
def test_files_that_were_left_out_are_said_with_the_failure_as_well(
    alice: User, enrol: Enrol, fields: dict[str, Any], why: str
) -> None:
    enrol()
    job = running(alice, artifacts=["*"])
    said = {"artifacts": {"left_out": [{"path": "big", "why": "it is too large"}], "left_out_count": 2}}
    finish(job, "failed", result=said, **fields)
    assert state(job) == (
        "failed",
        f"{why}; 2 of its files were not kept, first big: it is too large",
    )


@pytest.mark.parametrize("said", [None, [], {"left_out": 5, "left_out_count": "x"}, {"left_out": [1, {}]}])
def test_whatever_an_agent_says_of_them_the_job_ends(alice: User, enrol: Enrol, said: Any) -> None:
    enrol()
    job = running(alice, artifacts=["*"])
    finish(job, result={"artifacts": said})
    assert state(job)[0] == "succeeded"


def test_a_job_whose_artifacts_could_not_be_kept_says_that_and_not_its_exit_code(
    alice: User, enrol: Enrol
) -> None:
    enrol()
    job = running(alice, artifacts=["*"])
    finish(job, "failed", 0, reason="its artifact 'a' could not be uploaded: the store is busy")
    assert state(job) == (
        "failed",
        "exit code 0, but its artifact 'a' could not be uploaded: the store is busy",
    )
