"""Kaggle's API as ours uses it: what becomes of each kind of answer, and of none."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from core.errors import Busy
from core.http import Http
from pool.notebooks import notebook
from pool.providers.kaggle import Kaggle, KaggleRefused, KaggleUnauthorized, KaggleUnknown, Push, RunStatus
from tests.simulators.kaggle import KaggleDouble

QUICK = Http(connect_timeout_s=2, read_timeout_s=2, tries=2, pause=lambda _: None)
PUSH = Push(
    slug="dormouse-a1", title="dormouse-a1", notebook=notebook("kaggle", JOIN_TOKEN="dj_secret"),
    accelerator="NvidiaTeslaT4", session_timeout_s=31_500,
)  # fmt: skip


@pytest.fixture
def double() -> Iterator[KaggleDouble]:
    with KaggleDouble() as made:
        made.person("ana")
        yield made


@pytest.fixture
def kaggle(double: KaggleDouble) -> Kaggle:
    credentials = {"api_token": double.people["ana"].token}
    return Kaggle(base_url=double.base_url, credentials=credentials, http=QUICK)


def test_push_is_private_with_internet_a_gpu_and_a_time_limit(kaggle, double):
    pushed = kaggle.push(kaggle.owner(), PUSH)
    assert (pushed.version, pushed.url) == (1, "https://www.kaggle.com/code/ana/dormouse-a1")
    request = double.latest("ana/dormouse-a1").request
    assert (request["isPrivate"], request["enableInternet"], request["enableGpu"]) == (True, True, True)
    assert (request["machineShape"], request["sessionTimeoutSeconds"]) == ("NvidiaTeslaT4", 31_500)
    assert 'JOIN_TOKEN = "dj_secret"' in double.latest("ana/dormouse-a1").source


def test_error_within_a_good_answer_is_a_refusal_in_kaggles_words(kaggle, double):
    double.people["ana"].used_s = double.people["ana"].total_s
    with pytest.raises(KaggleRefused, match=r"Maximum weekly GPU quota of 30\.00 hours reached"):
        kaggle.push("ana", PUSH)
    double.people["ana"].used_s = 0
    for number in (1, 2):
        kaggle.push(
            "ana", Push(**{**vars(PUSH), "slug": f"dormouse-{number}", "title": f"dormouse-{number}"})
        )
    with pytest.raises(KaggleRefused, match="Maximum batch GPU session count of 2 reached"):
        kaggle.push("ana", PUSH)


def test_push_whose_answer_is_lost_is_never_sent_again_by_itself(kaggle, double):
    double.fail("SaveKernel", lost=True)
    with pytest.raises(KaggleUnknown):
        kaggle.push("ana", PUSH)
    assert len(double.called("SaveKernel")) == 1
    assert kaggle.version("ana", "dormouse-a1") == 1


@pytest.mark.parametrize("status", [500, 502, 503, 504, 408])
def test_push_that_a_server_in_trouble_answers_may_have_arrived(kaggle, double, status):
    double.fail("SaveKernel", status=status)
    with pytest.raises(KaggleUnknown, match="in trouble"):
        kaggle.push("ana", PUSH)


def test_reading_is_repeated_and_a_long_wait_is_passed_on(kaggle, double):
    double.fail("GetAcceleratorQuotaStatistics", status=503)
    assert kaggle.quota().total_s == 108_000
    double.fail("GetAcceleratorQuotaStatistics", status=429, headers={"Retry-After": "90"})
    with pytest.raises(Busy) as wait:
        kaggle.quota()
    assert wait.value.retry_after_s == 90


def test_token_that_kaggle_does_not_know_is_said_so(double):
    stranger = Kaggle(base_url=double.base_url, credentials={"api_token": "KGAT_x"}, http=QUICK)
    with pytest.raises(KaggleUnauthorized, match="does not know the account's token"):
        stranger.owner()
    with pytest.raises(KaggleUnauthorized, match="Unauthenticated"):
        stranger.quota()


@pytest.mark.parametrize("held", [{}, {"api_token": " "}, {"username": "ana"}, {"other": "x"}])
def test_credentials_without_a_token_are_refused_before_anything_is_asked(held):
    with pytest.raises(KaggleRefused, match="hold no Kaggle token") as refused:
        Kaggle(base_url="http://127.0.0.1:9", credentials=held)
    assert "api_token" in refused.value.hint


def test_nobody_there_means_nothing_was_done():
    away = Kaggle(base_url="http://127.0.0.1:9", credentials={"api_token": "x"}, http=QUICK)
    with pytest.raises(Busy, match="cannot be reached"):
        away.push("ana", PUSH)


def test_notebook_that_is_not_there_has_no_version_no_run_and_no_output(kaggle):
    assert (kaggle.version("ana", "none"), kaggle.run("ana", "none"), kaggle.output("ana", "none")) == (
        None,
        None,
        "",
    )


@pytest.mark.parametrize(
    ("body", "meant"),
    [
        ({}, RunStatus.QUEUED),  # protobuf leaves the first value of an enumeration out
        ({"status": None}, RunStatus.QUEUED),
        ({"status": "running"}, RunStatus.RUNNING),
        ({"status": "COMPLETE", "failureMessage": None, "new": 1}, RunStatus.COMPLETE),
    ],
)
def test_status_is_read_as_kaggle_may_write_it(kaggle, double, body, meant):
    kaggle.push("ana", PUSH)
    double.fail("GetKernelSessionStatus", body=json.dumps(body).encode())
    run = kaggle.run("ana", "dormouse-a1")
    assert run is not None and run.status == meant


def test_status_of_a_later_version_of_kaggle_is_waited_out(kaggle, double):
    kaggle.push("ana", PUSH)
    double.fail("GetKernelSessionStatus", body=b'{"status": "PAUSED"}')
    with pytest.raises(Busy, match="PAUSED"):
        kaggle.run("ana", "dormouse-a1")


@pytest.mark.parametrize("body", [b"<html>", b"[]x", b"\xff\xfe"])
def test_answer_that_is_no_json_is_no_answer(kaggle, double, body):
    double.fail("GetAcceleratorQuotaStatistics", body=body)
    with pytest.raises(KaggleUnknown):
        kaggle.quota()


@pytest.mark.parametrize(
    "gpu",
    [
        None,
        [],
        {"timeUsed": 5},
        {"timeUsed": "a long time"},
        {"timeUsed": "-5s"},
        {"timeUsed": "nans"},
        {"timeUsed": "s"},
    ],
)
def test_quota_that_cannot_be_read_is_unknown_not_zero(kaggle, double, gpu):
    body = json.dumps({"gpuQuota": gpu, "quotaRefreshTime": "soon"}).encode()
    double.fail("GetAcceleratorQuotaStatistics", body=body)
    quota = kaggle.quota()
    assert (quota.used_s, quota.refresh_at) == (None, None)


def test_log_is_read_as_text_whatever_form_it_has(kaggle, double):
    kaggle.push("ana", PUSH)
    version = double.latest("ana/dormouse-a1")
    version.says("one\n")
    version.says("two\n")
    version.status = "COMPLETE"
    assert kaggle.output("ana", "dormouse-a1").startswith("one\ntwo\n[NbConvertApp] Converting")
    double.fail("ListKernelSessionOutput", body=json.dumps({"log": "plain text"}).encode())
    assert kaggle.output("ana", "dormouse-a1") == "plain text"


def test_nothing_secret_is_logged(kaggle, double, caplog):
    caplog.set_level("DEBUG")
    kaggle.push(kaggle.owner(), PUSH)
    assert "dj_secret" not in caplog.text and double.people["ana"].token not in caplog.text
