"""The capacity plan: what the next day needs, and which account to open next."""

from __future__ import annotations

from typing import Any

from django.utils import timezone
from drf_spectacular.utils import OpenApiExample, OpenApiParameter, extend_schema, extend_schema_field
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from core.api import ErrorSerializer
from pool.api.serializers import WorkerAccountSerializer
from pool.api.views import PeoplesView
from pool.plan import LEVELS, Step
from pool.services.planning import AccountPlan, PoolPlan, pool_plan

WORKERS_AT_MOST = 10_000


class PlanQuery(serializers.Serializer):
    within_hours = serializers.FloatField(default=4, min_value=0.25, max_value=24)
    peak = serializers.IntegerField(required=False, min_value=0, max_value=WORKERS_AT_MOST)
    average = serializers.IntegerField(required=False, min_value=0, max_value=WORKERS_AT_MOST)
    night = serializers.IntegerField(required=False, min_value=0, max_value=WORKERS_AT_MOST)


class PlanHourSerializer(serializers.Serializer):
    """One of the next 24 hours. workers_there: online now and still safe then, and what the plan opens."""

    starts_at = serializers.DateTimeField()
    level = serializers.ChoiceField(
        choices=LEVELS, help_text="of use at that hour, during the last four weeks"
    )
    workers_needed = serializers.IntegerField(source="needed")
    workers_there = serializers.IntegerField(source="there")
    missing = serializers.IntegerField()


class PlanStepSerializer(serializers.Serializer):
    """Open this account then."""

    account = serializers.CharField(source="account_id")
    label = serializers.CharField()
    at = serializers.DateTimeField()
    hours = serializers.FloatField(source="serves_h", allow_null=True, help_text="that its session serves")
    missing = serializers.IntegerField(help_text="workers that are missing before it")
    reason = serializers.SerializerMethodField()

    def get_reason(self, step: Step) -> str:
        return str(step.reason)


class PlanAccountSerializer(serializers.Serializer):
    """One of your accounts. Hours serve until its workers are near the limit; null: nothing limits them."""

    account = WorkerAccountSerializer()
    enabled = serializers.BooleanField(source="holding.enabled")
    hours_left = serializers.SerializerMethodField(help_text="of its week, to the limit itself")
    hours_usable = serializers.FloatField(
        source="holding.usable_h",
        allow_null=True,
        help_text="of its week, until its workers are near the limit",
    )
    session_hours = serializers.FloatField(source="holding.session_h", allow_null=True)
    resets_at = serializers.DateTimeField(source="holding.resets_at", allow_null=True)
    sessions = serializers.IntegerField(source="holding.sessions", help_text="that may run at once")
    online = serializers.IntegerField()
    estimated_hours = serializers.FloatField(source="use.estimated_h", help_text="of those used")
    official_at = serializers.DateTimeField(
        source="use.official_at", allow_null=True, help_text="when the provider itself said what was used"
    )
    usual = serializers.ListField(
        source="holding.usual",
        child=serializers.FloatField(),
        help_text="its sessions that ran in each hour of the day, by the clock of `zone`, on average of four weeks",
    )
    zone = serializers.CharField(source="holding.zone")
    reason = serializers.SerializerMethodField(help_text="why it is opened, or is not")

    def get_hours_left(self, one: AccountPlan) -> float | None:
        limit_h = one.account.weekly_limit_h
        return None if limit_h is None else max(0.0, limit_h - one.use.used_h)

    def get_reason(self, one: AccountPlan) -> str:
        reasons: dict[str, Any] = self.context["reasons"]
        return str(reasons[one.account.pk])


class PlanQueueSerializer(serializers.Serializer):
    """What waits in the shared pool's queue. hours: as the jobs expect; typical_job_hours for those that do not say."""

    jobs = serializers.IntegerField()
    hours = serializers.FloatField()
    typical_job_hours = serializers.FloatField()
    within_hours = serializers.FloatField()
    workers_needed = serializers.IntegerField(help_text="to be done within within_hours")
    workers_busy = serializers.IntegerField(help_text="beside those: with a job")


