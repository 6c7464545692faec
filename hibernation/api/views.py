"""Instances as their owner uses them: rent, wake, put to sleep, keep awake, set, look."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from django.db.models import QuerySet
from django.utils import timezone
from django_filters.rest_framework import CharFilter, ChoiceFilter, FilterSet
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse, extend_schema, extend_schema_view
from rest_framework import mixins, status, viewsets
from rest_framework.decorators import action
from rest_framework.exceptions import ValidationError
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from core.api import ErrorSerializer, HasScope, Pagination, actor, owned
from core.errors import Invalid, TransitionRefused
from core.models import Chain, Event
from core.reasons import because
from hibernation import selectors
from hibernation.api import examples, savings
from hibernation.api import serializers as s
from hibernation.models import Box, Instance
from hibernation.policy import to_json
from hibernation.providers.registry import provider_kinds
from hibernation.services.instances import instance_create, instance_delete, instance_keep_awake
from hibernation.services.policies import config_set, policy_resolved
from hibernation.services.schedules import schedule_set
from hibernation.services.sleep import instance_sleep
from hibernation.services.stranded import stranded_discard_all
from hibernation.services.wake import instance_wake, wake_estimate
from hibernation.states import INSTANCE
from pool.models import Account, Sample

REFUSED = OpenApiResponse(ErrorSerializer, description="its state does not allow it; `message` says why")
PERIOD = [
    OpenApiParameter(
        "start", str, description="a date or a time with its zone; 30 days before end by default"
    ),
    OpenApiParameter("end", str, description="a date or a time with its zone; now by default"),
]


class InstanceFilter(FilterSet):
    status = ChoiceFilter(field_name="state", choices=INSTANCE.choices())
    name = CharFilter()


@extend_schema_view(
    list=extend_schema(tags=["instances"], examples=[examples.INSTANCE]),
    retrieve=extend_schema(tags=["instances"], examples=[examples.INSTANCE]),
)
class InstanceViewSet(mixins.ListModelMixin, mixins.RetrieveModelMixin, viewsets.GenericViewSet[Instance]):
    serializer_class = s.InstanceSerializer
    permission_classes = [HasScope]
    pagination_class = Pagination
    filterset_class = InstanceFilter
    queryset = Instance.objects.all()
    lookup_value_regex = "[a-z0-9_]+"  # anything else is no id, and not every database can be asked for it

    def get_queryset(self) -> QuerySet[Instance]:
        return owned(selectors.instances(), self.request)

    def paginate_queryset(self, queryset: Any) -> Any:
        page = super().paginate_queryset(queryset)
        return selectors.shown(page) if self.action == "list" and page is not None else page

    def retrieve(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        return self._answer(self.get_object())

    @extend_schema(
        tags=["instances"],
        request=s.InstanceCreateSerializer,
        responses={201: s.InstanceSerializer, 400: ErrorSerializer},
        examples=[examples.CREATE],
    )
    def create(self, request: Request) -> Response:
        """Rent a new instance. The answer comes at once; its first box starts meanwhile."""
        fields = s.checked(s.InstanceCreateSerializer, request.data)
        account = _account(request, fields.pop("account", None))
        instance = instance_create(
            owner=account.owner, account=account, by=actor(request), **fields, now=timezone.now()
        )
        return self._answer(instance, status.HTTP_201_CREATED)

    @extend_schema(
        tags=["instances"],
        parameters=[
            OpenApiParameter(
                "discard",
                str,
                enum=["workspace"],
                description="destroy the box of one that is awake, and lose what is on it",
            )
        ],
        responses={202: s.StartedSerializer, 204: None, 409: REFUSED},
    )
    def destroy(self, request: Request, pk: str) -> Response:
        """Give an instance up. One that is awake is refused unless `discard=workspace` says that its work may be lost.

        Its snapshots stay until they are deleted themselves.
        """
        discard = request.query_params.get("discard", "")
        if discard not in ("", "workspace"):
            raise Invalid(f"discard={discard} is not known", hint="discard=workspace, or nothing")
        instance = self.get_object()
        chain = instance_delete(instance, discard=bool(discard), by=actor(request), now=timezone.now())
        if chain is None:
            return Response(status=status.HTTP_204_NO_CONTENT)
        return self._started(instance, chain)

    @extend_schema(tags=["instances"], request=None, responses={200: s.InstanceSerializer, 409: REFUSED})
    @action(detail=True, methods=["post"], url_path="discard-stranded")
    def discard_stranded(self, request: Request, pk: str) -> Response:
        """Destroy its stranded boxes, and lose what is on them.

        A box is stranded where its provider had lost it and lists it again after the instance went on without it. What
        is on it is in no snapshot, so that it stays, and is billed, until you say this.
        """
        instance = self.get_object()
        if not stranded_discard_all(instance, by=actor(request), now=timezone.now()):
            raise TransitionRefused(
                f"instance {instance.pk} has no stranded box", hint="`boxes` lists what is billed for it"
            )
        return self._answer(instance)

    @extend_schema(
        tags=["instances"],
        request=s.WakeSerializer,
        responses={202: s.WakingSerializer, 409: REFUSED, 429: ErrorSerializer},
        examples=[examples.WAKE],
    )
    @action(detail=True, methods=["post"])
    def wake(self, request: Request, pk: str) -> Response:
        """Wake it, on the GPU type and in the region that you choose. One request a minute and instance.

        A wake that is under way is joined: the answer carries its chain.
        """
        instance = self.get_object()
        wanted = s.checked(s.WakeSerializer, request.data)
        by = actor(request)
        chain = instance_wake(
            instance, **wanted, reason=because("wake_asked", by=by), by=by, now=timezone.now(), limited=True
        )
        body = {"status": _state(instance), "chain": chain, "estimate": wake_estimate(instance)}
        return Response(s.WakingSerializer(body).data, status=status.HTTP_202_ACCEPTED)

    @extend_schema(tags=["instances"], request=None, responses={202: s.StartedSerializer, 409: REFUSED})
    @action(detail=True, methods=["post"])
    def hibernate(self, request: Request, pk: str) -> Response:
        """Put it to sleep now: snapshot, verify, then destroy the box. A running job stops it; a busy GPU does not.

        One that is waking sleeps on: the wake is stopped and its new box given up.
        """
        instance = self.get_object()
        chain = instance_sleep(instance, by=actor(request), now=timezone.now())
        return self._started(instance, chain)

    @extend_schema(
        tags=["instances"],
        request=s.KeepAwakeSerializer,
        responses={200: s.InstanceSerializer, 409: REFUSED},
        examples=[examples.KEEP_AWAKE],
    )
    @action(detail=True, methods=["post"], url_path="keep-awake")
    def keep_awake(self, request: Request, pk: str) -> Response:
        """Hold it awake for so many minutes from now. Stops a hibernation that can still be stopped."""
        instance = self.get_object()
        minutes = s.checked(s.KeepAwakeSerializer, request.data)["minutes"]
        instance_keep_awake(instance, minutes=minutes, by=actor(request), now=timezone.now())
        return self._answer(instance)

    @extend_schema(tags=["instances"], responses=s.ResolvedConfigSerializer, examples=[examples.RESOLVED])
    @action(detail=True, methods=["get"], filterset_class=None)
    def config(self, request: Request, pk: str) -> Response:
        """The policy that counts for it, and which level each field comes from."""
        return self._config(self.get_object())

    @extend_schema(
        tags=["instances"],
        request=s.ConfigSerializer,
        responses={200: s.ResolvedConfigSerializer, 400: ErrorSerializer},
        examples=[examples.CONFIG],
    )
    @config.mapping.put
    def config_put(self, request: Request, pk: str) -> Response:
        """Replace what it says differently from its owner's policy. Fields that are left out are inherited."""
        instance = self.get_object()
        config_set(instance, request.data, by=actor(request), now=timezone.now())
        return self._config(instance)

    @extend_schema(
        tags=["instances"],
        request=s.PolicyScheduleSerializer,
        responses={200: s.ScheduledSerializer, 400: ErrorSerializer},
        examples=[examples.SCHEDULE],
    )
    @action(detail=True, methods=["put"])
    def schedule(self, request: Request, pk: str) -> Response:
        """Have it wake and sleep at local times; its wake method becomes `scheduled`. Without times it has none."""
        instance = self.get_object()
        known = set(s.PolicyScheduleSerializer().fields)
        if not isinstance(request.data, dict) or set(request.data) - known:
            raise Invalid(
                f"a schedule is an object of {', '.join(sorted(known))}", hint="leave out everything else"
            )
        policy, _ = schedule_set(
            instance,
            wake_time=request.data.get("wake_time"),
            sleep_time=request.data.get("sleep_time"),
            timezone=request.data.get("timezone", policy_resolved(instance).policy.schedule.zone),
            weekdays=request.data.get("weekdays"),
            by=actor(request),
            now=timezone.now(),
        )
        (instance,) = selectors.shown([self.get_object()])
        row = instance.shown.schedule
        body = {
            **to_json(policy)["auto_hibernation"]["schedule"],
            "next_wake_at": row.next_wake_at if row else None,
            "next_sleep_at": row.next_sleep_at if row else None,
        }
        return Response(s.ScheduledSerializer(body).data)

    @extend_schema(
        tags=["instances"],
        responses=s.EventSerializer(many=True),
        parameters=[OpenApiParameter("after", int, description="only events with a higher id")],
    )
    @action(detail=True, filterset_class=None)
    def events(self, request: Request, pk: str) -> Response:
        """What happened to it, the newest first."""
        instance = self.get_object()
        rows = Event.objects.filter(subject_type=Instance.SUBJECT, subject_id=instance.pk)
        after = request.query_params.get("after", "0")
        if not re.fullmatch("[0-9]{1,18}", after):
            raise Invalid(
                f"after {after!r} is not the id of an event", hint="use the highest id that you have seen"
            )
        context = {"boxes": list(Box.objects.filter(instance=instance))}
        return self._page(rows.filter(pk__gt=int(after)), s.EventSerializer, context)

    @extend_schema(tags=["instances"], responses=s.SampleSerializer(many=True))
    @action(detail=True, filterset_class=None)
    def samples(self, request: Request, pk: str) -> Response:
        """The readings of its agents, the newest first."""
        rows = Sample.objects.filter(worker=self.get_object().worker_id).order_by("-at", "-id")
        return self._page(rows, s.SampleSerializer)

    @extend_schema(tags=["instances"], responses=s.ChainSerializer(many=True))
    @action(detail=True, filterset_class=None)
    def chains(self, request: Request, pk: str) -> Response:
        """Its hibernations and wakes with their steps, the newest first."""
        rows = Chain.objects.filter(subject_type=Instance.SUBJECT, subject_id=self.get_object().pk)
        return self._page(rows.prefetch_related("steps"), s.ChainSerializer)

    @extend_schema(tags=["money"], parameters=PERIOD, responses=savings.PeriodSavingsSerializer)
    @action(detail=True, filterset_class=None, pagination_class=None)
    def savings(self, request: Request, pk: str) -> Response:
        """What it cost and what sleeping saved, against a box that never sleeps."""
        start, end = savings.period(request.query_params, now=timezone.now())
        body = savings.savings_of_instance(self.get_object(), start=start, end=end)
        return Response(savings.PeriodSavingsSerializer(body).data)

    @extend_schema(tags=["instances"], responses=s.WhySerializer)
    @action(detail=True, filterset_class=None, pagination_class=None)
    def why(self, request: Request, pk: str) -> Response:
        """Why it is awake, why it stopped, what happens next and when, with the samples."""
        return Response(s.WhySerializer(selectors.why(self.get_object(), now=timezone.now())).data)

    def _answer(self, instance: Instance, code: int = status.HTTP_200_OK) -> Response:
        fresh = selectors.instances().filter(pk=instance.pk)
        return Response(s.InstanceSerializer(selectors.shown(list(fresh))[0]).data, status=code)

    def _started(self, instance: Instance, chain: Chain) -> Response:
        body = {"status": _state(instance), "chain": chain}
        return Response(s.StartedSerializer(body).data, status=status.HTTP_202_ACCEPTED)

    def _config(self, instance: Instance) -> Response:
        policy, origins = policy_resolved(instance)
        return Response({**to_json(policy), "own": instance.config, "origins": dict(origins)})

    def _page(self, rows: QuerySet[Any], serializer: Any, context: dict[str, Any] | None = None) -> Response:
        page: Sequence[Any] | None = self.paginate_queryset(rows)
        return self.get_paginated_response(serializer(page, many=True, context=context or {}).data)


