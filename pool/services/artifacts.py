"""Files of jobs between the agents and the store: what a job is given, what it leaves.

An upload is written down before it is signed, so that nothing gets into the store that no row knows.
"""

from __future__ import annotations

import base64
import logging
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import transaction
from django.db.models import Sum
from django.utils import timezone

from agent import wire
from core.agents import AgentIdentity
from core.errors import Invalid, NotFound
from pool.models import Artifact, Dispatch, JobFile, JobObject
from pool.services.reports import dispatch_held
from pool.services.specs import artifacts_prefix
from snapshots.services.objects import objects_sign

log = logging.getLogger(__name__)

SLACK = 1.5
"""Of the total that may be planned: a file that is read again after a restart may have changed by then."""


# -- what a job is given ----------------------------------------------------------------------------


def files_given(*, identity: AgentIdentity, dispatch_id: str, fence: int) -> list[wire.GivenFile]:
    """The job's files: bytes that came with the request, and the pieces of earlier jobs' artifacts.

    Raises NotFound, StandDown, and Invalid where an artifact is not there (any more): the job cannot start.
    """
    with transaction.atomic():
        row = _job_held(identity, dispatch_id, fence=fence)
    return [_given(file) for file in _files(row)]


def _files(dispatch: Dispatch) -> list[JobFile]:
    job = dispatch.job
    owner = {"array": job.array_id} if job.array_id else {"job": job.pk}
    return list(JobFile.objects.filter(**owner).select_related("source_job__owner").order_by("pk"))


def _given(file: JobFile) -> wire.GivenFile:
    if file.data is not None:
        data = bytes(file.data)
        return wire.GivenFile(
            path=file.path, mode=file.mode, length=len(data), data=base64.b64encode(data).decode("ascii")
        )
    found = _source(file)
    prefix = artifacts_prefix(found.dispatch)
    return wire.GivenFile(
        path=file.path,
        mode=file.mode,
        length=found.length,
        sha256=found.sha256,
        pieces=tuple(
            wire.PutWish(key=prefix + sha256, length=length, sha256=sha256) for sha256, length in found.pieces
        ),
    )


def _source(file: JobFile) -> Artifact:
    found = (
        Artifact.objects.select_related("dispatch__job__owner")
        .filter(
            dispatch__job=file.source_job, dispatch__number=file.source_job.attempt, path=file.source_path
        )
        .first()
    )
    if found is None:
        raise Invalid(
            f"job {file.source_job_id} has left no artifact {file.source_path}",
            hint="it may have been let go: run that job again",
        )
    return found


def _job_held(identity: AgentIdentity, dispatch_id: str, *, fence: int) -> Dispatch:
    row = dispatch_held(identity, dispatch_id, fence=fence)
    if row.job is None:
        raise Invalid(f"dispatch {row.pk} is a {row.kind}: it has no files", hint="only jobs have")
    return row


# -- signed transfers -------------------------------------------------------------------------------


def objects_plan(
    *, identity: AgentIdentity, dispatch_id: str, post: wire.PlanPost, now: datetime | None = None
) -> wire.ObjectsAnswer:
    """Presigned requests for pieces that the attempt leaves, and for those that it is given, in the order asked for.

    Raises NotFound, StandDown, and Invalid, naming the key that is refused.
    """
    now = now or timezone.now()
    if len(post.put) + len(post.get) > wire.REQUESTS_PER_PLAN:
        raise Invalid(f"at most {wire.REQUESTS_PER_PLAN} requests a plan", hint="ask in several plans")
    with transaction.atomic():
        row = _job_held(identity, dispatch_id, fence=post.fence)
        prefix = artifacts_prefix(row)
        for wish in post.put:
            _check_put(wish, prefix)
        _check_get(post.get, row, prefix)
        # The same bytes in two files are one object, asked for twice.
        wishes = {wish.key: wish for wish in post.put}
        other = next((wish for wish in post.put if wishes[wish.key].length != wish.length), None)
        if other is not None:
            raise Invalid(f"{other.key[:100]} is asked for with two lengths", hint="a digest has one")
        _write_down(row, [*wishes.values()], now=now)
    put, get = objects_sign(put=post.put, get=post.get)
    return wire.ObjectsAnswer(put=tuple(put), get=tuple(get))


def _check_put(wish: wire.PutWish, prefix: str) -> None:
    if len(wish.sha256) != 64 or set(wish.sha256) - set("0123456789abcdef"):
        raise Invalid(f"{wish.key[:100]}: the hash is not SHA-256 in hex")
    if wish.key != prefix + wish.sha256:
        raise Invalid(f"{wish.key[:100]} is no key of this attempt", hint=f"they are {prefix}<sha256>")
    if not 0 < wish.length <= wire.PIECE_BYTES:
        raise Invalid(f"{wish.key[:100]}: {wish.length} bytes", hint=f"from 1 to {wire.PIECE_BYTES}")


