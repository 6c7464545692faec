"""The pool as people use it: accounts, join tokens, workers, jobs, and the pool at a glance."""

from __future__ import annotations

import codecs
import json
import shlex
from datetime import timedelta
from typing import Any

import django_filters
from django.conf import settings
from django.db import transaction
from django.db.models import QuerySet
from django.utils import timezone
from drf_spectacular.utils import (
    OpenApiParameter,
    OpenApiResponse,
    PolymorphicProxySerializer,
    extend_schema,
    extend_schema_view,
)
from rest_framework import mixins, status, viewsets
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from core.api import ErrorSerializer, HasScope, Pagination, actor, owned
from core.errors import Forbidden, Invalid, NotFound
from core.reasons import because
from core.throttles import ScopedThrottle
from pool import selectors, selectors_jobs
from pool.api import serializers as s
from pool.api.job_serializers import CreatedArraySerializer, JobSubmitSerializer
from pool.models import Account, Job, JobArray, Worker
from pool.selectors_logs import log_read
from pool.services import accounts, enrollment, terms, workers
from pool.services.cancelling import job_cancel
from pool.services.labels import worker_labels_set
from pool.services.possible import warnings_of
from pool.services.submission import submit_once

REFUSED = OpenApiResponse(ErrorSerializer, description="its state does not allow it; `message` says why")


class PeoplesView:
    """What every route for people shares."""

    lookup_value_regex = "[a-z0-9_]+"  # anything else is no id, and not every database can be asked for it
    permission_classes = [HasScope]
    throttle_classes = [ScopedThrottle]
    throttle_scope = "api"


class PoolStatusView(PeoplesView, APIView):
    @extend_schema(tags=["pool"], operation_id="pool_status", responses=s.PoolStatusSerializer)
    def get(self, request: Request) -> Response:
        """Workers online of all, safe ones, and the hours that are left this week."""
        return Response(s.PoolStatusSerializer(selectors.pool_status(now=timezone.now())).data)


# -- workers ----------------------------------------------------------------------------------------


class WorkerFilter(django_filters.FilterSet):
    status = django_filters.ChoiceFilter(field_name="state", choices=Worker.TABLE.choices())
    provider = django_filters.ChoiceFilter(field_name="account__kind", choices=Account.Kind.choices)
    account = django_filters.CharFilter(field_name="account_id")
    instance = django_filters.CharFilter(field_name="instance_ref")

    class Meta:
        model = Worker
        fields: list[str] = []


