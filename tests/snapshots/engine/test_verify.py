"""Verification is what lets a box be destroyed: it must find everything that would keep a restore from working."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from snapshots.engine.errors import Cancelled, SnapshotDamaged
from snapshots.engine.keys import pack_key
from snapshots.engine.store.base import ListedObject, ObjectFacts, SignedRequest, Store, StoreBusy
from snapshots.engine.take import Taken
from tests.snapshots.engine.forge import file, forge, pack_of
from tests.snapshots.engine.trees import OTHER_KEY, manifest_of, noise, odd_tree, put, take_of, verify_of


class Lying(Store):
    """A store that answers for another, with changes."""

    def __init__(self, behind: Store) -> None:
        self.behind = behind
        self.heads: dict[str, ObjectFacts | Exception] = {}
        self.reads: list[tuple[str, int, int | None]] = []

    def head(self, key: str) -> ObjectFacts:
        answer = self.heads.get(key) or self.behind.head(key)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def read(self, key: str, *, offset: int = 0, length: int | None = None) -> bytes:
        self.reads.append((key, offset, length))
        return self.behind.read(key, offset=offset, length=length)

    def put_request(self, key: str, *, length: int, sha256: str, ttl_s: float) -> SignedRequest:
        return self.behind.put_request(key, length=length, sha256=sha256, ttl_s=ttl_s)

    def get_request(self, key: str, *, ttl_s: float) -> SignedRequest:
        return self.behind.get_request(key, ttl_s=ttl_s)

    def write(self, key: str, data: bytes, *, sha256: str | None = None) -> None:
        self.behind.write(key, data)

    def delete(self, key: str) -> None:
        self.behind.delete(key)

    def list(self, prefix: str) -> Sequence[ListedObject]:
        return self.behind.list(prefix)


@pytest.fixture
def taken(store: Store, workspace: Path) -> Taken:
    odd_tree(workspace)
    return take_of(workspace, store)


def keys_of(store: Store, kind: str) -> list[str]:
    return [row.key for row in store.list(f"o/u_alice/{kind}/")]


def rewrite(store: Store, key: str, data: bytes) -> None:
    store.delete(key)
    store.write(key, data)


def found_wrong(store: Store, taken: Taken, match: str, **options: object) -> SnapshotDamaged:
    with pytest.raises(SnapshotDamaged, match=match) as caught:
        verify_of(store, taken, **options)
    return caught.value


def test_a_good_snapshot_is_verified_and_counted(store: Store, taken: Taken) -> None:
    verified = verify_of(store, taken)
    assert (verified.content_id, verified.entries, verified.files) == (
        taken.content_id,
        taken.entries,
        taken.files,
    )
    assert verified.referenced_bytes == taken.referenced_bytes
    assert verified.blocks_read == verified.blocks
    assert (verified.snapshot_id, verified.parent_id) == ("s_1", None)


@pytest.mark.parametrize("kind", ["p", "s", "m"])
def test_any_missing_object_is_found(store: Store, taken: Taken, kind: str) -> None:
    for key in keys_of(store, kind):
        data = store.read(key)
        store.delete(key)
        found_wrong(store, taken, "missing", sample=0.0, sample_blocks_min=0)
        store.write(key, data)
    verify_of(store, taken)


def test_a_pack_of_another_length_is_found_without_reading_it(store: Store, taken: Taken) -> None:
    key, *_ = keys_of(store, "p")
    data = store.read(key)
    for bad in (data[:-1], data + b"x", b""):
        rewrite(store, key, bad)
        found_wrong(
            store, taken, f"{key} has {len(bad)} bytes, not {len(data)}", sample=0.0, sample_blocks_min=0
        )


def test_a_pack_with_another_digest_is_found_without_reading_it_where_the_store_keeps_digests(
    store: Store, taken: Taken
) -> None:
    key, *_ = keys_of(store, "p")
    liar = Lying(store)
    liar.heads[key] = ObjectFacts(store.head(key).length, "0" * 64)
    found_wrong(liar, taken, "another SHA-256", sample=0.0, sample_blocks_min=0)
    liar.heads[key] = ObjectFacts(store.head(key).length, None)
    verify_of(liar, taken, sample=0.0, sample_blocks_min=0)


def test_rotten_bytes_are_found_when_their_block_is_read_back(store: Store, taken: Taken) -> None:
    record = next(manifest_of(store).packs())
    key, blocks = pack_key("u_alice", record.pack_id), record.blocks
    data = store.read(key)
    for block in blocks:
        at = block.offset + block.span // 2
        rewrite(store, key, data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        liar = Lying(store)
        liar.heads[key] = ObjectFacts(len(data), None)
        error = found_wrong(liar, taken, f"{key}, block at {block.offset}")
        assert len(error.problems) == 1


def test_a_sample_reads_that_share_and_the_seed_chooses_it(store: Store, workspace: Path) -> None:
    put(workspace / "large", noise(30 << 20))
    taken = take_of(workspace, store)

    def read(**options: object) -> tuple[int, set[tuple[str, int, int | None]]]:
        liar = Lying(store)
        verified = verify_of(liar, taken, **options)
        return verified.blocks_read, {read for read in liar.reads if "/p/" in read[0]}

    assert read(sample=0.1, sample_blocks_min=0, seed=1)[0] == 3
    assert read(sample=0.1, sample_blocks_min=0, seed=1) == read(sample=0.1, sample_blocks_min=0, seed=1)
    assert (
        read(sample=0.1, sample_blocks_min=0, seed=1)[1] != read(sample=0.1, sample_blocks_min=0, seed=2)[1]
    )
    assert read(sample=0.0, sample_blocks_min=16)[0] == 16
    assert read(sample=0.0, sample_blocks_min=1_000)[0] == 30
    assert read(sample=1.0, sample_blocks_min=0)[0] == 30


def test_packs_of_older_generations_are_asked_for_too(store: Store, workspace: Path, taken: Taken) -> None:
    put(workspace / "added", noise(5_000, 9))
    second = take_of(workspace, store, "s_2", parent=manifest_of(store))
    verify_of(store, second)
    old = next(plan.key for plan in taken.new_objects if "/p/" in plan.key)
    store.delete(old)
    found_wrong(store, second, f"{old} is missing")


def test_a_chunk_that_no_pack_has_is_found(store: Store) -> None:
    pack = pack_of(store, b"data")
    key = forge(store, [file(b"a", b"data"), file(b"b", b"lost"), file(b"c", b"data")], [pack])
    taken = take_like(store, key)
    error = found_wrong(store, taken, "b needs a chunk of 4 bytes that no pack of the snapshot has")
    assert len(error.problems) == 1


def test_a_chunk_with_another_length_than_its_file_says_is_found(store: Store) -> None:
    pack = pack_of(store, b"data")
    entry = file(b"a", b"data")
    short = entry._replace(size=3, extents=((entry.extents[0][0], 3),))
    found_wrong(store, take_like(store, forge(store, [short], [pack])), "a needs a chunk of 3 bytes")


def test_wrong_sums_and_a_wrong_content_id_are_found(store: Store) -> None:
    pack = pack_of(store, b"data")
    key = forge(store, [file(b"a", b"data")], [pack], content_id=b"x" * 32)
    found_wrong(store, take_like(store, key), "content id")
    store.delete(key)
    root_key = forge(store, [file(b"a", b"data")], [pack])
    totals = manifest_of(store).root.totals
    store.delete(root_key)
    key = forge(store, [file(b"a", b"data")], [pack], totals=totals._replace(logical_bytes=5, packs=2))
    error = found_wrong(store, take_like(store, key), "logical_bytes")
    assert len(error.problems) == 2


def test_a_pack_named_twice_is_found(store: Store) -> None:
    pack = pack_of(store, b"data")
    found_wrong(store, take_like(store, forge(store, [file(b"a", b"data")], [pack, pack])), "named twice")


def test_another_root_than_the_announced_one_is_found(store: Store, workspace: Path, taken: Taken) -> None:
    rolled_back = take_of(workspace, store, "s_2")
    found_wrong(store, taken, "not the root that was announced", expected_root_sha256=rolled_back.root_sha256)


def test_another_owners_key_or_id_is_refused(store: Store, taken: Taken) -> None:
    found_wrong(store, taken, "does not belong to owner u_bob", owner_id="u_bob")
    found_wrong(store, taken, "seal", owner_key=OTHER_KEY)


def test_every_problem_is_listed_up_to_a_hundred(store: Store) -> None:
    pack = pack_of(store, b"data")
    entries = [file(b"%03d" % n, b"lost") for n in range(150)]
    error = found_wrong(store, take_like(store, forge(store, entries, [pack])), "and 97 more")
    assert len(error.problems) == 100


def test_a_store_that_cannot_be_asked_is_no_verdict(store: Store, taken: Taken) -> None:
    liar = Lying(store)
    for key in keys_of(store, "p"):
        liar.heads[key] = StoreBusy("come back later", retry_after_s=3)
    with pytest.raises(StoreBusy):
        verify_of(liar, taken)


def test_a_verification_can_be_cancelled(store: Store, taken: Taken) -> None:
    with pytest.raises(Cancelled):
        verify_of(store, taken, cancelled=lambda: True)


def take_like(store: Store, root_key: str) -> Taken:
    """What an agent that forged this root would report."""
    import hashlib

    stored = store.read(root_key)
    return Taken(
        root_key=root_key,
        root_sha256=hashlib.sha256(stored).hexdigest(),
        root_length=len(stored),
        content_id="",
        entries=0,
        files=0,
        logical_bytes=0,
        stored_bytes=0,
        referenced_bytes=0,
        new_packs=0,
        new_objects=(),
        warnings=(),
        seconds=0.0,
    )
