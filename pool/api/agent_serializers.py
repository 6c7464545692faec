"""What agents send and get, for checking and for the OpenAPI document. `agent.wire` is what it means.

Agents of other versions may send more, and may leave out or null all but what names them and their work.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rest_framework import serializers

from agent import wire
from core.text import storable

COUNT_LIMIT = 2**63 - 1
RESULT_DEPTH = 32
"""Levels of lists and objects in what an agent reports as a result; what databases and Python can walk ends at some hundreds."""


class Words(serializers.CharField):
    """Text of any kind: what no database stores is taken out, nothing is refused for it."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(allow_blank=True, trim_whitespace=False, **kwargs)

    def to_internal_value(self, data: Any) -> str:
        return storable(super().to_internal_value(data))


class ResultField(serializers.DictField):
    """Any object, nested RESULT_DEPTH deep at most."""

    def to_internal_value(self, data: Any) -> dict[str, Any]:
        level = [data]
        for _ in range(RESULT_DEPTH):
            level = [item for one in level if isinstance(one, dict | list) for item in _items(one)]
        if level:
            raise serializers.ValidationError(f"nests deeper than {RESULT_DEPTH} levels")
        return dict(super().to_internal_value(data))


def _items(one: dict[str, Any] | list[Any]) -> Iterable[Any]:
    return one.values() if isinstance(one, dict) else one


def words(**kwargs: Any) -> Words:
    return Words(required=False, allow_null=True, **kwargs)


def count(**kwargs: Any) -> serializers.IntegerField:
    return serializers.IntegerField(
        required=False, allow_null=True, min_value=0, max_value=COUNT_LIMIT, **kwargs
    )


def fence() -> serializers.IntegerField:
    return serializers.IntegerField(min_value=0, max_value=2**31 - 1, help_text="as the claim gave it")


class AgentGpuSerializer(serializers.Serializer):
    """One GPU's reading. util: percent."""

    index = serializers.IntegerField(min_value=0, max_value=1024)
    name = words()
    util = serializers.FloatField(required=False, allow_null=True)
    mem_used_bytes = count()
    mem_total_bytes = count()
    temp_c = serializers.FloatField(required=False, allow_null=True)


class EnrollSerializer(serializers.Serializer):
    """Trades a join token for an identity. request_id: the same one asks for the same enrolment again."""

    token = serializers.CharField(max_length=200)
    request_id = words(max_length=80)
    name = words(max_length=200)
    provider = words(max_length=80)
    gpus = AgentGpuSerializer(many=True, required=False, allow_null=True)
    agent_version = words(max_length=80)
    python = words(max_length=80)
    platform = words(max_length=1000)
    session_runtime_hours = serializers.FloatField(
        required=False,
        allow_null=True,
        min_value=0,
        max_value=366 * 24,
        help_text="since the machine's start",
    )

    def message(self) -> wire.EnrollPost:
        fields = {name: value for name, value in self.validated_data.items() if value is not None}
        gpus = [
            wire.Gpu(**{name: value for name, value in gpu.items() if value is not None})
            for gpu in fields.pop("gpus", [])
            if gpu is not None
        ]
        return wire.EnrollPost(**fields, gpus=tuple(gpus))


class TokenSerializer(serializers.Serializer):
    """Trades a worker's secret for an access token and the next secret."""

    worker_id = serializers.CharField(max_length=64)
    secret = serializers.CharField(max_length=1024)


class AgentSettingsSerializer(serializers.Serializer):
    """How the agent should run."""

    check_interval_s = serializers.FloatField()
    max_session_hours = serializers.FloatField(allow_null=True, help_text="it ends its own session then")
    transport = serializers.DictField(help_text='{"kind": "https"} or {"kind": "redis", "url": …}')


