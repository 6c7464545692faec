"""What a person sends: a field that is not there, most often a misspelt one, is refused and not passed over."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from rest_framework import serializers


class RequestBody(serializers.Serializer):
    """A request's fields and no others. Those that are only read may be sent back as they came."""

    def to_internal_value(self, data: Any) -> Any:
        if isinstance(data, Mapping):
            unknown = {
                str(name): _no_such(str(name), self.fields) for name in data if name not in self.fields
            }
            if unknown:
                raise serializers.ValidationError(unknown)
        return super().to_internal_value(data)


def _no_such(name: str, known: Mapping[str, Any]) -> list[str]:
    close = get_close_matches(name, known, n=1)
    return [f"there is no such field; did you mean {close[0]}?" if close else
            f"there is no such field; there are {', '.join(known)}"]  # fmt: skip
