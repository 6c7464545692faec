"""Random numbers that depend on a name and nothing else, and writing a file."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np

SEED = 20261121
EPOCH_S = 1_780_000_000
"""Every time in the tree is set from this, not from the clock."""


def rng(*key: object) -> np.random.Generator:
    digest = hashlib.sha256(f"{SEED}/{'/'.join(map(str, key))}".encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "little")))


def write(path: Path, data: bytes | memoryview, mode: int = 0o644) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    os.chmod(path, mode)
    return path