class CredentialsSerializer(serializers.Serializer):
    """secret replaces the one that was sent, which stays good until this one was used."""

    worker_id = serializers.CharField()
    epoch = serializers.IntegerField()
    secret = serializers.CharField()
    access_token = serializers.CharField()
    access_expires_in_s = serializers.FloatField()
    instance_id = serializers.CharField(required=False)
    settings = AgentSettingsSerializer()


class ClaimSerializer(serializers.Serializer):
    kinds = serializers.ListField(
        child=serializers.CharField(max_length=16),
        required=False,
        allow_null=True,
        help_text="what the worker takes now; null: everything",
    )


class ClaimedSerializer(serializers.Serializer):
    """The work, with the fence that every later report carries."""

    dispatch_id = serializers.CharField()
    kind = serializers.CharField(help_text=", ".join(wire.KINDS))
    fence = serializers.IntegerField()
    lease_s = serializers.FloatField(
        help_text="without a post or report that names it, it is given elsewhere then"
    )
    work = serializers.DictField()


class ProgressSerializer(serializers.Serializer):
    """How far a snapshot or restore is; bytes are logical unless the name says stored."""

    fence = fence()
    phase = Words(max_length=80)
    bytes_done = count()
    bytes_total = count()
    files_done = count()
    files_total = count()
    stored_bytes = count()

    def message(self) -> wire.ProgressPost:
        return wire.ProgressPost(
            **{name: value for name, value in self.validated_data.items() if value is not None}
        )


class ProgressAnswerSerializer(serializers.Serializer):
    cancel = serializers.BooleanField(help_text="stop, and finish as cancelled")


class LogPostSerializer(serializers.Serializer):
    """data: base64 of the bytes that begin at `offset` of the whole stream."""

    fence = fence()
    offset = serializers.IntegerField(min_value=0, max_value=COUNT_LIMIT)
    data = serializers.CharField(allow_blank=True, trim_whitespace=False)
    total = count(help_text="how long the stream is by now")


class LogAnswerSerializer(serializers.Serializer):
    offset = serializers.IntegerField(
        help_text="where to go on: as a rule what is stored; far ahead where more is there than is kept"
    )


class FinishSerializer(serializers.Serializer):
    fence = fence()
    outcome = serializers.CharField(max_length=16, help_text=", ".join(wire.OUTCOMES))
    exit_code = serializers.IntegerField(
        required=False, allow_null=True, min_value=-(2**31), max_value=2**31 - 1
    )
    timed_out_s = serializers.FloatField(
        required=False,
        allow_null=True,
        min_value=0,
        max_value=1e12,
        help_text="its time limit, if that ended it",
    )
    reason = words(help_text="one sentence, where it did not succeed")
    result = ResultField(required=False, allow_null=True)
    output_tail = words(help_text="the last of its output, where it is known to be too late")
    output_bytes = count()

    def message(self) -> wire.FinishPost:
        return wire.FinishPost(
            **{name: value for name, value in self.validated_data.items() if value is not None}
        )


class FinishAnswerSerializer(serializers.Serializer):
    accepted = serializers.BooleanField()


class CheckpointSerializer(serializers.Serializer):
    """request_id: asked again with the same one, it is the same checkpoint. error: why that one could not be taken."""

    fence = fence()
    request_id = serializers.RegexField(r"^[A-Za-z0-9_-]{1,32}$")
    number = serializers.IntegerField(min_value=0, max_value=2**53, required=False, allow_null=True)
    error = words(max_length=2_000)

    def message(self) -> wire.CheckpointPost:
        return wire.CheckpointPost(**self.validated_data)


class CheckpointAnswerSerializer(serializers.Serializer):
    snapshot_id = serializers.CharField(help_text="its plan and commit go by this id")
    generation = serializers.IntegerField()


class RestoreSerializer(serializers.Serializer):
    fence = fence()


class RestoreAnswerSerializer(serializers.Serializer):
    """What to restore before the command starts; without snapshot_id: nothing."""

    snapshot_id = serializers.CharField(required=False)
    content_id = serializers.CharField(required=False)
    generation = serializers.IntegerField()
