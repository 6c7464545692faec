from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest

from core.errors import Busy, Invalid
from hibernation.providers.base import BoxFacts, Phase, ProviderBusy, ProviderError, gpu_key, with_label
from tests.hibernation.providers.hosts import CHECKOUT, box_spec

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("RTX 4090", "rtx_4090"),
        ("NVIDIA GeForce RTX 4090", "RTX4090"),
        ("Tesla T4", "T4"),
        ("A100-SXM4-80GB", "NVIDIA A100 SXM4 80GB"),
    ],
)
def test_names_of_one_gpu_are_the_same(one: str, other: str) -> None:
    assert gpu_key(one) == gpu_key(other) != ""


@pytest.mark.parametrize(
    ("one", "other"), [("RTX 4090", "RTX 4090 D"), ("RTX 3080", "RTX 3080 Ti"), ("T4", "A100")]
)
def test_names_of_two_gpus_are_not(one: str, other: str) -> None:
    assert gpu_key(one) != gpu_key(other)


def test_busy_is_what_a_chain_puts_off_and_an_error_of_the_provider() -> None:
    busy = ProviderBusy("too many requests", retry_after_s=9, hint="wait")
    assert isinstance(busy, Busy) and isinstance(busy, ProviderError)
    assert busy.as_json() == {"code": "provider_busy", "message": "too many requests", "hint": "wait"}
    assert busy.retry_after_s == 9


@pytest.mark.parametrize(
    ("wrong", "names"),
    [
        ({"label": ""}, "label"),
        ({"label": "../up"}, "label"),
        ({"label": "a" * 81}, "label"),
        ({"disk_bytes": 0}, "disk_bytes"),
        ({"url": "ftp://pool"}, "url"),
        ({"url": "pool.example.com"}, "url"),
        ({"workspace": "here"}, "workspace"),
        ({"environment": {"A B": "1"}}, "A B"),
        ({"environment": {"A": "x\0y"}}, "A"),
        ({"join_token": "x\0y"}, "DORMOUSE_JOIN_TOKEN"),
    ],
)
def test_a_spec_that_cannot_be_right_is_refused_by_name(wrong: dict[str, object], names: str) -> None:
    given = {"label": "dm-1", **wrong}
    with pytest.raises(Invalid, match=names):
        box_spec(**given)  # type: ignore[arg-type]


def test_a_spec_shows_no_secret_and_its_own_variables_cannot_overrule_where_the_agent_joins() -> None:
    spec = box_spec(
        "dm-1", join_token="hush", environment={"DORMOUSE_URL": "http://evil", "HF_TOKEN": "hush-too"}
    )
    assert "hush" not in repr(spec)
    assert spec.agent_environment() == {
        "DORMOUSE_URL": "http://127.0.0.1:1",
        "DORMOUSE_JOIN_TOKEN": "hush",
        "HF_TOKEN": "hush-too",
    }


def test_boxes_with_a_label_come_oldest_first_and_those_of_unknown_age_last() -> None:
    def box(ref: str, label: str, age_s: float | None) -> BoxFacts:
        created_at = None if age_s is None else NOW - timedelta(seconds=age_s)
        return BoxFacts(ref=ref, label=label, phase=Phase.LOADING, created_at=created_at)

    boxes = [box("new", "a", 1), box("null", "a", None), box("other", "ab", 9), box("old", "a", 5)]
    assert [found.ref for found in with_label(boxes, "a")] == ["old", "new", "null"]


def test_the_port_the_local_provider_and_its_host_need_no_django() -> None:
    names = ("base", "registry", "local", "local_host", "local_box", "local_faults")
    code = (
        "".join(f"import hibernation.providers.{name}; " for name in names)
        + "import sys; print('django' in sys.modules)"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "False"
