"""Of more output than an attempt may keep, its beginning and its end stay."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pool.log_cap import Extent, capped


def test_nothing_is_cut_below_the_cap() -> None:
    extent = Extent(end=0)
    for end in range(0, 101, 10):
        extent = capped(Extent(end=end, cut_from=extent.cut_from, cut_to=extent.cut_to), total=end, cap=100)
        assert extent.missing == 0


def test_what_waits_beyond_the_cap_is_skipped_at_once() -> None:
    extent = capped(Extent(end=50), total=1_000_000, cap=100)
    assert extent == Extent(end=999_950, cut_from=50, cut_to=999_950)
    assert capped(Extent(end=40), total=1_000_000, cap=100) == Extent(end=40), "the beginning comes first"


def test_an_end_that_grows_pushes_out_its_own_beginning() -> None:
    extent = capped(Extent(end=200, cut_from=50), total=200, cap=100)
    assert extent == Extent(end=200, cut_from=50, cut_to=150)
    assert extent.holds_out(50) and extent.holds_out(149)
    assert not extent.holds_out(49) and not extent.holds_out(150)


@given(
    cap=st.integers(4, 1_000),
    appends=st.lists(st.tuples(st.integers(1, 300), st.integers(0, 5_000)), max_size=60),
)
def test_kept_is_never_much_more_than_the_cap_and_the_hole_only_grows(
    cap: int, appends: list[tuple[int, int]]
) -> None:
    extent = Extent(end=0)
    for length, waiting in appends:
        before = extent
        end = extent.end + length
        extent = capped(
            Extent(end=end, cut_from=extent.cut_from, cut_to=extent.cut_to), total=end + waiting, cap=cap
        )
        assert extent.end - extent.missing <= cap + cap // 4 + 2 * 300 + 2
        assert extent.cut_to >= before.cut_to and extent.cut_to <= extent.end
        assert not before.cut_from or extent.cut_from == before.cut_from
        assert extent.missing == 0 or extent.cut_from >= cap // 2
        assert extent.end >= end
