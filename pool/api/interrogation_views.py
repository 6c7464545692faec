"""Asking a worker how it is."""

from __future__ import annotations

from django.utils import timezone
from drf_spectacular.utils import OpenApiResponse, extend_schema
from rest_framework import status
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from core.api import ErrorSerializer, actor
from core.errors import Forbidden
from pool.api.history_views import worker_seen
from pool.api.interrogation_serializer import InterrogationSerializer
from pool.api.views import PeoplesView
from pool.services.interrogation import worker_interrogate


class InterrogateView(PeoplesView, APIView):
    @extend_schema(
        tags=["pool"],
        operation_id="workers_interrogate",
        request=None,
        responses={
            202: InterrogationSerializer,
            403: ErrorSerializer,
            404: ErrorSerializer,
            409: OpenApiResponse(ErrorSerializer, description="it has no session that could answer"),
            429: OpenApiResponse(ErrorSerializer, description="it was asked a moment ago"),
        },
    )
    def post(self, request: Request, worker_id: str) -> Response:
        """Ask it now. The answer comes within seconds, as `interrogation` of the worker."""
        worker = worker_seen(request, worker_id)
        if not request.user.is_staff and (worker.owner_id or worker.account.owner_id) != request.user.pk:
            raise Forbidden(f"worker {worker.pk} is not yours", hint="ask its owner or an operator")
        row = worker_interrogate(worker, by=actor(request), now=timezone.now())
        return Response(InterrogationSerializer(row).data, status=status.HTTP_202_ACCEPTED)
