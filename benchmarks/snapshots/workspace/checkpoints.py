"""A training run's checkpoints: step 2000 is step 1000 with a tenth of the rows moved, or a file whose every value moved."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np

from benchmarks.snapshots.workspace.seeds import rng, write
from benchmarks.snapshots.workspace.tensors import (
    Array,
    Layer,
    decoder_layers,
    weights,
    write_safetensors,
    write_torch_zip,
)

FIRST_STEP, SECOND_STEP = 1000, 2000


def write_checkpoint(root: Path, step: int, scale: float) -> list[Path]:
    """Model and optimizer state (Adam's two moments) of this step, in fp32."""
    layers = decoder_layers(int(42e6 * scale), 768)
    folder = root / f"checkpoints/step-{step}"
    write_safetensors(
        folder / "model.safetensors",
        [
            (layer.name, (layer.rows, layer.columns), lambda at=(number, layer): _tensor("w", *at, step))
            for number, layer in enumerate(layers)
        ],
        "F32",
    )
    moments = []
    for number, layer in enumerate(layers):
        moments.append((f"{layer.name}.exp_avg", _tensor("m", number, layer, step)))
        moments.append((f"{layer.name}.exp_avg_sq", _tensor("v", number, layer, step)))
    write_torch_zip(folder / "optimizer.pt", moments)
    history = [{"loss": round(3 * math.exp(-at / 700) + 1.1, 5), "step": at} for at in range(0, step, 5)]
    write(
        folder / "trainer_state.json",
        json.dumps({"global_step": step, "log_history": history}, indent=1).encode(),
    )
    write(folder / "rng_state.pth", rng("rng state", step).bytes(14_244))
    return sorted(folder.iterdir())


def write_latest(root: Path, step: int, scale: float) -> Path:
    """A checkpoint under one name for ever: each step moves every value by about 0.3 %."""
    values = weights("latest", int(12e6 * scale) // 1024, 1024, 0.02)
    for number in range(1, step):
        noise = rng("latest step", number).standard_normal(values.shape, dtype=np.float32)
        values += values * noise * np.float32(0.003)
    path = root / "checkpoints/latest.pt"
    write_torch_zip(path, [("w", values)])
    return path


def _tensor(kind: str, number: int, layer: Layer, step: int) -> Array:
    name, rows, columns, sigma = layer
    if kind == "w":
        found = weights(f"checkpoint {name}", rows, columns, sigma)
    elif kind == "m":
        found = weights(f"moment {name}", rows, columns, sigma * 3e-4)
    else:
        found = np.square(weights(f"second moment {name}", rows, columns, sigma * 3e-3))
    if kind != "w" and "embed" in name:  # tokens that training never saw
        found[rng("unseen", name).permutation(rows)[: rows * 3 // 10]] = 0
    if step == SECOND_STEP and len(moved := _moved_rows(name, number, rows)):
        noise = rng("second step", kind, name).standard_normal((len(moved), columns), dtype=np.float32)
        if kind == "w":
            found[moved] += noise * np.float32(sigma * 0.02)
        elif kind == "m":
            found[moved] = noise * np.float32(sigma * 3e-4)
        else:
            found[moved] = np.square(noise * np.float32(sigma * 3e-3))
    return found


def _moved_rows(name: str, number: int, rows: int) -> Array:
    """A third of the tensors is frozen, a third moves in runs of rows, a third in rows scattered all over."""
    random = rng("moved", name)
    if number % 3 == 0 and number:
        return np.zeros(0, np.int64)
    count = max(1, rows // 10)
    if number % 2 == 0:
        return np.sort(random.permutation(rows)[:count])
    length = max(1, count // 3)
    starts = random.integers(0, max(1, rows - length), 3)
    return np.unique(np.concatenate([np.arange(at, min(rows, at + length)) for at in starts]))
