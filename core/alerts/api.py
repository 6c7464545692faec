"""Alerts over the API: listed, acknowledged, and what a person wants to be mailed."""

from __future__ import annotations

from typing import Any

import django_filters
from django.db.models import QuerySet
from django.utils import timezone
from drf_spectacular.utils import OpenApiResponse, extend_schema, extend_schema_view
from rest_framework import mixins, serializers, viewsets
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from core.alerts.causes import WORDS
from core.alerts.checking import alert_acknowledge
from core.alerts.outbox import preference_of
from core.alerts.states import ALERT
from core.api import ErrorSerializer, HasScope, Pagination, actor, owned
from core.models import Alert, AlertPreference
from core.reasons import because
from core.request_body import RequestBody
from core.throttles import ScopedThrottle


class AlertSerializer(serializers.ModelSerializer):
    """Something that a person should know. message: what was wrong when it was opened. reason: why it is in its state."""

    message = serializers.CharField()
    status = serializers.CharField(source="state")
    reason = serializers.CharField()
    owner = serializers.CharField(source="owner.username", allow_null=True, default=None)

    class Meta:
        model = Alert
        fields = [
            "id",
            "cause",
            "message",
            "severity",
            "status",
            "reason",
            "subject_type",
            "subject_id",
            "owner",
            "opened_at",
            "acknowledged_at",
            "acknowledged_by",
            "resolved_at",
        ]
        read_only_fields = fields


class NoteSerializer(RequestBody):
    """A word for the record."""

    note = serializers.CharField(required=False, allow_blank=True, default="", max_length=200)

    class Meta:
        ref_name = "AlertNote"


class PreferenceSerializer(RequestBody, serializers.ModelSerializer):
    """What you are mailed of your own alerts. email: at all. least_severity: only what is at least as bad."""

    least_severity = serializers.ChoiceField(choices=WORDS, required=False)

    class Meta:
        model = AlertPreference
        fields = ["email", "least_severity"]


class AlertFilter(django_filters.FilterSet):
    status = django_filters.MultipleChoiceFilter(field_name="state", choices=ALERT.choices())
    severity = django_filters.MultipleChoiceFilter(choices=Alert.SEVERITIES)
    cause = django_filters.CharFilter()
    subject_type = django_filters.CharFilter()
    subject_id = django_filters.CharFilter()

    class Meta:
        model = Alert
        fields: list[str] = []


class AlertsView:
    """What every route about alerts shares."""

    lookup_value_regex = "[a-z0-9_]+"
    permission_classes = [HasScope]
    throttle_classes = [ScopedThrottle]
    throttle_scope = "api"


@extend_schema_view(list=extend_schema(tags=["alerts"]), retrieve=extend_schema(tags=["alerts"]))
class AlertViewSet(AlertsView, mixins.ListModelMixin, mixins.RetrieveModelMixin, viewsets.GenericViewSet):
    """Your alerts, the newest first; staff sees all."""

    serializer_class = AlertSerializer
    pagination_class = Pagination
    filterset_class = AlertFilter
    queryset = Alert.objects.none()

    def get_queryset(self) -> QuerySet[Alert]:
        return owned(Alert.objects.select_related("owner").order_by("-opened_at", "pk"), self.request)

    @extend_schema(
        tags=["alerts"],
        request=NoteSerializer,
        responses={200: AlertSerializer, 409: OpenApiResponse(ErrorSerializer, description="it is over")},
    )
    @action(detail=True, methods=["post"])
    def acknowledge(self, request: Request, pk: str) -> Response:
        """Say that you know. It is resolved by itself when its cause has gone."""
        body = NoteSerializer(data=request.data)
        body.is_valid(raise_exception=True)
        note = body.validated_data["note"]
        reason = because("operator", note=note) if note else None
        alert = alert_acknowledge(self.get_object(), by=actor(request), reason=reason, now=timezone.now())
        return Response(AlertSerializer(alert).data)


class PreferenceView(AlertsView, APIView):
    @extend_schema(tags=["alerts"], operation_id="alert_preferences", responses=PreferenceSerializer)
    def get(self, request: Request) -> Response:
        """What you are mailed."""
        return Response(PreferenceSerializer(preference_of(request.user.pk)).data)

    @extend_schema(
        tags=["alerts"],
        operation_id="alert_preferences_change",
        request=PreferenceSerializer,
        responses=PreferenceSerializer,
    )
    def put(self, request: Request) -> Response:
        """Choose what you are mailed; what is left out stays as it is."""
        body = PreferenceSerializer(data=request.data, partial=True)
        body.is_valid(raise_exception=True)
        chosen: dict[str, Any] = dict(body.validated_data)
        row, _ = AlertPreference.objects.update_or_create(user_id=request.user.pk, defaults=chosen)
        return Response(PreferenceSerializer(row).data)
