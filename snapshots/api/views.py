"""Snapshots as their owner sees them: list, look inside, fetch one file without a GPU, let go."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote

from django.db.models import QuerySet
from django.http import StreamingHttpResponse
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema, extend_schema_view
from rest_framework import mixins, viewsets
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from core.api import HasScope, Pagination, actor, owned
from snapshots import selectors
from snapshots.api.serializers import FileSerializer, SnapshotSerializer
from snapshots.models import Snapshot
from snapshots.services.deleting import snapshot_delete

FILES_USUAL = 500
FILES_AT_MOST = 5_000


@extend_schema_view(
    list=extend_schema(tags=["snapshots"]),
    retrieve=extend_schema(tags=["snapshots"]),
    destroy=extend_schema(
        tags=["snapshots"], description="Let a generation go. Refused for the one that an instance sleeps on."
    ),
)
class SnapshotViewSet(
    mixins.ListModelMixin,
    mixins.RetrieveModelMixin,
    mixins.DestroyModelMixin,
    viewsets.GenericViewSet[Snapshot],
):
    serializer_class = SnapshotSerializer
    permission_classes = [HasScope]
    pagination_class = Pagination
    filterset_fields = {"workspace_ref": ["exact"], "state": ["exact"]}
    queryset = Snapshot.objects.all()
    lookup_value_regex = "[a-z0-9_]+"  # anything else is no id, and not every database can be asked for it

    def get_queryset(self) -> QuerySet[Snapshot]:
        return owned(Snapshot.objects.all(), self.request)

    def perform_destroy(self, instance: Snapshot) -> None:
        snapshot_delete(instance, by=actor(self.request))

    @extend_schema(
        tags=["snapshots"],
        responses=FileSerializer(many=True),
        parameters=[
            OpenApiParameter("prefix", str, description="only what lies below this folder"),
            OpenApiParameter("limit", int, description="at most this many, 500 by default"),
            OpenApiParameter("after", str, description="the last path of the page before"),
        ],
    )
    @action(detail=True, pagination_class=None, filterset_fields=None)
    def files(self, request: Request, pk: str) -> Response:
        """What a generation holds, by path."""
        query: Any = request.query_params
        entries = selectors.files(
            self.get_object(),
            prefix=query.get("prefix", ""),
            after=query.get("after", ""),
            limit=_limit(query.get("limit", "")),
        )
        return Response(FileSerializer(entries, many=True).data)

    @extend_schema(tags=["snapshots"], responses={(200, "application/octet-stream"): OpenApiTypes.BINARY})
    @action(detail=True, url_path=r"files/(?P<path>.+)", url_name="file")
    def file(self, request: Request, pk: str, path: str) -> StreamingHttpResponse:
        """One file, streamed out of the store: no GPU machine is woken for it."""
        size, pieces = selectors.file_content(self.get_object(), path)
        response = StreamingHttpResponse(pieces, content_type="application/octet-stream")
        response["Content-Length"] = str(size)
        name = path.rsplit("/", 1)[-1]
        response["Content-Disposition"] = f"attachment; filename*=UTF-8''{quote(name)}"
        response["X-Content-Type-Options"] = "nosniff"
        return response


def _limit(text: str) -> int:
    """How many files a page holds: what was asked for where that is a number, within bounds."""
    return min(int(text), FILES_AT_MOST) if re.fullmatch("[0-9]{1,9}", text) else FILES_USUAL
