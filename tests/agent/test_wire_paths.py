"""Paths and globs: what is let through, and what a glob means."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.wire import WireError, check_path, glob_matches, glob_may_lie_below


@pytest.mark.parametrize(
    "path", ["a", "data/x.csv", "ünï/…", "..a", "a..b/.hidden", "out/**/*.pt", "x" * 200]
)
def test_ordinary_paths_are_let_through(path: str) -> None:
    assert check_path(path) == path


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/etc/passwd",
        "..",
        "a/../b",
        "./a",
        "a//b",
        "a/",
        "a\0b",
        "a\nb",
        "x" * 401,
        "é" * 130,
        "\ud800",
        "a/.",
    ],
)
def test_what_leads_out_or_is_no_name_is_refused_with_the_reason(path: str) -> None:
    with pytest.raises(WireError, match="path"):
        check_path(path)


@pytest.mark.parametrize(
    ("glob", "path", "matches"),
    [
        ("*.json", "a.json", True),
        ("*.json", "out/a.json", False),
        ("out/**/*.pt", "out/a.pt", True),
        ("out/**/*.pt", "out/x/y/a.pt", True),
        ("out/**/*.pt", "in/a.pt", False),
        ("out/**", "out/a/b", True),
        ("**", "a", True),
        ("**/a", "a", True),
        ("model-?.bin", "model-1.bin", True),
        ("model-?.bin", "model-10.bin", False),
        ("[a].txt", "a.txt", False),
        ("[a].txt", "[a].txt", True),
        ("a*b*c", "aXbYc", True),
        ("a*b*c", "aXbYd", False),
    ],
)
def test_globs(glob: str, path: str, matches: bool) -> None:
    assert glob_matches(glob, path) is matches


NAMES = st.text("ab", min_size=1, max_size=4)
PATHS = st.lists(NAMES, min_size=1, max_size=4).map("/".join)
GLOBS = st.lists(
    st.one_of(st.just("**"), st.text("ab*?", min_size=1, max_size=4)), min_size=1, max_size=4
).map("/".join)


def as_regex(glob: str) -> str:
    parts = glob.split("/")
    text = ""
    for index, part in enumerate(parts):
        last = index == len(parts) - 1
        if part == "**":
            text += (
                "(?:[^/]+(?:/[^/]+)*)?"
                if last and index == 0
                else "(?:[^/]+/)*"
                if not last
                else "(?:/[^/]+)*"
            )
        else:
            text += "".join({"*": "[^/]*", "?": "[^/]"}.get(c, re.escape(c)) for c in part.replace("**", "*"))
            if not last and not (index == len(parts) - 2 and parts[-1] == "**"):
                text += "/"
    return text


@given(GLOBS, PATHS)
def test_a_glob_means_what_the_regular_expression_for_it_means(glob: str, path: str) -> None:
    while "**/**" in glob:
        glob = glob.replace("**/**", "**")
    assert glob_matches(glob, path) == bool(re.fullmatch(as_regex(glob), path))


@given(GLOBS, PATHS)
def test_a_walk_that_is_told_to_turn_back_misses_nothing(glob: str, path: str) -> None:
    if glob_matches(glob, path):
        names = path.split("/")
        assert all(glob_may_lie_below(glob, "/".join(names[:n])) for n in range(len(names)))


def test_a_walk_is_told_what_it_need_not_look_into() -> None:
    assert not glob_may_lie_below("out/*.pt", "data")
    assert not glob_may_lie_below("*.json", "out")
    assert glob_may_lie_below("out/**/*.pt", "out/x")


def test_a_hostile_glob_costs_no_more_than_its_length() -> None:
    began = time.perf_counter()
    assert not glob_matches("/".join(["*a" * 12] * 12), "/".join(["a" * 28 + "b"] * 12))
    assert not glob_matches("/".join(["**", "a*b"] * 50), "/".join(["ab", "ac"] * 50))
    assert time.perf_counter() - began < 1
