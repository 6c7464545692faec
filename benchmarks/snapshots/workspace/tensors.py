"""Weights that look trained, in the containers that hold them.

Synthetic bf16 of this kind keeps 66.8 % under byte planes, weights of a real sentence encoder 66.5 %: it is a fair stand-in.
"""

from __future__ import annotations

import json
import math
import struct
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.snapshots.workspace.seeds import rng

BYTES = {"F32": 4, "BF16": 2, "F16": 2}
Array = np.ndarray


class Layer(NamedTuple):
    name: str
    rows: int
    columns: int
    sigma: float


def decoder_layers(values: int, width: int) -> list[Layer]:
    """The matrices of a small transformer decoder with about that many values."""
    found = [Layer("model.embed_tokens.weight", max(1024, int(values * 0.12 / width)), width, 0.015)]
    inner = width * 8 // 3
    count = max(1, round(values * 0.88 / (4 * width * width + 3 * width * inner)))
    for number in range(count):
        sigma, name = 0.022 / math.sqrt(1 + number / 4), f"model.layers.{number}"
        for part in "qkvo":
            found.append(
                Layer(
                    f"{name}.self_attn.{part}_proj.weight", width, width, sigma * (1.3 if part in "qk" else 1)
                )
            )
        found += [
            Layer(f"{name}.mlp.gate_proj.weight", inner, width, sigma),
            Layer(f"{name}.mlp.up_proj.weight", inner, width, sigma),
            Layer(f"{name}.mlp.down_proj.weight", width, inner, sigma),
        ]
    return found


def weights(name: str, rows: int, columns: int, sigma: float) -> Array:
    """Normal values, the rows' scales spread log-normally, a few columns much larger than the rest."""
    random = rng("weights", name)
    found = random.standard_normal((rows, columns), dtype=np.float32)
    found *= (sigma * np.exp(0.35 * random.standard_normal((rows, 1)))).astype(np.float32)
    found[:, random.integers(0, columns, max(1, columns // 256))] *= 6.0
    return found


def to_bf16(values: Array) -> Array:
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def write_safetensors(
    path: Path, tensors: Sequence[tuple[str, tuple[int, ...], Callable[[], Array]]], dtype: str
) -> None:
    """The public layout, one tensor in memory at a time."""
    head: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, shape, _ in tensors:
        length = math.prod(shape) * BYTES[dtype]
        head[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, offset + length]}
        offset += length
    text = json.dumps(head, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _, _, make in tensors:
            file.write(memoryview(np.ascontiguousarray(make())).cast("B"))


def read_safetensors(raw: bytes) -> list[tuple[str, tuple[int, ...], Array]]:
    """The fp32 tensors of a file."""
    (length,) = struct.unpack("<Q", raw[:8])
    head, body = json.loads(raw[8 : 8 + length]), raw[8 + length :]
    return [
        (name, tuple(facts["shape"]), np.frombuffer(body[slice(*facts["data_offsets"])], np.float32))
        for name, facts in head.items()
        if name != "__metadata__" and facts["dtype"] == "F32"
    ]


def write_torch_zip(path: Path, arrays: Sequence[tuple[str, Array]]) -> None:
    """A stored zip with the members of torch.save, aligned to 64 bytes as it does; the pickle is a stand-in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:

        def put(name: str, data: bytes | memoryview) -> None:
            info = zipfile.ZipInfo(f"archive/{name}", (1980, 1, 1, 0, 0, 0))
            assert archive.fp is not None
            padding = -(archive.fp.tell() + 30 + len(info.filename) + 4) % 64
            info.extra = b"FB" + struct.pack("<H", padding) + b"Z" * padding
            archive.writestr(info, data)

        put("data.pkl", json.dumps([[name, list(array.shape)] for name, array in arrays]).encode())
        put("byteorder", b"little")
        for number, (_, array) in enumerate(arrays):
            put(f"data/{number}", memoryview(np.ascontiguousarray(array)).cast("B"))
        put("version", b"3\n")
