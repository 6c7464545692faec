"""Arrays of jobs."""

from __future__ import annotations

from typing import Any

from django.db.models import QuerySet
from drf_spectacular.utils import extend_schema, extend_schema_view
from rest_framework import mixins, viewsets
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from core.api import Pagination, actor
from pool import selectors_jobs
from pool.api.job_serializers import JobArraySerializer
from pool.api.views import PeoplesView
from pool.models import JobArray
from pool.services.cancelling import array_cancel


@extend_schema_view(list=extend_schema(tags=["jobs"]), retrieve=extend_schema(tags=["jobs"]))
class JobArrayViewSet(PeoplesView, mixins.ListModelMixin, mixins.RetrieveModelMixin, viewsets.GenericViewSet):
    """Your arrays of jobs."""

    serializer_class = JobArraySerializer
    pagination_class = Pagination
    filterset_fields: list[str] = []
    queryset = JobArray.objects.none()

    def get_queryset(self) -> QuerySet[JobArray]:
        return selectors_jobs.arrays_of(self.request.user).order_by("-created_at", "pk")

    def paginate_queryset(self, queryset: Any) -> Any:
        page = super().paginate_queryset(queryset)
        return selectors_jobs.arrays_shown(page) if page is not None else page

    def get_object(self) -> JobArray:
        return selectors_jobs.arrays_shown([super().get_object()])[0]

    @extend_schema(tags=["jobs"], request=None, responses=JobArraySerializer)
    @action(detail=True, methods=["post"])
    def cancel(self, request: Request, pk: str) -> Response:
        """Stop every job of it that has not ended. Asking again is fine."""
        array_cancel(self.get_object(), by=actor(request))
        return Response(JobArraySerializer(self.get_object()).data)
