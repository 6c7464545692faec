"""What vast.ai's answers and rows mean, and what a box is started with, without asking it."""

from __future__ import annotations

import json
import subprocess
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from core.http import Answer
from hibernation.providers.base import (
    BoxSpec,
    ListingIncomplete,
    OfferGone,
    Phase,
    ProviderBusy,
    ProviderRefused,
)
from hibernation.providers.vast_api import Said, meaning
from hibernation.providers.vast_rows import facts_of, offer_of, region_of
from hibernation.providers.vast_start import onstart
from tests.hibernation.providers.hosts import eventually
from tests.hibernation.providers.markets import WHEEL

GB = 10**9


def said(status: int, body: Any, headers: dict[str, str] | None = None) -> Said:
    raw = body.encode() if isinstance(body, str) else json.dumps(body).encode()
    return Said(Answer(status, headers or {}, raw))


def test_a_row_that_lacks_what_tells_an_offer_is_none() -> None:
    row = {
        "id": 1,
        "machine_id": 2,
        "gpu_name": "RTX 4090",
        "num_gpus": 1,
        "gpu_ram": 24564,
        "dph_total": 0.1 + 0.2,
    }
    offer = offer_of(row, disk_bytes=GB)
    assert offer is not None and offer.price_usd_per_h == Decimal("0.30000000000000004")
    assert (offer.region, offer.reliability, offer.disk_bytes) == ("", None, 8 * GB), (
        "8 GB is the smallest disk"
    )
    for name in row:
        assert offer_of({**row, name: None}, disk_bytes=GB) is None
    for price in ("a lot", float("nan"), -1, True, []):
        assert offer_of({**row, "dph_total": price}, disk_bytes=GB) is None


@pytest.mark.parametrize(
    ("said", "region"),
    [("Sweden, SE", "SE"), (", US", "US"), ("DE", "DE"), ("Sweden", ""), (None, ""), (7, "")],
)
def test_a_region_is_the_last_two_letters(said: Any, region: str) -> None:
    assert region_of(said) == region


# -- words ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "body", "error", "words"),
    [
        (404, {"success": False, "error": "auth_error", "msg": "Invalid user key"}, ProviderRefused, "key"),
        (403, {"error": "auth_error", "msg": "This action requires login."}, ProviderRefused, "key"),
        (
            401,
            {"msg": "requires you to have logged in using Two Factor Authentication"},
            ProviderRefused,
            "key",
        ),
        (404, {"msg": "Session expired. Please log in again."}, ProviderRefused, "key"),
        (
            400,
            {"error": "invalid_args", "msg": "error 404/3603: no_such_ask  Instance"},
            OfferGone,
            "no_such_ask",
        ),
        (410, {"error": "no_such_ask", "msg": "error 410/3907"}, OfferGone, ""),
        (200, {"success": False, "error": "no_such_ask"}, OfferGone, ""),
        (403, {"msg": "Offer 7 is not your own"}, OfferGone, ""),
        (
            400,
            {"error": "insufficient_credit", "msg": "Your account lacks credit"},
            ProviderRefused,
            "lacks credit",
        ),
        (400, {"error": "spend_rate_limit"}, ProviderRefused, "lacks credit"),
        (
            400,
            {"error": "invalid_request", "msg": "colour is not a valid search key"},
            ProviderRefused,
            "colour",
        ),
        (410, {"success": False, "error": "deprecated_endpoint"}, ListingIncomplete, "closed"),
        (503, "upstream", ProviderBusy, "trouble"),
        (429, "API requests too frequent", ProviderBusy, "too many"),
        (429, {"detail": "API requests too frequent endpoint threshold=3.0"}, ProviderBusy, "threshold=3.0"),
        (400, {"error": "rate_limit_exceeded", "msg": "slow down"}, ProviderBusy, "slow down"),
        (429, {"error": "search_quota_exceeded", "msg": "daily"}, ProviderRefused, "no more searches"),
    ],
)
def test_an_error_is_told_by_its_words(status: int, body: Any, error: type[Exception], words: str) -> None:
    found = meaning(said(status, body), "search")
    assert type(found) is error and words in str(found)


def test_a_success_means_nothing_went_wrong() -> None:
    assert (
        meaning(said(200, {"success": True}), "read") is None
        and meaning(said(200, {"offers": []}), "search") is None
    )


def test_the_end_of_a_daily_quota_is_told() -> None:
    found = meaning(
        said(429, {"error": "search_quota_exceeded"}, {"X-RateLimit-Reset": "1795132800"}), "search"
    )
    assert found is not None and "until 2026-11-20 00:00 UTC" in str(found)


# -- states ---------------------------------------------------------------------------------------------------------

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
LONG_AGO, JUST_NOW = NOW.timestamp() - 3600, NOW.timestamp() - 30


