"""Labels: packed so that both databases can look for one, and refused where they could be mistaken."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pool.labels import KEY, VALUE, LabelsInvalid, missing, packed, unpacked
from pool.models.lines import LABELS_LIMIT

keys = st.one_of(st.sampled_from(["a", "b", "a.b", "9-a", "k" * 40]), st.text("ab-", min_size=1, max_size=3))
values = st.one_of(st.sampled_from(["x", "X", "x.y", "v" * 40]), st.text("xX_", min_size=1, max_size=3))
labels = st.dictionaries(keys.filter(KEY.fullmatch), values.filter(VALUE.fullmatch), max_size=16)


@given(labels=labels)
def test_what_is_packed_is_unpacked_again_and_fits(labels: dict[str, str]) -> None:
    assert unpacked(packed(labels)) == labels
    assert len(packed(labels)) <= LABELS_LIMIT


@given(have=labels, need=labels)
def test_a_worker_fits_where_it_has_every_label_of_the_job(
    have: dict[str, str], need: dict[str, str]
) -> None:
    lacking = missing(packed(have), packed(need))
    assert sorted(lacking) == sorted(
        f"{key}={value}" for key, value in need.items() if have.get(key) != value
    )
    assert missing(packed({**need, **have}), packed(have)) == []


@pytest.mark.parametrize(
    "bad", [{"GPU": "x"}, {"a|b": "x"}, {"a": "x|y"}, {"a": ""}, {"": "x"}, {"a=b": "c"}, {"a": "x=y"}, {"a": "é"},
            {"a" * 41: "x"}, {"a": "x" * 41}, {f"k{number}": "x" for number in range(17)}, {"a": "x\n"}]
)  # fmt: skip
def test_what_is_no_label_is_refused(bad: dict[str, str]) -> None:
    with pytest.raises(LabelsInvalid, match="label"):
        packed(bad)
