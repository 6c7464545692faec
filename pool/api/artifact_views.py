"""Artifacts of jobs as people list and fetch them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

from django.http import HttpResponseBase, HttpResponseRedirect, StreamingHttpResponse
from django.urls import reverse
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from core.api import ErrorSerializer, Pagination
from core.errors import NotFound
from pool import selectors_jobs
from pool.api.views import PeoplesView, whole_of
from pool.models import Artifact, Dispatch
from pool.services.artifacts import artifact_find, artifacts_of, kept_until
from pool.services.attempts import left_out
from pool.services.specs import artifacts_prefix
from snapshots.services.objects import object_read, object_url

STREAM_BYTES = 4 << 20
ATTEMPT = OpenApiParameter("attempt", int, description="whose; the latest by default")
NOT_THERE = OpenApiResponse(ErrorSerializer, description="no such job or artifact of yours")


class ArtifactSerializer(serializers.ModelSerializer):
    """A file that a job has left. url: fetch it there, with the token where it is one of this API, else for some minutes
    by anybody who knows it."""

    bytes = serializers.IntegerField(source="length")
    mode = serializers.SerializerMethodField()
    url = serializers.SerializerMethodField()

    class Meta:
        model = Artifact
        fields = ["path", "bytes", "sha256", "mode", "url", "created_at"]
        read_only_fields = fields

    def get_mode(self, row: Artifact) -> str:
        return f"{row.mode:03o}"

    def get_url(self, row: Artifact) -> str:
        dispatch = self.context["dispatch"]
        if len(row.pieces) == 1:
            return object_url(self.context["prefix"] + row.pieces[0][0])
        place = reverse("job-artifact", args=[dispatch.job_id, row.path])
        address = f"{place}?attempt={dispatch.number}"
        return str(self.context["request"].build_absolute_uri(address))


class LeftOutSerializer(serializers.Serializer):
    path = serializers.CharField()
    why = serializers.CharField()


class ArtifactPageSerializer(serializers.Serializer):
    """attempt: which one left them; 0: it has not begun. kept_until: they may be let go then; gone: they were.

    left_out: some of those that the globs mean and that were not kept; left_out_count: how many there are.
    """

    attempt = serializers.IntegerField()
    kept_until = serializers.DateTimeField(allow_null=True)
    gone = serializers.BooleanField()
    left_out_count = serializers.IntegerField()
    left_out = LeftOutSerializer(many=True)
    count = serializers.IntegerField()
    next = serializers.URLField(allow_null=True)
    previous = serializers.URLField(allow_null=True)
    results = ArtifactSerializer(many=True)


class ArtifactListView(PeoplesView, APIView):
    @extend_schema(
        tags=["jobs"],
        operation_id="jobs_artifacts_list",
        parameters=[ATTEMPT, OpenApiParameter("limit", int), OpenApiParameter("offset", int)],
        responses={200: ArtifactPageSerializer, 404: NOT_THERE},
    )
    def get(self, request: Request, job_id: str) -> Response:
        """The files that an attempt has left, by path."""
        dispatch = _attempt(request, job_id)
        if dispatch is None:
            nothing = {
                "attempt": 0,
                "kept_until": None,
                "gone": False,
                "left_out_count": 0,
                "left_out": [],
                "count": 0,
                "next": None,
                "previous": None,
            }
            return Response({**nothing, "results": []})
        left_out_count, left_out_some = left_out(dispatch)
        pages = Pagination()
        rows = pages.paginate_queryset(artifacts_of(dispatch), request, view=self)
        context = {"request": request, "dispatch": dispatch, "prefix": artifacts_prefix(dispatch)}
        return Response(
            {
                "attempt": dispatch.number,
                "kept_until": kept_until(dispatch),
                "gone": dispatch.files_gone_at is not None,
                "left_out_count": left_out_count,
                "left_out": left_out_some,
                "count": pages.count,
                "next": pages.get_next_link(),
                "previous": pages.get_previous_link(),
                "results": ArtifactSerializer(rows, many=True, context=context).data,
            }
        )


class ArtifactView(PeoplesView, APIView):
    @extend_schema(
        tags=["jobs"],
        operation_id="jobs_artifacts_retrieve",
        parameters=[
            ATTEMPT,
            OpenApiParameter("artifact", str, OpenApiParameter.PATH, description="its path"),
        ],
        responses={
            (200, "application/octet-stream"): OpenApiTypes.BINARY,
            302: OpenApiResponse(description="to the store, which gives it to whoever has that address"),
            404: NOT_THERE,
        },
    )
    def get(self, request: Request, job_id: str, artifact: str) -> HttpResponseBase:
        """One file: a redirect to the store where it is one object there, else streamed."""
        dispatch = _attempt(request, job_id)
        if dispatch is None:
            raise NotFound(f"job {job_id} has left nothing yet", hint="it has not begun")
        row = artifact_find(dispatch, artifact)
        prefix = artifacts_prefix(dispatch)
        if len(row.pieces) == 1:
            return HttpResponseRedirect(object_url(prefix + row.pieces[0][0]))
        return _streamed(row, prefix)


def _attempt(request: Request, job_id: str) -> Dispatch | None:
    """The attempt that is asked about; None where the job has not had any."""
    job = selectors_jobs.jobs_of(request.user).filter(pk=job_id).first()
    if job is None:
        raise NotFound(f"there is no job {job_id[:40]} of yours", hint="GET /api/jobs lists them")
    number = whole_of(request, "attempt", default=job.attempt)
    row = next((one for one in job.attempts.all() if one.number == number), None)
    if row is None and number != job.attempt:
        raise NotFound(f"job {job.pk} has no attempt {number}")
    if row is not None:
        row.job = job
    return row


def _streamed(row: Artifact, prefix: str) -> StreamingHttpResponse:
    response = StreamingHttpResponse(_pieces(row.pieces, prefix), content_type="application/octet-stream")
    response["Content-Length"] = str(row.length)
    response["Content-Disposition"] = f"attachment; filename*=UTF-8''{quote(row.path.rpartition('/')[2])}"
    response["X-Content-Type-Options"] = "nosniff"
    return response


def _pieces(pieces: list[Any], prefix: str) -> Iterator[bytes]:
    for sha256, length in pieces:
        for offset in range(0, length, STREAM_BYTES):
            yield object_read(prefix + sha256, offset=offset, length=min(STREAM_BYTES, length - offset))
