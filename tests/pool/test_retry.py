"""When a failed command is tried again."""

from __future__ import annotations

import pytest

from pool.retry import Retry


def test_waits_grow_by_the_factor_and_never_beyond_the_most() -> None:
    retry = Retry(backoff_s=10, backoff_factor=2, max_backoff_s=60)
    assert [retry.wait_s(retries=n) for n in range(5)] == [10, 20, 40, 60, 60]
    assert Retry(backoff_s=100, max_backoff_s=30).wait_s(retries=0) == 30
    assert Retry(backoff_s=1, backoff_factor=100, max_backoff_s=600).wait_s(retries=10**6) == 600


@pytest.mark.parametrize(
    ("codes", "exit_code", "retries", "wanted"),
    [
        (None, 1, 0, True),
        (None, 1, 3, False),
        (None, 0, 0, False),
        ((1, 75), 75, 2, True),
        ((1, 75), 2, 0, False),
    ],
)
def test_only_chosen_exit_codes_are_tried_again_and_only_so_often(
    codes: tuple[int, ...] | None, exit_code: int, retries: int, wanted: bool
) -> None:
    assert Retry(exit_codes=codes, max_retries=3).wants(exit_code, retries=retries) is wanted


def test_what_is_stored_is_read_back() -> None:
    for retry in (Retry(), Retry(exit_codes=(1, 75), max_retries=9, backoff_s=0.5)):
        assert Retry.stored(retry.as_json()) == retry
