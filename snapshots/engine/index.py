"""Which block of which pack holds a chunk."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from snapshots.engine.fields import refuse
from snapshots.engine.pack import BlockRecord, PackRecord


class Place(NamedTuple):
    """A block: number `block` of pack `pack` in the index's own order."""

    pack: int
    block: int


class ChunkIndex:
    """Chunk id → place and length. Where two packs hold a chunk, the first counts. `blocks`: the place of every block."""

    def __init__(self, packs: Iterable[PackRecord]) -> None:
        self.packs: list[PackRecord] = []
        self.blocks: list[Place] = []
        self._chunks: dict[bytes, tuple[int, int]] = {}
        for record in packs:
            number = len(self.packs)
            self.packs.append(record)
            for position, block in enumerate(record.blocks):
                place = len(self.blocks)
                self.blocks.append(Place(number, position))
                for chunk in block.chunks():
                    self._chunks.setdefault(chunk.chunk_id, (place, chunk.length))

    def __contains__(self, chunk_id: bytes) -> bool:
        return chunk_id in self._chunks

    def __len__(self) -> int:
        return len(self._chunks)

    def length(self, chunk_id: bytes) -> int | None:
        """The chunk's raw length, None if no pack has it."""
        found = self._chunks.get(chunk_id)
        return None if found is None else found[1]

    def place(self, chunk_id: bytes) -> Place:
        """Raises KeyError."""
        return self.blocks[self._chunks[chunk_id][0]]

    def block(self, place: Place) -> BlockRecord:
        return self.packs[place.pack].blocks[place.block]

    def block_of(self, chunk_id: bytes) -> BlockRecord | None:
        """The block that holds this chunk, None if no pack has it."""
        found = self._chunks.get(chunk_id)
        return None if found is None else self.block(self.blocks[found[0]])

    def check_bases(self) -> None:
        """Every delta's base is here, as long as the delta, and no delta itself. Raises ManifestRefused."""
        for record in self.packs:
            for block in record.blocks:
                if not block.is_delta:
                    continue
                below = self.block_of(block.base_id)
                if below is None or below.is_delta or self.length(block.base_id) != block.lengths[0]:
                    refuse(
                        f"a delta in pack {record.pack_id.hex()} builds on chunk {block.base_id.hex()[:16]}, "
                        "which no pack has, or has with another length, or as a delta"
                    )