def _check_get(keys: Sequence[str], dispatch: Dispatch, prefix: str) -> None:
    foreign = {key for key in keys if not key.startswith(prefix)}
    if not foreign:
        return
    given = {
        piece.key
        for file in _files(dispatch)
        if file.source_job_id is not None
        for piece in _given(file).pieces
    }
    if foreign - given:
        raise Invalid(f"{min(foreign - given)[:100]} is nothing that this job is given")


def _write_down(dispatch: Dispatch, put: Sequence[wire.PutWish], *, now: datetime) -> None:
    if not put:
        return
    planned = dispatch.objects_stored.aggregate(bytes=Sum("length"))["bytes"] or 0
    if planned + sum(wish.length for wish in put) > SLACK * settings.JOB_ARTIFACTS_BYTES + wire.PIECE_BYTES:
        raise Invalid(
            f"an attempt keeps at most {settings.JOB_ARTIFACTS_BYTES} bytes of artifacts",
            hint="leave the rest out",
        )
    JobObject.objects.bulk_create(
        [
            JobObject(dispatch=dispatch, key=wish.key, length=wish.length, sha256=wish.sha256, planned_at=now)
            for wish in put
        ],
        update_conflicts=True,
        unique_fields=["key"],
        update_fields=["planned_at"],
    )


# -- what a job leaves ------------------------------------------------------------------------------


def artifacts_add(
    *, identity: AgentIdentity, dispatch_id: str, post: wire.ArtifactsPost, now: datetime | None = None
) -> int:
    """Files whose pieces are in the store now; returns how many the attempt has left so far. The same again is fine.

    Raises NotFound, StandDown, and Invalid for a path that is none, pieces that were not planned, or too many.
    """
    now = now or timezone.now()
    if len(post.artifacts) > wire.ARTIFACTS_PER_POST:
        raise Invalid(f"at most {wire.ARTIFACTS_PER_POST} artifacts a post", hint="send several")
    with transaction.atomic():
        row = _job_held(identity, dispatch_id, fence=post.fence)
        prefix = artifacts_prefix(row)
        keys = {piece.key for file in post.artifacts for piece in file.pieces}
        planned = dict(row.objects_stored.filter(key__in=keys).values_list("key", "length"))
        for file in post.artifacts:
            _check_kept(file, prefix, planned)
        Artifact.objects.bulk_create(
            [
                Artifact(
                    dispatch=row,
                    path=file.path,
                    mode=file.mode & 0o777,
                    length=file.length,
                    sha256=file.sha256,
                    pieces=[[piece.sha256, piece.length] for piece in file.pieces],
                    created_at=now,
                )
                for file in {file.path: file for file in post.artifacts}.values()
            ],
            update_conflicts=True,
            unique_fields=["dispatch", "path"],
            update_fields=["mode", "length", "sha256", "pieces", "created_at"],
        )
        sums = row.artifacts.aggregate(bytes=Sum("length"))
        count = row.artifacts.count()
        if count > settings.JOB_ARTIFACTS_AT_MOST or (sums["bytes"] or 0) > settings.JOB_ARTIFACTS_BYTES:
            raise Invalid(
                f"{count} artifacts of {sums['bytes']} bytes are more than an attempt may leave",
                hint=f"at most {settings.JOB_ARTIFACTS_AT_MOST} of {settings.JOB_ARTIFACTS_BYTES} bytes in all",
            )
    return count


def _check_kept(file: wire.KeptFile, prefix: str, planned: dict[str, int]) -> None:
    try:
        wire.check_path(file.path)
    except wire.WireError as error:
        raise Invalid(str(error)) from error
    if len(file.sha256) != 64 or set(file.sha256) - set("0123456789abcdef"):
        raise Invalid(f"{file.path}: the hash is not SHA-256 in hex")
    for piece in file.pieces:
        if planned.get(piece.key) != piece.length or piece.key != prefix + piece.sha256:
            raise Invalid(
                f"{file.path}: {piece.key[:100]} was never planned with this length",
                hint="plan it, upload it",
            )
    if sum(piece.length for piece in file.pieces) != file.length or file.length > settings.JOB_ARTIFACT_BYTES:
        raise Invalid(f"{file.path}: its pieces do not make {file.length} bytes, or these are too many")


def artifacts_of(dispatch: Dispatch) -> Any:
    """What an attempt has left, by path."""
    return dispatch.artifacts.order_by("path")


def artifact_find(dispatch: Dispatch, path: str) -> Artifact:
    """Raises NotFound, saying whether it was let go."""
    found = dispatch.artifacts.filter(path=path).first() if "\x00" not in path else None
    if found is None:
        gone = dispatch.files_gone_at is not None
        raise NotFound(
            f"attempt {dispatch.number} of {dispatch.job_id} has no artifact {path[:100]}"
            + (" any more: what it left was let go" if gone else ""),
            hint=f"GET /api/jobs/{dispatch.job_id}/artifacts lists what there is",
        )
    return found


def kept_until(dispatch: Dispatch) -> datetime | None:
    """When what it left may be let go; None: never, or it has not ended."""
    if not settings.JOB_FILES_DAYS or dispatch.state not in Dispatch.TABLE.final:
        return None
    return dispatch.state_since + timedelta(days=settings.JOB_FILES_DAYS)
