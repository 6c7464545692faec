"""What agents ask about the files of jobs: those that a job is given, and those that it leaves."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from agent import wire
from core.api import ErrorSerializer
from pool.api.agent_serializers import COUNT_LIMIT, fence
from pool.api.agent_views import NOT_YOURS, STAND_DOWN, DispatchView, checked
from pool.services import artifacts


class PieceSerializer(serializers.Serializer):
    """An object in the store, exactly."""

    key = serializers.CharField(max_length=200)
    length = serializers.IntegerField(min_value=0, max_value=COUNT_LIMIT)
    sha256 = serializers.CharField(max_length=64)

    def to_internal_value(self, data: Any) -> wire.PutWish:
        return wire.PutWish(**super().to_internal_value(data))


class SignedSerializer(serializers.Serializer):
    """A request that may be made as it stands, for a quarter of an hour."""

    method = serializers.CharField()
    url = serializers.CharField()
    headers = serializers.DictField(child=serializers.CharField())


class FencePostSerializer(serializers.Serializer):
    fence = fence()


class GivenFileSerializer(serializers.Serializer):
    path = serializers.CharField()
    mode = serializers.IntegerField()
    length = serializers.IntegerField()
    data = serializers.CharField(required=False, help_text="base64 of its bytes; else it has pieces")
    sha256 = serializers.CharField(required=False)
    pieces = PieceSerializer(many=True)


class GivenFilesSerializer(serializers.Serializer):
    files = GivenFileSerializer(many=True)


class FilesView(DispatchView):
    @extend_schema(
        tags=["agent"],
        operation_id="agent_dispatch_files",
        request=FencePostSerializer,
        responses={200: GivenFilesSerializer, 400: ErrorSerializer, 404: NOT_YOURS, 409: STAND_DOWN},
    )
    def post(self, request: Request, dispatch_id: str) -> Response:
        """The files that the job is given. 400 where one of them is not there any more: the job cannot start."""
        post = checked(FencePostSerializer, request).validated_data
        files = artifacts.files_given(identity=request.user, dispatch_id=dispatch_id, fence=post["fence"])
        return Response({"files": [wire.to_json(file) for file in files]})


class ObjectsSerializer(serializers.Serializer):
    fence = fence()
    put = PieceSerializer(many=True, required=False, default=list, max_length=wire.REQUESTS_PER_PLAN)
    get = serializers.ListField(
        child=serializers.CharField(max_length=200),
        required=False,
        default=list,
        max_length=wire.REQUESTS_PER_PLAN,
    )


class SignedObjectsSerializer(serializers.Serializer):
    put = SignedSerializer(many=True)
    get = SignedSerializer(many=True)


class ObjectsView(DispatchView):
    @extend_schema(
        tags=["agent"],
        operation_id="agent_dispatch_objects",
        request=ObjectsSerializer,
        responses={200: SignedObjectsSerializer, 400: ErrorSerializer, 404: NOT_YOURS, 409: STAND_DOWN},
    )
    def post(self, request: Request, dispatch_id: str) -> Response:
        """Presigned requests for pieces that the attempt leaves, and for those that it is given, in the order asked for."""
        fields = checked(ObjectsSerializer, request).validated_data
        post = wire.PlanPost(fence=fields["fence"], put=tuple(fields["put"]), get=tuple(fields["get"]))
        answer = artifacts.objects_plan(identity=request.user, dispatch_id=dispatch_id, post=post)
        return Response(wire.to_json(answer))


class KeptFileSerializer(serializers.Serializer):
    """A file whose pieces the store has acknowledged."""

    path = serializers.CharField(max_length=wire.PATH_CHARS, trim_whitespace=False)
    mode = serializers.IntegerField(min_value=0, max_value=0o777)
    length = serializers.IntegerField(min_value=0, max_value=COUNT_LIMIT)
    sha256 = serializers.CharField(max_length=64)
    pieces = PieceSerializer(many=True, max_length=1 << 14)


class ArtifactsSerializer(serializers.Serializer):
    fence = fence()
    artifacts = KeptFileSerializer(many=True, max_length=wire.ARTIFACTS_PER_POST)


class CountSerializer(serializers.Serializer):
    count = serializers.IntegerField(help_text="how many the attempt has left so far")


class ArtifactsView(DispatchView):
    @extend_schema(
        tags=["agent"],
        operation_id="agent_dispatch_artifacts",
        request=ArtifactsSerializer,
        responses={200: CountSerializer, 400: ErrorSerializer, 404: NOT_YOURS, 409: STAND_DOWN},
    )
    def post(self, request: Request, dispatch_id: str) -> Response:
        """Files that the attempt has left, their pieces uploaded. The same again changes nothing."""
        fields = checked(ArtifactsSerializer, request).validated_data
        kept = tuple(wire.KeptFile(**{**one, "pieces": tuple(one["pieces"])}) for one in fields["artifacts"])
        post = wire.ArtifactsPost(fence=fields["fence"], artifacts=kept)
        count = artifacts.artifacts_add(identity=request.user, dispatch_id=dispatch_id, post=post)
        return Response({"count": count})