@extend_schema_view(list=extend_schema(tags=["pool"]), retrieve=extend_schema(tags=["pool"]))
class WorkerViewSet(PeoplesView, mixins.ListModelMixin, mixins.RetrieveModelMixin, viewsets.GenericViewSet):
    """Workers of the shared pool, and your own; what changes one is its owner's and the operators'."""

    serializer_class = s.WorkerSerializer
    pagination_class = Pagination
    filterset_class = WorkerFilter
    queryset = Worker.objects.none()

    def get_queryset(self) -> QuerySet[Worker]:
        return selectors.workers_seen_by(self.request.user).order_by("name", "pk")

    def paginate_queryset(self, queryset: Any) -> Any:
        page = super().paginate_queryset(queryset)
        return selectors.shown(page, now=timezone.now()) if page is not None else page

    def retrieve(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        return self._answer(self.get_object())

    @extend_schema(
        tags=["pool"],
        request=s.NoteSerializer,
        responses={200: s.WorkerSerializer, 403: ErrorSerializer, 409: REFUSED},
    )
    @action(detail=True, methods=["post"])
    def drain(self, request: Request, pk: str) -> Response:
        """No new jobs from now on; it finishes what it has."""
        worker = self._to_change(request)
        workers.worker_drain(worker, reason=_operator(request), by=actor(request))
        return self._answer(worker)

    @extend_schema(
        tags=["pool"],
        request=s.NoteSerializer,
        responses={200: s.WorkerSerializer, 403: ErrorSerializer, 409: REFUSED},
    )
    @action(detail=True, methods=["post"])
    def undrain(self, request: Request, pk: str) -> Response:
        """Take the order to drain back."""
        worker = self._to_change(request)
        workers.worker_undrain(worker, reason=_operator(request), by=actor(request))
        return self._answer(worker)

    @extend_schema(
        tags=["pool"],
        request=s.NoteSerializer,
        responses={200: s.WorkerSerializer, 403: ErrorSerializer, 409: REFUSED},
    )
    @action(detail=True, methods=["post"])
    def revoke(self, request: Request, pk: str) -> Response:
        """Its identity counts for nothing any more, at once and for ever. Its jobs run elsewhere."""
        worker = self._to_change(request)
        workers.worker_revoke(worker, reason=_operator(request), by=actor(request))
        return self._answer(worker)

    @extend_schema(
        tags=["pool"],
        request=s.LabelsSerializer,
        responses={200: s.WorkerSerializer, 400: ErrorSerializer, 403: ErrorSerializer},
    )
    @action(detail=True, methods=["put"])
    def labels(self, request: Request, pk: str) -> Response:
        """Give it these labels in place of those that it has. Jobs that ask for labels run only where they are."""
        body = s.LabelsSerializer(data=request.data)
        body.is_valid(raise_exception=True)
        worker = self._to_change(request)
        worker_labels_set(worker, body.validated_data["labels"], by=actor(request))
        return self._answer(worker)

    def _to_change(self, request: Request) -> Worker:
        worker: Worker = self.get_object()
        owner_id = worker.owner_id or worker.account.owner_id
        if not request.user.is_staff and owner_id != request.user.pk:
            raise Forbidden(f"worker {worker.pk} is not yours", hint="ask its owner or an operator")
        return worker

    def _answer(self, worker: Worker) -> Response:
        row = self.get_queryset().get(pk=worker.pk)
        return Response(s.WorkerSerializer(selectors.shown([row], now=timezone.now())[0]).data)


class EnrollmentTokenView(PeoplesView, APIView):
    @extend_schema(
        tags=["pool"],
        operation_id="enrollment_tokens_create",
        request=s.EnrollmentTokenSerializer,
        responses={201: s.IssuedTokenSerializer, 403: ErrorSerializer, 404: ErrorSerializer},
    )
    def post(self, request: Request) -> Response:
        """A join token for one of your accounts. It is shown here and never again."""
        body = s.EnrollmentTokenSerializer(data=request.data)
        body.is_valid(raise_exception=True)
        fields = body.validated_data
        account = owned(Account.objects.all(), request).filter(pk=fields["account"]).first()
        if account is None:
            raise NotFound(
                f"there is no account {fields['account']} of yours", hint="GET /api/accounts lists them"
            )
        now, life = timezone.now(), timedelta(minutes=fields["life_minutes"])
        token = enrollment.enrollment_token_issue(
            account=account, uses=fields["uses"], life=life, by=actor(request), now=now
        )
        join = shlex.join(["dormouse-agent", "run", "--join", settings.PUBLIC_URL])
        answer = {
            "token": token,
            "expires_at": now + life,
            "command": f"DORMOUSE_JOIN_TOKEN={token} {join}",
        }
        return Response(s.IssuedTokenSerializer(answer).data, status=status.HTTP_201_CREATED)


# -- accounts ---------------------------------------------------------------------------------------


@extend_schema_view(
    list=extend_schema(tags=["accounts"]),
    retrieve=extend_schema(tags=["accounts"]),
    create=extend_schema(tags=["accounts"]),
    update=extend_schema(tags=["accounts"]),
    partial_update=extend_schema(tags=["accounts"]),
    destroy=extend_schema(tags=["accounts"], responses={204: None, 409: REFUSED}),
)
class AccountViewSet(PeoplesView, viewsets.ModelViewSet):
    """Your provider accounts, with their quotas as data. What a secret in them is, is never told."""

    serializer_class = s.AccountSerializer
    pagination_class = Pagination
    filterset_fields = {"kind": ["exact"], "enabled": ["exact"], "label": ["exact"]}
    queryset = Account.objects.none()

    def get_queryset(self) -> QuerySet[Account]:
        rows = Account.objects.select_related("owner", "official_quota").prefetch_related("acknowledgements")
        return owned(rows.order_by("kind", "label", "pk"), self.request)

    @transaction.atomic
    def perform_create(self, serializer: Any) -> None:
        version = serializer.validated_data.pop("acknowledged_terms", None)
        serializer.instance = accounts.account_create(
            owner=self.request.user, **_columns(serializer.validated_data)
        )
        self._acknowledge(serializer.instance, version)

    @transaction.atomic
    def perform_update(self, serializer: Any) -> None:
        version = serializer.validated_data.pop("acknowledged_terms", None)
        fields = _columns(serializer.validated_data)
        if fields:
            accounts.account_update(account=serializer.instance, **fields)
        self._acknowledge(serializer.instance, version)

    def _acknowledge(self, account: Account, version: str | None) -> None:
        if version is not None:
            terms.terms_acknowledge(account=account, version=version, by=actor(self.request))

    def perform_destroy(self, instance: Account) -> None:
        accounts.account_delete(instance)


# -- jobs -------------------------------------------------------------------------------------------


CREATED = PolymorphicProxySerializer(
    component_name="JobOrArray",
    serializers=[s.JobCreatedSerializer, CreatedArraySerializer],
    resource_type_field_name=None,
)
REFUSED_FIELDS = OpenApiResponse(
    ErrorSerializer, description="`errors` lists each wrong field: {field, code, message, hint}"
)


class JobFilter(django_filters.FilterSet):
    status = django_filters.MultipleChoiceFilter(field_name="state", choices=Job.TABLE.choices())
    name = django_filters.CharFilter(lookup_expr="icontains")
    provider = django_filters.ChoiceFilter(choices=Account.Kind.choices)
    instance = django_filters.CharFilter(field_name="instance_ref")
    owner = django_filters.CharFilter(field_name="owner__username")
    array = django_filters.CharFilter(field_name="array_id")

    class Meta:
        model = Job
        fields: list[str] = []


@extend_schema_view(
    list=extend_schema(tags=["jobs"]),
    retrieve=extend_schema(tags=["jobs"], responses=s.JobDetailSerializer),
)
class JobViewSet(PeoplesView, mixins.ListModelMixin, mixins.RetrieveModelMixin, viewsets.GenericViewSet):
    """Your jobs."""

    serializer_class = s.JobSerializer
    pagination_class = Pagination
    filterset_class = JobFilter
    queryset = Job.objects.none()

    def get_queryset(self) -> QuerySet[Job]:
        seen = selectors_jobs.jobs_listed if self.action == "list" else selectors_jobs.jobs_of
        return seen(self.request.user).order_by("-queued_at", "pk")

    def retrieve(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        return Response(s.JobDetailSerializer(self.get_object()).data)

    @extend_schema(
        tags=["jobs"],
        request=JobSubmitSerializer,
        parameters=[
            OpenApiParameter(
                "Idempotency-Key",
                str,
                OpenApiParameter.HEADER,
                description="the same key and body again give what they made the first time; 1 to 200 characters",
            )
        ],
        responses={
            201: CREATED,
            200: OpenApiResponse(CREATED, description="the key was used before: this is what it made"),
            400: REFUSED_FIELDS,
            422: OpenApiResponse(ErrorSerializer, description="the key was used for another request"),
        },
    )
    def create(self, request: Request) -> Response:
        """Queue a job, or with `count` an array of jobs. What contradicts itself, or nothing here could ever run, is
        refused with the reasons; what nothing here can run yet is taken with a warning."""
        body = JobSubmitSerializer(data=request.data)
        body.is_valid(raise_exception=True)
        spec = body.spec()
        made, fresh = submit_once(
            owner=request.user, key=_idempotency_key(request), body=request.data, spec=spec, by=actor(request)
        )
        made.warnings = warnings_of(request.user, spec, now=timezone.now())
        code = status.HTTP_201_CREATED if fresh else status.HTTP_200_OK
        if isinstance(made, JobArray):
            shown = selectors_jobs.arrays_shown([made])[0]
            return Response(CreatedArraySerializer(shown).data, status=code)
        row = selectors_jobs.jobs_of(request.user).get(pk=made.pk)
        row.warnings = made.warnings
        return Response(s.JobCreatedSerializer(row).data, status=code)

    @extend_schema(tags=["jobs"], request=None, responses={200: s.JobDetailSerializer, 409: REFUSED})
    @action(detail=True, methods=["post"])
    def cancel(self, request: Request, pk: str) -> Response:
        """Stop it. One that runs is cancelled as soon as its worker has ended its processes."""
        return self._answer(job_cancel(self.get_object(), by=actor(request)))

    @extend_schema(
        tags=["jobs"],
        parameters=[
            OpenApiParameter("offset", int, description="byte to begin at; 0 by default"),
            OpenApiParameter("attempt", int, description="whose output; the latest by default"),
        ],
        responses=s.LogSerializer,
    )
    @action(detail=True, methods=["get"])
    def logs(self, request: Request, pk: str) -> Response:
        """Output from a byte on. Ask again from next_offset, with the same attempt, until done."""
        job: Job = self.get_object()
        offset = whole_of(request, "offset", default=0)
        number = whole_of(request, "attempt", default=job.attempt)
        row = next((one for one in job.attempts.all() if one.number == number), None)
        if row is None:
            if number != job.attempt:
                raise NotFound(f"job {job.pk} has no attempt {number}")
            over = job.state in Job.TABLE.final
            answer = {"attempt": 0, "offset": offset, "data": "", "next_offset": offset, "done": over}
            return Response(s.LogSerializer(answer).data)
        piece = log_read(row, offset=offset)
        # A character that the end of the piece cuts in two is left for the next one.
        text, used = codecs.utf_8_decode(piece.data, "replace", piece.done or piece.is_cut)
        answer = {
            "attempt": number,
            "offset": offset,
            "data": text,
            # Behind what was cut out, more is passed over than is shown.
            "next_offset": piece.next_offset if used == len(piece.data) else offset + used,
            "done": piece.done,
        }
        return Response(s.LogSerializer(answer).data)

    def _answer(self, job: Job, code: int = status.HTTP_200_OK) -> Response:
        return Response(
            s.JobDetailSerializer(selectors_jobs.jobs_of(self.request.user).get(pk=job.pk)).data, status=code
        )


# -- small parts ------------------------------------------------------------------------------------


def _operator(request: Request) -> Any:
    body = s.NoteSerializer(data=request.data)
    body.is_valid(raise_exception=True)
    note = body.validated_data["note"]
    return because("operator", note=note) if note else because("asked", by=actor(request))


def _columns(fields: dict[str, Any]) -> dict[str, Any]:
    credentials = fields.pop("credentials", None)
    if credentials is None:
        return dict(fields)
    return {**fields, "credentials": json.dumps(credentials) if credentials else ""}


def _idempotency_key(request: Request) -> str:
    key = request.headers.get("Idempotency-Key", "")
    if len(key) > 200 or not all(32 < ord(character) < 127 for character in key):
        raise Invalid(
            "Idempotency-Key must be 1 to 200 visible ASCII characters", hint="a random UUID serves well"
        )
    return key


def whole_of(request: Request, name: str, *, default: int) -> int:
    text = request.query_params.get(name, "")
    if not text:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise Invalid(f"{name} must be a whole number from 0, not {text[:40]!r}")
    return int(text)