class PlanSerializer(serializers.Serializer):
    """The next day. `next` is the first of `steps`; null: nothing is to be opened, or nothing can be."""

    at = serializers.DateTimeField()
    reason = serializers.SerializerMethodField()
    next = serializers.SerializerMethodField()
    steps = PlanStepSerializer(many=True, source="plan.steps")
    hours = PlanHourSerializer(many=True, source="plan.hours")
    levels = serializers.DictField(
        child=serializers.IntegerField(), source="plan.levels", help_text="workers that each level needs"
    )
    queue = serializers.SerializerMethodField()
    workers_online = serializers.IntegerField(source="online")
    workers_safe = serializers.IntegerField(source="safe")
    accounts = serializers.SerializerMethodField()

    def get_reason(self, found: PoolPlan) -> str:
        return str(found.plan.reason)

    @extend_schema_field(PlanStepSerializer(allow_null=True))
    def get_next(self, found: PoolPlan) -> dict[str, Any] | None:
        return dict(PlanStepSerializer(found.plan.steps[0]).data) if found.plan.steps else None

    @extend_schema_field(PlanQueueSerializer)
    def get_queue(self, found: PoolPlan) -> dict[str, Any]:
        queue = found.queue
        said = {
            "jobs": sum(queue.jobs.values()),
            "hours": round(sum(queue.hours.values()), 2),
            "typical_job_hours": round(found.typical_job_h, 3),
            "within_hours": queue.within_h,
            "workers_needed": queue.workers_all,
            "workers_busy": sum(queue.busy.values()),
        }
        return dict(PlanQueueSerializer(said).data)

    @extend_schema_field(PlanAccountSerializer(many=True))
    def get_accounts(self, found: PoolPlan) -> list[dict[str, Any]]:
        context = {"reasons": found.plan.reasons}
        return list(PlanAccountSerializer(found.accounts, many=True, context=context).data)


HOUR = {
    "starts_at": "2026-11-24T09:00:00Z",
    "level": "peak",
    "workers_needed": 3,
    "workers_there": 3,
    "missing": 0,
}
STEP = {
    "account": "acc_4h2k8qzv5m9t3xwr",
    "label": "kaggle ana",
    "at": "2026-11-24T09:00:00Z",
    "hours": 8.5,
    "missing": 1,
    "reason": "12.6 h of its week can still be used and lapse in 87 h",
}
EXAMPLE = OpenApiExample(
    "a worker is missing from nine o'clock",
    value={
        "at": "2026-11-24T06:12:00Z",
        "reason": "open kaggle ana in 3 h: workers that are missing then: 1",
        "next": STEP,
        "steps": [STEP],
        "hours": [HOUR],
        "levels": {"peak": 3, "average": 2, "night": 1},
        "queue": {
            "jobs": 4,
            "hours": 6.0,
            "typical_job_hours": 1.2,
            "within_hours": 4.0,
            "workers_needed": 2,
            "workers_busy": 1,
        },
        "workers_online": 2,
        "workers_safe": 2,
        "accounts": [
            {
                "account": {"id": "acc_4h2k8qzv5m9t3xwr", "kind": "kaggle", "label": "ana"},
                "enabled": True,
                "hours_left": 21.6,
                "hours_usable": 12.6,
                "session_hours": 8.5,
                "resets_at": "2026-11-28T00:00:00Z",
                "sessions": 1,
                "online": 0,
                "estimated_hours": 0.0,
                "official_at": "2026-11-24T06:05:00Z",
                "usual": [0.0] * 9 + [0.8] * 8 + [0.0] * 7,
                "zone": "America/Sao_Paulo",
                "reason": STEP["reason"],
            }
        ],
    },
    response_only=True,
)


class PoolPlanView(PeoplesView, APIView):
    @extend_schema(
        tags=["pool"],
        operation_id="pool_plan",
        parameters=[
            OpenApiParameter("within_hours", float, description="so long may the queue take; 4 by default"),
            OpenApiParameter(
                "peak", int, description="workers for each hour of this level; by default as used"
            ),
            OpenApiParameter("average", int, description="the same for the hours between"),
            OpenApiParameter("night", int, description="the same for the quiet hours"),
        ],
        responses={200: PlanSerializer, 400: ErrorSerializer},
        examples=[EXAMPLE],
    )
    def get(self, request: Request) -> Response:
        """How many hours your accounts have left, how many workers the next day needs, and which account to open when.

        Need and supply are the whole shared pool's. Rented machines and this one's own are never "opened": their
        instances are woken, and cost money.
        """
        query = PlanQuery(data=request.query_params)
        query.is_valid(raise_exception=True)
        said = dict(query.validated_data)
        found = pool_plan(
            user=request.user, now=timezone.now(), within_h=said.pop("within_hours"), wanted=said
        )
        return Response(PlanSerializer(found).data)
