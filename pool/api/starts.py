"""Notebook sessions that the control plane starts itself, and what the provider says of an account's quota."""

from __future__ import annotations

from typing import Any

import django_filters
from django.db.models import QuerySet
from drf_spectacular.utils import extend_schema, extend_schema_view
from rest_framework import mixins, serializers, status, viewsets
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from core.api import ErrorSerializer, HasScope, Pagination, actor, owned
from core.errors import NotFound
from core.request_body import RequestBody
from core.throttles import ScopedThrottle
from pool.models import Account, NotebookStart
from pool.services.kaggle_starts import ACCELERATORS, DEFAULT_ACCELERATOR, start_cancel, start_request


class NotebookStartSerializer(serializers.ModelSerializer):
    """A session that was asked for: how far it is, and why. worker: who has joined from it; null: nobody yet."""

    status = serializers.CharField(source="state")
    reason = serializers.CharField()
    account = serializers.CharField(source="account_id")
    worker = serializers.CharField(source="worker_id", allow_null=True)

    class Meta:
        model = NotebookStart
        fields = [
            "id",
            "account",
            "name",
            "accelerator",
            "status",
            "reason",
            "state_since",
            "provider_status",
            "url",
            "version",
            "worker",
            "output",
            "by",
            "created_at",
            "ended_at",
        ]
        read_only_fields = fields


class StartSerializer(RequestBody):
    account = serializers.CharField(
        max_length=24, help_text="id of a Kaggle account of yours that holds a token"
    )
    name = serializers.CharField(max_length=80, help_text="of the worker that will join")
    accelerator = serializers.ChoiceField(choices=ACCELERATORS, default=DEFAULT_ACCELERATOR)


class StartFilter(django_filters.FilterSet):
    status = django_filters.ChoiceFilter(field_name="state", choices=NotebookStart.TABLE.choices())
    account = django_filters.CharFilter(field_name="account_id")

    class Meta:
        model = NotebookStart
        fields: list[str] = []


@extend_schema_view(list=extend_schema(tags=["notebooks"]), retrieve=extend_schema(tags=["notebooks"]))
class NotebookStartViewSet(mixins.ListModelMixin, mixins.RetrieveModelMixin, viewsets.GenericViewSet):
    """Sessions that were started for you at Kaggle.

    One ends at its limit, or when its worker is revoked (drained first, its jobs end in peace; draining alone ends no
    session). One that nobody has joined from yet is taken back by `cancel`.
    """

    serializer_class = NotebookStartSerializer
    pagination_class = Pagination
    permission_classes = [HasScope]
    throttle_classes = [ScopedThrottle]
    throttle_scope = "api"
    lookup_value_regex = "[a-z0-9_]+"
    filterset_class = StartFilter
    queryset = NotebookStart.objects.none()

    def get_queryset(self) -> QuerySet[NotebookStart]:
        rows = NotebookStart.objects.select_related("account").order_by("-created_at", "pk")
        return owned(rows, self.request, field="account__owner")

    @extend_schema(
        tags=["notebooks"],
        request=StartSerializer,
        responses={
            202: NotebookStartSerializer, 400: ErrorSerializer, 403: ErrorSerializer, 404: ErrorSerializer,
            409: ErrorSerializer,
        },
    )  # fmt: skip
    def create(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Have Kaggle run the notebook, in a private one of yours, with a join token of one use in it."""
        body = StartSerializer(data=request.data)
        body.is_valid(raise_exception=True)
        wanted = body.validated_data
        account = owned(Account.objects.all(), request).filter(pk=wanted.pop("account")).first()
        if account is None:
            raise NotFound("there is no such account of yours", hint="GET /api/accounts lists them")
        row = start_request(account=account, by=actor(request), **wanted)
        return Response(NotebookStartSerializer(row).data, status=status.HTTP_202_ACCEPTED)

    @extend_schema(
        tags=["notebooks"], request=None, responses={200: NotebookStartSerializer, 404: ErrorSerializer, 409: ErrorSerializer}
    )  # fmt: skip
    @action(detail=True, methods=["post"])
    def cancel(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Take it back, as long as nobody has joined from it. What Kaggle starts all the same is refused, and ends itself."""
        row = start_cancel(row=self.get_object(), by=actor(request))
        return Response(NotebookStartSerializer(row).data)
