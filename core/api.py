"""What every API route shares: who asks, how errors look, how lists page, whose rows are seen."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.core.exceptions import PermissionDenied, RequestDataTooBig
from django.db.models import QuerySet
from django.http import Http404
from django.utils import timezone
from drf_spectacular.extensions import OpenApiAuthenticationExtension
from rest_framework import exceptions, serializers, status
from rest_framework.authentication import BaseAuthentication, get_authorization_header
from rest_framework.pagination import LimitOffsetPagination
from rest_framework.parsers import JSONParser
from rest_framework.permissions import SAFE_METHODS, BasePermission
from rest_framework.request import Request
from rest_framework.response import Response

from core.errors import DomainError
from core.models import ApiToken
from core.text import storable
from core.tokens import PREFIX, token_find

if TYPE_CHECKING:
    # rest_framework.views imports this module, which its settings name.
    from rest_framework.views import APIView

log = logging.getLogger(__name__)


class TokenAuthentication(BaseAuthentication):
    """`Authorization: Bearer dm_…`: a person's API token. Sets request.auth to the token's row."""

    def authenticate(self, request: Request) -> tuple[Any, ApiToken] | None:
        scheme, _, token = get_authorization_header(request).decode("latin-1").partition(" ")
        if scheme.lower() != "bearer":
            return None
        row = token_find(token.strip(), now=timezone.now()) if token.startswith(PREFIX) else None
        if row is None:
            raise exceptions.AuthenticationFailed("this API token is unknown, has expired or was revoked")
        return row.user, row

    def authenticate_header(self, request: Request) -> str:
        return "Bearer"


class JsonParser(JSONParser):
    """JSON, and for what nests deeper than it can be read the answer of any other body that cannot be."""

    def parse(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().parse(*args, **kwargs)
        except RecursionError as error:
            raise exceptions.ParseError("JSON parse error - it nests too deep") from error


class HasScope(BasePermission):
    """Signed in; a token must also carry the scope: `read` to look, `operate` to change, or the view's own."""

    message = "this API token does not carry the scope that is needed"

    def has_permission(self, request: Request, view: APIView) -> bool:
        if not (request.user and request.user.is_authenticated and getattr(request.user, "pk", None)):
            return False
        if not isinstance(request.auth, ApiToken):
            return True
        needed = "read" if request.method in SAFE_METHODS else getattr(view, "write_scope", "operate")
        return needed in request.auth.scopes or "admin" in request.auth.scopes


class IsAdmin(HasScope):
    """Staff only, and a token with the scope `admin`."""

    def has_permission(self, request: Request, view: APIView) -> bool:
        if isinstance(request.auth, ApiToken) and "admin" not in request.auth.scopes:
            return False
        return super().has_permission(request, view) and request.user.is_staff


class Pagination(LimitOffsetPagination):
    default_limit = 50
    max_limit = 500


def owned(queryset: QuerySet[Any], request: Request, *, field: str = "owner") -> QuerySet[Any]:
    """The rows that this person may see: her own, or all of them for staff. Anybody else's are simply not there."""
    if request.user.is_staff:
        return queryset
    return queryset.filter(**{field: request.user})


def actor(request: Request) -> str:
    """How the person is named in events."""
    return request.user.get_username()


class ErrorSerializer(serializers.Serializer):
    """How every error of this API looks."""

    code = serializers.CharField(help_text="for programs")
    message = serializers.CharField(help_text="what went wrong and why")
    hint = serializers.CharField(help_text="what to do", allow_blank=True)


class BodyTooLarge(exceptions.APIException):
    """Django reads no body into memory that is longer than its limit."""

    status_code = status.HTTP_413_REQUEST_ENTITY_TOO_LARGE
    default_code = "body_too_large"

    def __init__(self) -> None:
        super().__init__(f"the body may have at most {settings.DATA_UPLOAD_MAX_MEMORY_SIZE} bytes")


HINT = "correct the fields that are named and send the request again"


