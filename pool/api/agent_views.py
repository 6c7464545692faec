"""The routes that agents call. Status posts and queue polls are the gateway's."""

from __future__ import annotations

from typing import Any, TypeVar

from drf_spectacular.utils import OpenApiResponse, extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from agent import wire
from core.agents import AgentAuthentication, IsAgent
from core.api import ErrorSerializer
from core.throttles import ScopedThrottle
from pool.api import agent_serializers as s
from pool.services import checkpointing, enrollment, reports

S = TypeVar("S", bound=serializers.Serializer)

STAND_DOWN = OpenApiResponse(
    ErrorSerializer,
    description="`stand_down`: an older epoch, attempt or fence. Stop that work, change nothing",
)
NOT_YOURS = OpenApiResponse(ErrorSerializer, description="no such dispatch for this worker")
REFUSED = OpenApiResponse(ErrorSerializer, description="this token or secret is not taken")


class EnrollView(APIView):
    authentication_classes: list[Any] = []
    permission_classes: list[Any] = []
    throttle_classes = [ScopedThrottle]
    throttle_scope = "enroll"

    @extend_schema(
        tags=["agent"],
        operation_id="agent_enroll",
        request=s.EnrollSerializer,
        responses={200: s.CredentialsSerializer, 403: REFUSED, 409: STAND_DOWN, 429: ErrorSerializer},
    )
    def post(self, request: Request) -> Response:
        """Trade a one-use join token for an identity. Ten a minute and address."""
        post = checked(s.EnrollSerializer, request).message()
        return Response(wire.to_json(enrollment.worker_enroll(post=post)))


class TokenThrottle(ScopedThrottle):
    """By address and worker, so that one noisy machine takes nobody else's turn."""

    def get_ident(self, request: Request) -> str:
        body = request.data if isinstance(request.data, dict) else {}
        return f"{super().get_ident(request)}:{str(body.get('worker_id', ''))[:64]}"


class TokenView(APIView):
    authentication_classes: list[Any] = []
    permission_classes: list[Any] = []
    throttle_classes = [TokenThrottle]
    throttle_scope = "token"

    @extend_schema(
        tags=["agent"],
        operation_id="agent_token",
        request=s.TokenSerializer,
        responses={200: s.CredentialsSerializer, 403: REFUSED, 409: STAND_DOWN, 429: ErrorSerializer},
    )
    def post(self, request: Request) -> Response:
        """Trade the worker's secret for an access token of 15 minutes and the next secret."""
        fields = checked(s.TokenSerializer, request).validated_data
        post = wire.TokenPost(worker_id=fields["worker_id"], secret=fields["secret"])
        return Response(wire.to_json(enrollment.token_refresh(post=post)))


class DispatchView(APIView):
    """Only the worker that a dispatch was given to, in that epoch, may say anything about it."""

    authentication_classes = [AgentAuthentication]
    permission_classes = [IsAgent]
    throttle_classes: list[Any] = []


class ClaimView(DispatchView):
    @extend_schema(
        tags=["agent"],
        operation_id="agent_dispatch_claim",
        request=s.ClaimSerializer,
        responses={200: s.ClaimedSerializer, 404: NOT_YOURS, 409: STAND_DOWN},
    )
    def post(self, request: Request, dispatch_id: str) -> Response:
        """Take the work. Asked again, the answer is the same; 409 `draining` where its kind is not among `kinds`."""
        kinds = checked(s.ClaimSerializer, request).validated_data.get("kinds")
        claimed = reports.dispatch_claim(identity=request.user, dispatch_id=dispatch_id, kinds=kinds)
        return Response(wire.to_json(claimed))


class ProgressView(DispatchView):
    @extend_schema(
        tags=["agent"],
        operation_id="agent_dispatch_progress",
        request=s.ProgressSerializer,
        responses={200: s.ProgressAnswerSerializer, 404: NOT_YOURS, 409: STAND_DOWN},
    )
    def post(self, request: Request, dispatch_id: str) -> Response:
        """How far it is."""
        post = checked(s.ProgressSerializer, request).message()
        return Response(reports.dispatch_progress(identity=request.user, dispatch_id=dispatch_id, post=post))


class LogView(DispatchView):
    @extend_schema(
        tags=["agent"],
        operation_id="agent_dispatch_log",
        request=s.LogPostSerializer,
        responses={200: s.LogAnswerSerializer, 404: NOT_YOURS, 409: STAND_DOWN},
    )
    def post(self, request: Request, dispatch_id: str) -> Response:
        """Append output. What is stored already is ignored; the answer says where to go on."""
        post = wire.LogPost(**checked(s.LogPostSerializer, request).validated_data)
        end = reports.dispatch_log(identity=request.user, dispatch_id=dispatch_id, post=post)
        return Response({"offset": end})


class FinishView(DispatchView):
    @extend_schema(
        tags=["agent"],
        operation_id="agent_dispatch_finish",
        request=s.FinishSerializer,
        responses={200: s.FinishAnswerSerializer, 404: NOT_YOURS, 409: STAND_DOWN},
    )
    def post(self, request: Request, dispatch_id: str) -> Response:
        """The end. One result is accepted; the same report again is answered the same."""
        post = checked(s.FinishSerializer, request).message()
        reports.dispatch_finish(identity=request.user, dispatch_id=dispatch_id, post=post)
        return Response({"accepted": True})


class CheckpointView(DispatchView):
    @extend_schema(
        tags=["agent"],
        operation_id="agent_dispatch_checkpoint",
        request=s.CheckpointSerializer,
        responses={200: s.CheckpointAnswerSerializer, 404: NOT_YOURS, 409: STAND_DOWN},
    )
    def post(self, request: Request, dispatch_id: str) -> Response:
        """The job's next checkpoint, to be taken now; or, with `error`, one that could not be taken."""
        post = checked(s.CheckpointSerializer, request).message()
        row = checkpointing.checkpoint_begin(identity=request.user, dispatch_id=dispatch_id, post=post)
        return Response({"snapshot_id": row.pk, "generation": row.generation})


class RestoreView(DispatchView):
    @extend_schema(
        tags=["agent"],
        operation_id="agent_dispatch_restore",
        request=s.RestoreSerializer,
        responses={
            200: s.RestoreAnswerSerializer,
            404: NOT_YOURS,
            409: STAND_DOWN,
            503: OpenApiResponse(ErrorSerializer, description="it is being checked: ask again"),
        },
    )
    def post(self, request: Request, dispatch_id: str) -> Response:
        """Which checkpoint this attempt goes on from. 409 `checkpoint_lost` where there was one that is damaged now."""
        fence = checked(s.RestoreSerializer, request).validated_data["fence"]
        answer = checkpointing.checkpoint_restore(identity=request.user, dispatch_id=dispatch_id, fence=fence)
        return Response(wire.to_json(answer))


def checked(serializer: type[S], request: Request) -> S:
    """The request's body, read; ValidationError names what is wrong."""
    body = serializer(data=request.data)
    body.is_valid(raise_exception=True)
    return body
