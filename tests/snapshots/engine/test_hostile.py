"""A manifest is hostile until proved otherwise: sealed with the owner's own key, it still touches nothing outside the target."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from snapshots.engine.entry import Entry, Kind
from snapshots.engine.errors import EngineError, ManifestRefused, RestoreRefused
from snapshots.engine.frame import KIND_ROOT, ROOT_MAGIC, decode_root
from snapshots.engine.keys import OwnerKey, root_key, segment_key
from snapshots.engine.limits import TIB, Limits
from snapshots.engine.store.base import Store
from tests.snapshots.engine.forge import (
    NOW_NS,
    OWNER,
    file,
    folder,
    forge,
    hard_link,
    pack_of,
    put_root,
    symlink,
)
from tests.snapshots.engine.trees import KEY, OTHER_KEY, manifest_of, noise, put, restore_of, take_of


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """Something that must still be as it is after every attack, and the folder all of them aim at."""
    put(tmp_path / "victim", b"untouched")
    return tmp_path / "victim"


def look(folder: Path) -> dict[str, Any]:
    return {
        os.path.join(at, name): os.lstat(os.path.join(at, name)).st_mode
        for at, folders, files in os.walk(folder)
        if "objects" not in at
        for name in folders + files
    }


def refused(store: Store, target: Path, entries: list[Any], match: str, **options: Any) -> None:
    """The restore says why, and the disk is as it was."""
    target.parent.mkdir(parents=True, exist_ok=True)
    before = look(target.parent.parent)
    packs = [pack_of(store, b"data")]
    key = forge(store, entries, packs)
    with pytest.raises(ManifestRefused, match=match):
        restore_of(target, store, key, **options)
    assert look(target.parent.parent) == before


@pytest.mark.parametrize(
    "path",
    [
        b"../victim",
        b"..",
        b"a/../../victim",
        b"/etc/cron.d/x",
        b"/",
        b"a//b",
        b"a/",
        b"./a",
        b".",
        b"a/./b",
        b"a\0b",
        b"",
        b"n" * 256,
    ],
)
def test_a_path_that_leads_elsewhere_is_refused(
    store: Store, target: Path, outside: Path, path: bytes
) -> None:
    refused(
        store,
        target,
        [folder(b"a"), file(path, b"data")] if path > b"a" else [file(path, b"data")],
        "path|order",
    )
    assert outside.read_bytes() == b"untouched"


def test_a_path_that_is_nested_too_deep_or_too_long_is_refused(store: Store, target: Path) -> None:
    deep = [folder(b"/".join([b"d"] * depth)) for depth in range(1, 258)]
    refused(store, target, deep, "nested deeper")


def test_a_path_that_is_too_long_is_refused(store: Store, target: Path) -> None:
    refused(store, target, [file(b"a", b"data"), file(b"/".join([b"n" * 200] * 90), b"data")], "a path is")


def test_a_file_below_a_symlink_is_refused(store: Store, target: Path, outside: Path) -> None:
    refused(store, target, [symlink(b"out", b".."), file(b"out/victim", b"data")], "not a folder")
    assert outside.read_bytes() == b"untouched"


def test_a_symlink_in_the_place_of_a_folder_is_refused(store: Store, target: Path) -> None:
    refused(store, target, [folder(b"out"), symlink(b"out", b"/etc"), file(b"out/passwd", b"data")], "twice")


def test_a_file_below_a_file_is_refused(store: Store, target: Path) -> None:
    refused(store, target, [file(b"a", b"data"), file(b"a/b", b"data")], "not a folder")


def test_a_file_without_its_folder_is_refused(store: Store, target: Path) -> None:
    refused(store, target, [file(b"a/b", b"data")], "not a folder")


def test_the_same_name_twice_is_refused(store: Store, target: Path) -> None:
    refused(store, target, [file(b"a", b"data"), file(b"a", b"data")], "twice")


def test_entries_out_of_order_are_refused(store: Store, target: Path) -> None:
    refused(store, target, [file(b"b", b"data"), file(b"a", b"data")], "order")


@pytest.mark.parametrize("to", [b"/etc/passwd", b"../victim", b"absent", b"later", b"folder", b"second"])
def test_a_hard_link_to_anything_but_an_earlier_file_of_the_snapshot_is_refused(
    store: Store, target: Path, outside: Path, to: bytes
) -> None:
    entries = [
        file(b"first", b"data"),
        folder(b"folder"),
        hard_link(b"head", b"first"),
        hard_link(b"link", to if to != b"second" else b"head"),
        file(b"zlater", b"data"),
    ]
    refused(store, target, entries, "hard link|path")
    assert os.stat(outside).st_nlink == 1


def test_a_symlink_out_of_the_workspace_is_restored_as_text_and_nothing_is_written_through_it(
    store: Store, target: Path, outside: Path
) -> None:
    pack = pack_of(store, b"data")
    key = forge(
        store, [file(b"a", b"data"), symlink(b"out", b"../../victim"), hard_link(b"twin", b"out")], [pack]
    )
    restore_of(target, store, key)
    assert os.readlink(target / "out") == os.readlink(target / "twin") == "../../victim"
    assert outside.read_bytes() == b"untouched"


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"size": 5}, "extents"),
        ({"size": -1, "extents": ()}, "size"),
        ({"size": 2**63, "extents": ((None, 2**63),)}, "size"),
        ({"size": 17 * TIB, "extents": ((None, 17 * TIB),)}, "more than"),
        ({"size": 4, "extents": ((None, -4), (None, 8))}, "hole"),
        ({"size": 0, "extents": ((None, 0),)}, "hole"),
        ({"size": 5_000_000, "extents": ((b"i" * 32, 5_000_000),)}, "chunk"),
        ({"size": 4, "extents": ((b"short", 4),)}, "chunk id"),
        ({"size": 4, "extents": ((b"i" * 32, 4),)}, "no pack"),
        ({"size": 3, "extents": ((OwnerKey(KEY).chunk_id(b"data"), 3),)}, "no pack"),
        ({"mode": 0o100644}, "mode"),
        ({"mode": -1}, "mode"),
        ({"mtime_ns": 2**63}, "mtime"),
        ({"uid": 2**32 - 1}, "uid"),
        ({"gid": -1}, "gid"),
        ({"kind": 8}, "kind"),
        ({"kind": True}, "kind"),
        ({"path": "text"}, "path"),
        ({"target": b"x"}, "target"),
        ({"device": (1, 3)}, "device"),
        ({"xattrs": ((b"security.capability", b"x"),)}, "outside user"),
        ({"xattrs": ((b"trusted.x", b"x"),)}, "outside user"),
        ({"xattrs": ((b"system.posix_acl_access", b"x"),)}, "outside user"),
        ({"xattrs": ((b"user.b", b""), (b"user.a", b""))}, "order"),
        ({"xattrs": ((b"user.a", b"x" * 70_000),)}, "value"),
        ({"xattrs": tuple((b"user.%02d" % n, b"") for n in range(65))}, "attributes"),
        ({"xattrs": {}}, "attributes"),
    ],
)
def test_a_file_with_an_impossible_column_is_refused(
    store: Store, target: Path, changes: dict[str, Any], match: str
) -> None:
    refused(store, target, [file(b"a", b"data")._replace(**changes)], match)


@pytest.mark.parametrize(
    "entry",
    [
        symlink(b"a", b""),
        symlink(b"a", b"x\0y"),
        symlink(b"a", b"x" * 4_096),
        folder(b"a")._replace(size=1, extents=((None, 1),)),
        folder(b"a")._replace(target=b"x"),
        Entry(b"a", Kind.CHARACTER_DEVICE, 0o666, NOW_NS, 0, 0),
        Entry(b"a", Kind.BLOCK_DEVICE, 0o666, NOW_NS, 0, 0, device=(8, -1)),
        Entry(b"a", Kind.BLOCK_DEVICE, 0o666, NOW_NS, 0, 0, device=(8, 2**40)),
        ("a", "row", "of", "text"),
        [],
        7,
        None,
        {b"path": b"a"},
        tuple(file(b"a"))[:10],
        (*file(b"a"), None),
    ],
)
def test_an_entry_that_makes_no_sense_is_refused(store: Store, target: Path, entry: Any) -> None:
    refused(store, target, [entry], "damaged or hostile")


def test_devices_are_not_made_unless_asked_for(store: Store, target: Path) -> None:
    device = Entry(b"disk", Kind.BLOCK_DEVICE, 0o666, NOW_NS, 0, 0, device=(8, 0))
    restored = restore_of(target, store, forge(store, [device, hard_link(b"twin", b"disk")]))
    assert os.listdir(target) == []
    assert len(restored.warnings) == 2


def test_counts_above_the_limit_are_refused(store: Store, target: Path) -> None:
    entries = [file(b"%04d" % n) for n in range(200)]
    refused(store, target, entries, "199 entries", limits=Limits(entries=199))


def test_bytes_above_the_limit_are_refused(store: Store, target: Path) -> None:
    hole = {"size": TIB, "extents": ((None, TIB),)}
    refused(
        store,
        target,
        [file(b"a")._replace(**hole), file(b"b")._replace(**hole)],
        "bytes",
        limits=Limits(total_bytes=TIB),
    )


def test_one_chunk_named_a_million_times_does_not_fill_the_disk(store: Store, target: Path) -> None:
    chunk = noise(1 << 20)
    extent = (OwnerKey(KEY).chunk_id(chunk), len(chunk))
    many = 30_000
    entries = [file(b"%02d" % n)._replace(size=many << 20, extents=(extent,) * many) for n in range(10)]
    key = forge(store, entries, [pack_of(store, chunk)])
    with pytest.raises(RestoreRefused, match="free"):
        restore_of(target, store, key)
    assert not target.exists()


def test_more_entries_than_the_root_counts_are_refused(store: Store, target: Path) -> None:
    key = forge(store, [file(b"a"), file(b"b")])
    root = manifest_of(store).root
    store.delete(key)
    fewer = root.totals._replace(files=1)
    put_root(store, root._replace(entries=(root.entries[0]._replace(entries=1),), totals=fewer))
    with pytest.raises(ManifestRefused, match="2 entries"):
        restore_of(target, store, key)
    store.delete(key)
    put_root(store, root._replace(totals=fewer))
    with pytest.raises(ManifestRefused, match="as many entries"):
        restore_of(target, store, key)


def test_another_content_id_than_the_entries_make_is_refused_before_anything_appears(
    store: Store, target: Path
) -> None:
    key = forge(store, [file(b"a")], content_id=b"x" * 32)
    with pytest.raises(ManifestRefused, match="content id"):
        restore_of(target, store, key)
    assert not target.exists()


def test_another_generation_than_the_expected_one_is_refused(
    store: Store, workspace: Path, target: Path
) -> None:
    put(workspace / "a", b"1")
    take_of(workspace, store)
    with pytest.raises(ManifestRefused, match="expected"):
        restore_of(target, store, expected_content_id="00" * 32)
    assert not target.exists()


# -- the envelope ---------------------------------------------------------------------------------


def test_a_flipped_bit_anywhere_in_the_root_is_refused(store: Store, workspace: Path) -> None:
    put(workspace / "a", b"1")
    taken = take_of(workspace, store)
    good = store.read(taken.root_key)
    bad = [good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :] for at in range(len(good))]
    bad += [good[:length] for length in (0, 1, 11, 12, 43, len(good) - 1)] + [good + b"\0"]
    for stored in bad:
        with pytest.raises(ManifestRefused):
            decode_root(stored, OwnerKey(KEY))
    store.delete(taken.root_key)
    store.write(taken.root_key, bad[100])
    with pytest.raises(ManifestRefused):
        manifest_of(store)


def test_a_root_made_with_another_key_is_refused(store: Store) -> None:
    forge(store, [file(b"a")], key=OwnerKey(OTHER_KEY))
    with pytest.raises(ManifestRefused, match="seal"):
        manifest_of(store)


def test_a_root_in_the_place_of_another_is_refused(store: Store, workspace: Path) -> None:
    take_of(workspace, store, "s_1")
    newer = take_of(workspace, store, "s_2")
    old = store.read("o/u_alice/m/s_1")
    store.delete(newer.root_key)
    store.write(newer.root_key, old)
    with pytest.raises(ManifestRefused, match="swapped"):
        manifest_of(store, newer.root_key)
    store.write("o/u_bob/m/s_1", old)
    with pytest.raises(ManifestRefused, match="swapped"):
        manifest_of(store, "o/u_bob/m/s_1")


def test_a_flipped_bit_in_a_segment_is_refused_before_it_is_decoded(
    store: Store, workspace: Path, target: Path
) -> None:
    put(workspace / "a", b"1")
    taken = take_of(workspace, store)
    for plan in taken.new_objects:
        if "/s/" not in plan.key:
            continue
        good = store.read(plan.key)
        for bad in (good[:-1], good + b"\0", good[:20] + bytes([good[20] ^ 1]) + good[21:], b""):
            store.delete(plan.key)
            store.write(plan.key, bad)
            with pytest.raises(ManifestRefused, match="segment"):
                restore_of(target, store)
        store.delete(plan.key)
        with pytest.raises(ManifestRefused, match="missing"):
            restore_of(target, store)
        store.write(plan.key, good)
    restore_of(target, store)


@pytest.mark.parametrize("field", ["version", "flags", "feature"])
def test_what_a_newer_version_wrote_is_refused_with_advice(store: Store, field: str) -> None:
    from snapshots.engine import fields, frame

    key = forge(store, [file(b"a")])
    stored = bytearray(store.read(key))
    if field == "version":
        stored[4] = 2
    elif field == "flags":
        stored[6] = 2
    else:
        raw = fields.unpack(frame.decode_root(bytes(stored), OwnerKey(KEY)))
        assert isinstance(raw, dict)
        stored = bytearray(frame.encode_root(fields.pack({**raw, "features": (3,)}), OwnerKey(KEY)))
    store.delete(key)
    store.write(key, bytes(stored))
    with pytest.raises(ManifestRefused, match="update this program"):
        manifest_of(store)


def test_names_in_the_root_that_this_version_does_not_know_are_ignored(store: Store, target: Path) -> None:
    from snapshots.engine import fields, frame

    key = forge(store, [file(b"a")])
    raw = fields.unpack(frame.decode_root(store.read(key), OwnerKey(KEY)))
    assert isinstance(raw, dict)
    store.delete(key)
    store.write(key, frame.encode_root(fields.pack({**raw, "later": [1]}), OwnerKey(KEY)))
    restore_of(target, store)
    assert os.listdir(target) == ["a"]


def test_a_bomb_in_a_root_or_segment_is_refused_by_its_announced_length(store: Store) -> None:
    import struct

    from snapshots.engine.codecs import zstd

    bomb = zstd.compress(bytes(200 << 20))
    assert len(bomb) < 100_000
    key = OwnerKey(KEY)
    for announced in (200 << 20, 1_000):
        sealed = struct.pack("<4sBBHI", ROOT_MAGIC, 1, KIND_ROOT, 0, announced) + bomb
        name = root_key(OWNER, f"s_{announced}")
        store.write(name, sealed + key.seal(sealed))
        with pytest.raises(ManifestRefused, match="announces"):
            manifest_of(store, name)


def test_a_root_that_is_too_long_is_not_even_read(store: Store) -> None:
    store.write("o/u_alice/m/s_1", bytes((16 << 20) + 1))
    with pytest.raises(ManifestRefused, match="longer"):
        manifest_of(store)


def test_a_key_that_is_no_roots_is_refused(store: Store) -> None:
    for key in ("o/u_alice/p/" + "0" * 32, segment_key(OWNER, b"x" * 32), "elsewhere", "o/u_alice/m/../x"):
        with pytest.raises(EngineError):
            manifest_of(store, key)
