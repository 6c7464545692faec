"""The history of use: hours by worker, account and day; utilisation in three resolutions."""

from __future__ import annotations

from typing import Any

from django.utils import timezone
from drf_spectacular.utils import OpenApiParameter, extend_schema, extend_schema_field
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from core.api import ErrorSerializer, Pagination, owned
from core.errors import NotFound
from pool import selectors
from pool.api.serializers import WorkerAccountSerializer
from pool.api.views import PeoplesView
from pool.models import Account, Sample, Worker
from pool.selectors_history import DAYS_AT_MOST, RESOLUTIONS, accounts_use, samples_of, worker_use


class DayUseSerializer(serializers.Serializer):
    """Hours of session runtime on one day (UTC)."""

    day = serializers.DateField()
    hours = serializers.FloatField()


class UseSerializer(serializers.Serializer):
    """Hours by day, the earliest first; days without any are left out."""

    total_hours = serializers.SerializerMethodField()
    days = serializers.SerializerMethodField()

    def get_total_hours(self, use: Any) -> float:
        return round(use.total_h, 4)

    @extend_schema_field(DayUseSerializer(many=True))
    def get_days(self, use: Any) -> list[dict[str, Any]]:
        return [{"day": day, "hours": round(hours, 4)} for day, hours in use.days]


class AccountUseSerializer(UseSerializer):
    """The hours of all workers of an account."""

    account = WorkerAccountSerializer()


class PoolUseSerializer(serializers.Serializer):
    """The hours of each account that you may see."""

    accounts = AccountUseSerializer(many=True)


class UtilisationSerializer(serializers.Serializer):
    """One reading, or one minute or hour of them. gpu_util: percent, the mean; null: unknown. samples: how many."""

    at = serializers.DateTimeField()
    gpu_util = serializers.FloatField(allow_null=True)
    gpu_util_max = serializers.FloatField(allow_null=True)
    samples = serializers.IntegerField()


class DaysQuery(serializers.Serializer):
    days = serializers.IntegerField(default=28, min_value=1, max_value=DAYS_AT_MOST)


class SamplesQuery(serializers.Serializer):
    resolution = serializers.ChoiceField(choices=RESOLUTIONS, default="minute")
    since = serializers.DateTimeField(required=False)
    until = serializers.DateTimeField(required=False)


def worker_seen(request: Request, worker_id: str) -> Worker:
    """The worker, if this person may see it. Raises NotFound."""
    worker = selectors.workers_seen_by(request.user).filter(pk=worker_id).first()
    if worker is None:
        raise NotFound(f"there is no worker {worker_id}", hint="GET /api/workers lists them")
    return worker


def asked(form: type[serializers.Serializer], request: Request) -> dict[str, Any]:
    query = form(data=request.query_params)
    query.is_valid(raise_exception=True)
    return dict(query.validated_data)


class WorkerUsageView(PeoplesView, APIView):
    @extend_schema(
        tags=["pool"],
        operation_id="workers_usage",
        parameters=[DaysQuery],
        responses={200: UseSerializer, 404: ErrorSerializer},
    )
    def get(self, request: Request, worker_id: str) -> Response:
        """How many hours it was used on each of the last days."""
        worker = worker_seen(request, worker_id)
        use = worker_use(worker, days=asked(DaysQuery, request)["days"], now=timezone.now())
        return Response(UseSerializer(use).data)


class WorkerSamplesView(PeoplesView, APIView):
    @extend_schema(
        tags=["pool"],
        operation_id="workers_samples",
        parameters=[
            SamplesQuery,
            OpenApiParameter("limit", int, description="of this page"),
            OpenApiParameter("offset", int, description="how many to leave out"),
        ],
        responses={200: UtilisationSerializer(many=True), 404: ErrorSerializer},
    )
    def get(self, request: Request, worker_id: str) -> Response:
        """How busy its GPU was, the newest first: each reading of the last day, minutes of a week, hours of a year."""
        worker, query = worker_seen(request, worker_id), asked(SamplesQuery, request)
        rows = samples_of(worker, query["resolution"], since=query.get("since"), until=query.get("until"))
        pages = Pagination()
        page = [_shown(row) for row in pages.paginate_queryset(rows, request, view=self) or []]
        return pages.get_paginated_response(UtilisationSerializer(page, many=True).data)


class PoolUsageView(PeoplesView, APIView):
    @extend_schema(
        tags=["pool"], operation_id="pool_usage", parameters=[DaysQuery], responses=PoolUseSerializer
    )
    def get(self, request: Request) -> Response:
        """How many hours each of your accounts was used on each of the last days; staff sees all."""
        accounts = owned(Account.objects.order_by("kind", "label", "pk"), request)
        use = accounts_use(accounts, days=asked(DaysQuery, request)["days"], now=timezone.now())
        return Response(PoolUseSerializer({"accounts": use}).data)


def _shown(row: Any) -> dict[str, Any]:
    if isinstance(row, Sample):
        return {"at": row.at, "gpu_util": row.gpu_util, "gpu_util_max": row.gpu_util, "samples": 1}
    return {"at": row.at, "gpu_util": row.gpu_util, "gpu_util_max": row.util_max, "samples": row.samples}
