"""Labels of workers and jobs: key=value pairs; a job runs only where all of its own are found. Pure.

They are stored packed into one text, `|disk=nvme|gpu=a100|`, sorted by key, so that both databases can look for one of
them with a plain search for `|gpu=a100|`, and so that equal labels are equal texts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

LABELS_AT_MOST = 16

KEY = re.compile(r"[a-z0-9]([a-z0-9._-]{0,38}[a-z0-9])?")
VALUE = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,38}[A-Za-z0-9])?")


class LabelsInvalid(ValueError):
    """The text says which label, why, and what to do."""


def packed(labels: Mapping[str, str]) -> str:
    """The labels as they are stored; empty for none. Raises LabelsInvalid."""
    if len(labels) > LABELS_AT_MOST:
        raise LabelsInvalid(f"{len(labels)} labels are too many: at most {LABELS_AT_MOST}")
    for key, value in labels.items():
        if not isinstance(key, str) or not KEY.fullmatch(key):
            raise LabelsInvalid(
                f"label {key!r} is no key: up to 40 lower-case letters, digits, dots, dashes, underscores, such as gpu"
            )
        if not isinstance(value, str) or not VALUE.fullmatch(value):
            raise LabelsInvalid(
                f"label {key}={value!r} has no value: up to 40 letters, digits, dots, dashes, underscores"
            )
    return "".join(["|", *(f"{key}={value}|" for key, value in sorted(labels.items()))]) if labels else ""


def unpacked(text: str) -> dict[str, str]:
    """The labels of a stored text."""
    return dict(pair.split("=", 1) for pair in pairs(text))


def pairs(text: str) -> list[str]:
    """The labels of a stored text, each as key=value."""
    return [pair for pair in text.strip("|").split("|") if pair]


def marks(text: str) -> list[str]:
    """What to look for in a worker's stored labels, one text for each of a job's: `|gpu=a100|`."""
    return [f"|{pair}|" for pair in pairs(text)]


def missing(have: str, need: str) -> list[str]:
    """Of the needed labels, those that are not there, as key=value."""
    return [pair for pair in pairs(need) if f"|{pair}|" not in have]
