"""The notebooks for Colab and Kaggle, ready to be run: with this server's address, and for its owner with a join token."""

from __future__ import annotations

from django.conf import settings
from django.http import HttpResponse
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.permissions import SAFE_METHODS, BasePermission
from rest_framework.request import Request
from rest_framework.views import APIView

from core.api import ErrorSerializer, HasScope, actor, owned
from core.errors import Invalid, NotFound
from core.throttles import ScopedThrottle
from pool.models import Account
from pool.notebooks import MEDIA_TYPE, NAMES, notebook_file
from pool.services.enrollment import enrollment_token_issue

NAME = OpenApiParameter("name", str, OpenApiParameter.PATH, enum=NAMES)
FILE = {(200, MEDIA_TYPE): OpenApiTypes.BINARY}


class FilledSerializer(serializers.Serializer):
    account = serializers.CharField(
        max_length=24, help_text="id of an account of yours, of the notebook's kind"
    )
    worker_name = serializers.CharField(
        required=False, allow_blank=True, default="", max_length=80, help_text="empty: the server chooses one"
    )


class NotebookView(APIView):
    """Without a token for everybody: it holds code and no secret. With one for whoever may make join tokens."""

    throttle_classes = [ScopedThrottle]
    throttle_scope = "api"

    def get_permissions(self) -> list[BasePermission]:
        return [] if self.request.method in SAFE_METHODS else [HasScope()]

    @extend_schema(tags=["notebooks"], operation_id="notebook", parameters=[NAME], responses=FILE, auth=[])
    def get(self, request: Request, name: str) -> HttpResponse:
        """The notebook with this server's address; the join token is the person's to put in."""
        return _file(_known(name), SERVER_URL=settings.PUBLIC_URL)

    @extend_schema(
        tags=["notebooks"],
        operation_id="notebook_filled",
        parameters=[NAME],
        request=FilledSerializer,
        responses={**FILE, 403: ErrorSerializer, 404: ErrorSerializer},
    )
    def post(self, request: Request, name: str) -> HttpResponse:
        """The notebook with a fresh join token of one use and one hour in it, for one of your accounts."""
        _known(name)
        body = FilledSerializer(data=request.data)
        body.is_valid(raise_exception=True)
        wanted = body.validated_data
        account = owned(Account.objects.all(), request).filter(pk=wanted["account"]).first()
        if account is None:
            raise NotFound(
                f"there is no account {wanted['account']} of yours", hint="GET /api/accounts lists them"
            )
        if account.kind != name:
            raise Invalid(
                f"{account} is no {name} account", hint="each kind of account has a notebook of its own"
            )
        token = enrollment_token_issue(account=account, by=actor(request))
        return _file(
            name, SERVER_URL=settings.PUBLIC_URL, JOIN_TOKEN=token, WORKER_NAME=wanted["worker_name"]
        )


def _known(name: str) -> str:
    if name not in NAMES:
        raise NotFound(f"there is no notebook {name}", hint=f"there are {', '.join(NAMES)}")
    return name


def _file(name: str, **values: str) -> HttpResponse:
    headers = {
        "Content-Disposition": f'attachment; filename="dormouse-{name}.ipynb"',
        "Cache-Control": "no-store" if "JOIN_TOKEN" in values else "no-cache",
        "X-Content-Type-Options": "nosniff",
    }
    return HttpResponse(notebook_file(name, **values), content_type=MEDIA_TYPE, headers=headers)
