"""The trees of format version 1's golden snapshots of floats. Never change this file: old snapshots do not change either.

How they were made, once, in an empty folder:

    build_floats(w, 1); take(w, …, owner_key=KEY, owner_id="u_golden", snapshot_id="s_floats", stat_index=i)
    build_floats(w, 2); take(w, …, snapshot_id="s_delta", parent=<s_floats>, stat_index=i)
    take(w, …, snapshot_id="s_sealed", encrypt=True)
"""

from __future__ import annotations

import os
import random
import struct
from pathlib import Path

ROWS, COLUMNS = 140, 1_024
T0_NS = 1_763_000_000_000_000_000


def build_floats(root: Path, step: int) -> None:
    """Four rows of five are zeros, as in an embedding's moments. Step 2 has other values in three rows."""
    for number in range(1, step + 1):
        folder = root / f"step-{number}"
        folder.mkdir(exist_ok=True)
        words = [_row(row, number if number == 2 and row in (0, 65, 130) else 1) for row in range(ROWS)]
        (folder / "weights.fp32").write_bytes(b"".join(words))
        (folder / "weights.bf16").write_bytes(_bf16(words * 2))
    (root / "note.txt").write_bytes(b"two steps of training\n" * step)
    for folder, folders, files in os.walk(root):
        for name in (*folders, *files):
            os.utime(os.path.join(folder, name), ns=(T0_NS, T0_NS))
            os.chmod(os.path.join(folder, name), 0o755 if name in folders else 0o644)
    os.utime(root, ns=(T0_NS, T0_NS))
    os.chmod(root, 0o755)


def _row(row: int, seed: int) -> bytes:
    if row % 5:
        return bytes(4 * COLUMNS)
    chance = random.Random(row * 10 + seed)
    values = [(chance.random() + chance.random() + chance.random() - 1.5) * 0.02 for _ in range(COLUMNS)]
    return struct.pack(f"<{COLUMNS}f", *values)


def _bf16(rows: list[bytes]) -> bytes:
    """The upper halves, after one odd byte, so that words begin at an odd offset."""
    words = b"".join(rows)
    halves = bytearray(len(words) // 2)
    halves[0::2], halves[1::2] = words[2::4], words[3::4]
    return b"!" + bytes(halves)
