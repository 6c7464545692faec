"""What an agent asks while it takes or restores a snapshot. It never holds a key of the store."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from agent import wire
from core.agents import AgentAuthentication, IsAgent
from core.errors import Invalid
from snapshots.api.serializers import CommitSerializer, DoneSerializer, PlannedSerializer, PlanSerializer
from snapshots.models import Snapshot
from snapshots.services import taking


class AgentView(APIView):
    authentication_classes = [AgentAuthentication]
    permission_classes = [IsAgent]
    throttle_classes: list[Any] = []


class PlanView(AgentView):
    @extend_schema(tags=["agent"], request=PlanSerializer, responses=PlannedSerializer)
    def post(self, request: Request, snapshot_id: str) -> Response:
        """Terms of a snapshot that this worker is taking, and presigned requests for what it wants to move.

        Asking for nothing but the terms begins it: 409 `root_planned` where an earlier run had got as far as its root.
        """
        return _planned(request, taking.snapshot_for_agent(snapshot_id, request.user))


class RestorePlanView(AgentView):
    @extend_schema(tags=["agent"], request=PlanSerializer, responses=PlannedSerializer)
    def post(self, request: Request, snapshot_id: str) -> Response:
        """Terms of a snapshot that this worker may restore, and presigned downloads."""
        return _planned(request, taking.snapshot_to_restore(snapshot_id, request.user), restores=True)


class CommitView(AgentView):
    @extend_schema(tags=["agent"], request=CommitSerializer, responses=DoneSerializer)
    def post(self, request: Request, snapshot_id: str) -> Response:
        """Everything is uploaded, the root last. The snapshot is committed; the control plane verifies it next.

        The same commit again, because its answer was lost, gets the same answer.
        """
        facts = CommitSerializer(data=request.data)
        facts.is_valid(raise_exception=True)
        snapshot = taking.snapshot_commit(snapshot_id, request.user, facts=facts.validated_data)
        return Response({"status": snapshot.state})


def _planned(request: Request, snapshot: Snapshot, *, restores: bool = False) -> Response:
    plan = PlanSerializer(data=request.data)
    plan.is_valid(raise_exception=True)
    wishes = [wire.PutWish(**wish) for wish in plan.validated_data["put"]]
    if wishes and restores:
        raise Invalid("a restore uploads nothing", hint="leave `put` out")
    if not (restores or wishes or plan.validated_data["get"]):
        taking.snapshot_start(snapshot)
    put, get = taking.snapshot_plan(snapshot, put=wishes, get=plan.validated_data["get"])
    return Response(
        {
            "terms": wire.to_json(taking.snapshot_terms(snapshot)),
            "put": [wire.to_json(request) for request in put],
            "get": [wire.to_json(request) for request in get],
        }
    )