def exception_handler(error: Exception, context: dict[str, Any]) -> Response | None:
    """Every refusal as {code, message, hint}. What is not a refusal is a fault of ours: Django logs it, 500."""
    if isinstance(error, DomainError):
        headers = {}
        retry_after_s = getattr(error, "retry_after_s", None)
        if retry_after_s is not None:
            headers["Retry-After"] = str(max(1, round(retry_after_s + 0.49)))
        if error.status == status.HTTP_401_UNAUTHORIZED:
            headers["WWW-Authenticate"] = "Bearer"
        return Response(storable(error.as_json()), status=error.status, headers=headers)
    if isinstance(error, Http404):
        error = exceptions.NotFound()
    elif isinstance(error, PermissionDenied):
        error = exceptions.PermissionDenied()
    elif isinstance(error, RequestDataTooBig):
        error = BodyTooLarge()
    if not isinstance(error, exceptions.APIException):
        return None
    headers = {}
    if getattr(error, "auth_header", None):
        headers["WWW-Authenticate"] = error.auth_header
    if getattr(error, "wait", None):
        headers["Retry-After"] = f"{error.wait:.0f}"
    # What was wrong is quoted, and may be what no JSON in UTF-8 can hold.
    return Response(storable(_as_json(error)), status=error.status_code, headers=headers)


def _as_json(error: exceptions.APIException) -> dict[str, Any]:
    if isinstance(error, exceptions.ValidationError):
        return {
            "code": "invalid",
            "message": "; ".join(_sentences(error.detail)),
            "hint": HINT,
            "fields": error.detail,
            "errors": list(_each(error.detail)),
        }
    code = error.get_codes()
    return {
        "code": code if isinstance(code, str) else "invalid",
        "message": str(error.detail),
        "hint": _hint(error),
    }


def _sentences(detail: Any, path: str = "") -> list[str]:
    if isinstance(detail, dict):
        return [
            line
            for key, value in detail.items()
            for line in _sentences(value, "" if key == "non_field_errors" else f"{path}.{key}".strip("."))
        ]
    if isinstance(detail, list):
        return [line for value in detail for line in _sentences(value, path)]
    return [f"{path}: {detail}" if path else str(detail)]


def _each(detail: Any, path: str = "") -> Iterator[dict[str, str]]:
    """Each wrong field with its own code."""
    if isinstance(detail, dict):
        for key, value in detail.items():
            yield from _each(value, path if key == "non_field_errors" else f"{path}.{key}".strip("."))
    elif isinstance(detail, list):
        for number, value in enumerate(detail):
            # A list holds either the messages of one field, or the errors of each of its items.
            yield from _each(value, path if isinstance(value, str) else f"{path}[{number}]")
    else:
        yield {
            "field": path,
            "code": str(getattr(detail, "code", "invalid")),
            "message": str(detail),
            "hint": HINT,
        }


def _hint(error: exceptions.APIException) -> str:
    hints = {
        status.HTTP_400_BAD_REQUEST: "send the body as JSON, with 'Content-Type: application/json'",
        status.HTTP_401_UNAUTHORIZED: "send 'Authorization: Bearer dm_…' with a valid API token",
        status.HTTP_403_FORBIDDEN: "ask an administrator, or use a token with the right scope",
        status.HTTP_404_NOT_FOUND: "check the id; what belongs to somebody else is not shown",
        status.HTTP_405_METHOD_NOT_ALLOWED: "/api/docs/ lists the methods of every address",
        status.HTTP_413_REQUEST_ENTITY_TOO_LARGE: "send less at once; a job's large file is best left by an earlier job as an "
        "artifact and named in `from`",
        status.HTTP_415_UNSUPPORTED_MEDIA_TYPE: "send the body as JSON, with 'Content-Type: application/json'",
        status.HTTP_429_TOO_MANY_REQUESTS: "wait as long as Retry-After says",
    }
    return hints.get(error.status_code, "")


class TokenScheme(OpenApiAuthenticationExtension):
    """How the OpenAPI document describes a person's token."""

    target_class = "core.api.TokenAuthentication"
    name = "token"

    def get_security_definition(self, auto_schema: Any) -> dict[str, Any]:
        return {"type": "http", "scheme": "bearer", "description": "A person's API token: dm_…"}


class AgentScheme(OpenApiAuthenticationExtension):
    """How the OpenAPI document describes an agent's token."""

    target_class = "core.agents.AgentAuthentication"
    name = "agent"

    def get_security_definition(self, auto_schema: Any) -> dict[str, Any]:
        return {
            "type": "http",
            "scheme": "bearer",
            "bearerFormat": "JWT",
            "description": "An agent's access token",
        }