class SavingsView(APIView):
    permission_classes = [HasScope]

    @extend_schema(
        operation_id="savings_retrieve",
        tags=["money"],
        parameters=PERIOD,
        responses=savings.AllSavingsSerializer,
    )
    def get(self, request: Request) -> Response:
        """What all your instances cost, and what sleeping saved; everybody's for staff."""
        start, end = savings.period(request.query_params, now=timezone.now())
        rows = list(owned(Instance.objects.order_by("name", "pk"), request))
        return Response(savings.AllSavingsSerializer(savings.savings_of_all(rows, start=start, end=end)).data)


def _account(request: Request, account_id: str | None) -> Account:
    """The account that was named, or the only one of this person that can rent."""
    mine = owned(Account.objects.select_related("owner"), request)
    if account_id is not None:
        account = mine.filter(pk=account_id).first()
        if account is None:
            raise ValidationError({"account": f"you have no account {account_id}"})
        return account
    renting = list(mine.filter(kind__in=provider_kinds(), owner=request.user, enabled=True)[:2])
    if len(renting) != 1:
        have = "several accounts" if renting else "no account"
        raise ValidationError({"account": f"name one: you have {have} that rent instances"})
    return renting[0]


def _state(instance: Instance) -> str:
    return Instance.objects.values_list("state", flat=True).get(pk=instance.pk)