@pytest.mark.parametrize(
    ("actual", "intended", "other", "phase", "failed"),
    [
        (None, "running", {}, Phase.LOADING, False),
        ("created", "running", {}, Phase.LOADING, False),
        ("loading", "running", {"status_msg": "Pulling"}, Phase.LOADING, False),
        ("rebooting", "running", {}, Phase.LOADING, False),
        ("created", "running", {"status_msg": "OCI runtime create failed: x"}, Phase.LOADING, True),
        ("created", "stopped", {"cur_state": "stopped", "next_state": "stopped"}, Phase.STOPPED, True),
        (None, "stopped", {"cur_state": "stopped", "next_state": "stopped"}, Phase.STOPPED, True),
        ("running", "running", {}, Phase.RUNNING, False),
        ("running", "stopped", {}, Phase.RUNNING, False),
        ("exited", "stopped", {}, Phase.STOPPED, False),
        ("stopped", "stopped", {"cur_state": "stopped", "next_state": "stopped"}, Phase.STOPPED, False),
        ("exited", "running", {"start_date": JUST_NOW}, Phase.LOADING, False),
        ("exited", "running", {"start_date": None}, Phase.LOADING, False),
        ("exited", "running", {"start_date": LONG_AGO}, Phase.STOPPED, True),
        ("unknown", "running", {}, Phase.OFFLINE, False),
        ("offline", "running", {}, Phase.OFFLINE, False),
        ("frozen", "running", {}, Phase.UNKNOWN, True),
        ("levitating", "running", {}, Phase.UNKNOWN, False),
        (None, None, {}, Phase.LOADING, False),
    ],
)  # fmt: skip
def test_what_a_state_means(
    actual: Any, intended: Any, other: dict[str, Any], phase: Phase, failed: bool
) -> None:
    facts = facts_of({"id": 7, "actual_status": actual, "intended_status": intended, **other}, now=NOW)
    assert (facts.phase, facts.failed) == (phase, failed)


def test_an_instance_is_one_whatever_it_lacks() -> None:
    facts = facts_of({"id": 7}, now=NOW)
    assert (facts.ref, facts.label, facts.machine_id, facts.price_usd_per_h, facts.created_at) == (
        "7",
        "",
        "",
        None,
        None,
    )


PYTHON = """#!/bin/sh
echo "{name} $*" >>"$CALLS"
case "$1 $2" in
"-c "*) exit {fits} ;;
"-m venv") for last; do :; done; mkdir -p "$last/bin"; cp "$0" "$last/bin/python"
  printf '#!/bin/sh\\necho "agent $*" >>"$CALLS"; exit $(cat "$EXITS" | head -1)\\n' >"$last/bin/dormouse-agent"
  chmod +x "$last/bin/"* ;;
"-m pip") [ "$3" != --python ] || exit {old_pip} ;;
esac
"""


@pytest.mark.parametrize("old_pip", [0, 1])
def test_the_script_takes_a_python_that_fits_and_works_with_an_old_pip(tmp_path: Path, old_pip: int) -> None:
    """In an image of stand-ins: python3 is too old, `python` is not, and has pip or one that is too old for --python."""
    tools, calls, exits = tmp_path / "bin", tmp_path / "calls", tmp_path / "exits"
    tools.mkdir()
    exits.write_text("3\n")
    for name, fits in (
        ("python3.13", 1),
        ("python3.12", 1),
        ("python3.11", 1),
        ("python3", 1),
        ("python", 0),
    ):
        (tools / name).write_text(PYTHON.format(name=name, fits=fits, old_pip=old_pip))
        (tools / name).chmod(0o755)
    spec = BoxSpec(label="dm", disk_bytes=GB, url="https://pool.example.com", join_token="t")
    env = {"PATH": f"{tools}:/usr/bin:/bin", "CALLS": str(calls), "EXITS": str(exits),
           "DORMOUSE_HOME": str(tmp_path / "opt"), "DORMOUSE_WORKSPACE": str(tmp_path / "workspace")}  # fmt: skip
    log = tmp_path / "opt" / "agent.log"
    for start in (1, 2):
        subprocess.run(["/bin/sh"], input=onstart(spec, WHEEL).encode(), env=env, check=True, timeout=30)
        eventually(
            lambda start=start: log.exists() and log.read_text().count("the agent ended with 3") == start
        )
    said = calls.read_text().splitlines()
    wheel = f"https://pool.example.com/agent/{WHEEL.name}#sha256={WHEEL.sha256}"
    installs = [line for line in said if " install " in line]
    assert len(installs) == 1 + old_pip and all(line.endswith(wheel) for line in installs), (
        "not again at the second start"
    )
    assert said.count("agent run --provider vast") == 2 and (tmp_path / "workspace").is_dir()
