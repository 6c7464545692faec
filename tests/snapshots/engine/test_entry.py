"""Entries: what is encoded is decoded the same, in one canonical form, and in an order that proves it a tree."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapshots.engine.entry import DEVICES, Entry, Kind, parse_entry, path_order
from snapshots.engine.fields import pack, unpack, unpack_stream

names = st.binary(min_size=1, max_size=20).filter(lambda n: not set(n) & {0, 47} and n not in (b".", b".."))
paths = st.lists(names, min_size=1, max_size=5).map(b"/".join)
extents = st.lists(
    st.one_of(
        st.tuples(st.none(), st.integers(1, 2**40)),
        st.tuples(st.binary(min_size=32, max_size=32), st.integers(1, 4 << 20)),
    ),
    max_size=6,
).map(tuple)
xattrs = st.dictionaries(
    st.binary(min_size=1, max_size=20).filter(lambda n: 0 not in n).map(lambda n: b"user." + n),
    st.binary(max_size=90),
    max_size=4,
).map(lambda found: tuple(sorted(found.items())))


@st.composite
def entries(draw: st.DrawFn) -> Entry:
    kind = draw(st.sampled_from(list(Kind)))
    parts = draw(extents) if kind is Kind.FILE else ()
    targets = {
        Kind.SYMLINK: st.binary(min_size=1, max_size=80).filter(lambda text: 0 not in text),
        Kind.HARD_LINK: paths,
    }
    return Entry(
        path=draw(paths),
        kind=kind,
        mode=draw(st.integers(0, 0o7777)),
        mtime_ns=draw(st.integers(-(2**63), 2**63 - 1)),
        uid=draw(st.integers(0, 2**32 - 2)),
        gid=draw(st.integers(0, 2**32 - 2)),
        xattrs=draw(xattrs),
        size=sum(length for _, length in parts),
        extents=parts,
        target=draw(targets.get(kind, st.just(b""))),
        device=draw(st.tuples(st.integers(0, 4095), st.integers(0, 2**20))) if kind in DEVICES else None,
    )


@given(entry=entries())
def test_any_entry_comes_back_and_encodes_the_same_again(entry: Entry) -> None:
    again = parse_entry(unpack(entry.encode()))
    assert again == entry
    assert again.encode() == entry.encode()


@given(some=st.lists(entries(), max_size=3))
def test_entries_stand_one_after_another_in_a_segment(some: list[Entry]) -> None:
    raw = b"".join(entry.encode() for entry in some)
    assert [parse_entry(value) for value in unpack_stream(raw)] == some


@pytest.mark.slow
@given(
    value=st.recursive(
        st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.binary() | st.text(),
        lambda x: st.lists(x).map(tuple),
    )
)
def test_messagepack_has_one_form(value: object) -> None:
    assert pack(unpack(pack(value))) == pack(value)


@given(some=st.sets(paths, max_size=20))
def test_path_order_puts_a_folder_directly_before_what_is_inside_it(some: set[bytes]) -> None:
    ordered = sorted(some, key=path_order)
    for folder in ordered:
        inside = [at for at, path in enumerate(ordered) if path.startswith(folder + b"/")]
        start = ordered.index(folder)
        assert inside == list(range(start + 1, start + 1 + len(inside)))
