"""The tree as the first snapshot finds it."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import struct
import zlib
from pathlib import Path

import numpy as np

from benchmarks.snapshots.workspace.checkpoints import FIRST_STEP, write_checkpoint, write_latest
from benchmarks.snapshots.workspace.packages import copy_packages, real_weights
from benchmarks.snapshots.workspace.seeds import rng, write
from benchmarks.snapshots.workspace.tensors import (
    decoder_layers,
    read_safetensors,
    to_bf16,
    weights,
    write_safetensors,
)
from benchmarks.snapshots.workspace.text import jpeg_like, log_lines, records, source_file
from benchmarks.snapshots.workspace.times import settle

IMAGES = 2_000
SHARD = "models/llm-bf16/model-0000{}-of-00002.safetensors"


def build(root: Path, *, scale: float, packages: bool, cache: Path) -> None:
    """About 3.1 GB in 28,500 entries at scale 1.0; without packages (and real weights) 2 GB in 2,200."""
    root.mkdir(parents=True)
    _models(root, scale)
    if packages:
        _real_models(root, cache)
        copy_packages(root, cache)
    _duplicates(root)
    write_checkpoint(root, FIRST_STEP, scale)
    write_latest(root, 1, scale)
    _data(root, scale)
    for number in range(60):
        write(
            root / f"src/project/pkg{number % 6}/mod_{number:03d}.py",
            source_file(number, 2_000 + 400 * number),
        )
    write(root / "src/project/train.sh", b"#!/bin/sh\nexec python -m project\n", 0o755)
    for number in range(4):
        write(root / f"logs/train-{number}.log", log_lines(number, int(9e6 * scale)))
    _odd(os.fsencode(root) + b"/odd")
    settle(root)


def write_images(root: Path, first: int, last: int) -> list[Path]:
    sizes = rng("image sizes").integers(20_000, 120_000, 4_000)
    return [
        write(
            root / f"data/images/{number % 40:02d}/img_{number:05d}.jpg",
            jpeg_like(number, int(sizes[number % 4_000])),
        )
        for number in range(first, last)
    ]


def _models(root: Path, scale: float) -> None:
    layers = decoder_layers(int(230e6 * scale), 1536)
    half = len(layers) // 2
    for number, part in enumerate((layers[:half], layers[half:]), 1):
        tensors = [
            (layer.name, (layer.rows, layer.columns), lambda layer=layer: to_bf16(weights(*layer)))
            for layer in part
        ]
        write_safetensors(root / SHARD.format(number), tensors, "BF16")
    folder = root / "models/llm-bf16"
    write(
        folder / "config.json",
        json.dumps({"hidden_size": 1536, "torch_dtype": "bfloat16"}, indent=2).encode(),
    )
    vocabulary = {f"tok{number}": number for number in range(60_000)}
    write(folder / "tokenizer.json", json.dumps({"vocab": vocabulary}, indent=1).encode())
    halves = [
        (
            f"u.{number}.weight",
            (1024, 1024),
            lambda number=number: weights(f"diffusion {number}", 1024, 1024, 0.03).astype(np.float16),
        )
        for number in range(max(1, int(30 * scale)))
    ]
    write_safetensors(root / "models/sd-fp16/unet.safetensors", halves, "F16")


def _real_models(root: Path, cache: Path) -> None:
    raw = real_weights(cache)
    tensors = read_safetensors(raw)
    write(root / "models/real-minilm/model.safetensors", raw)
    for name, dtype, cast in (
        ("bf16", "BF16", to_bf16),
        ("fp16", "F16", lambda array: array.astype(np.float16)),
    ):
        write_safetensors(
            root / f"models/real-minilm-{name}/model.safetensors",
            [(key, shape, lambda array=array, cast=cast: cast(array)) for key, shape, array in tensors],
            dtype,
        )


def _duplicates(root: Path) -> None:
    """A byte copy, a hard link, and a download cache of blobs with links to them."""
    copy = root / "models/llm-bf16-copy/model-00002-of-00002.safetensors"
    copy.parent.mkdir()
    shutil.copyfile(root / SHARD.format(2), copy)
    os.link(root / "models/sd-fp16/unet.safetensors", root / "models/sd-fp16/unet.hardlink.safetensors")
    hub = root / ".cache/huggingface/hub/models--demo--tiny"
    blob = rng("blob").bytes(3_000_000)
    name = hashlib.sha256(blob).hexdigest()
    write(hub / "blobs" / name, blob)
    (hub / "snapshots/abc123").mkdir(parents=True)
    os.symlink(f"../../blobs/{name}", hub / "snapshots/abc123/model.bin")


def _data(root: Path, scale: float) -> None:
    write_images(root, 0, int(IMAGES * scale))
    for number in range(2):
        body = io.BytesIO()
        for part in range(max(1, int(40 * scale))):
            body.write(zlib.compress(records(f"{number}.{part}", 3_000_000), 1))
        write(root / f"data/part-{number}.parquet", b"PAR1" + body.getvalue() + b"PAR1")
    tokens = np.minimum(rng("tokens").zipf(1.25, int(40e6 * scale)), 50_256).astype(np.uint16)
    write(root / "data/train.bin", tokens.tobytes())
    write(root / "data/notes.jsonl", records("notes", int(24e6 * scale)))
    with (root / "data/memmap.dat").open("wb") as file:
        file.truncate(int(256e6 * scale))
        file.seek(int(100e6 * scale))
        file.write(rng("sparse").bytes(1_000_000))
    events = (struct.pack("<QIfI", 24, at * 2654435761 % 2**32, 1 / (1 + at), at) for at in range(300_000))
    write(root / "wandb/run-1/events.out.tfevents", b"".join(events))


def _odd(base: bytes) -> None:
    """One of everything that a file system can hold."""

    def put(name: bytes, data: bytes = b"", mode: int = 0o644) -> None:
        with open(base + b"/" + name, "wb") as file:
            file.write(data)
        os.chmod(base + b"/" + name, mode)

    os.makedirs(base + b"/empty-dir/inner")
    put(b"empty")
    put(b"latin1-\xe9\xff.txt", b"not utf-8\n")
    put(b"new\nline", b"x\n")
    put(b"n" * 255, b"long\n")
    put(b"secret", b"k\n", 0o600)
    put(b"noaccess", b"k\n", 0o000)
    put(b"suid", b"#!/bin/sh\n", 0o4755)
    put("日本語 ✓".encode(), b"utf8\n")
    os.symlink(b"/nonexistent/target", base + b"/dangling")
    os.symlink(b"empty-dir", base + b"/dirlink")
    os.mkfifo(base + b"/fifo", 0o640)
    os.makedirs(base + b"/" + b"/".join(b"deep%d" % number for number in range(40)))
    with open(base + b"/holes", "wb") as file:
        file.seek(3_000_000)
        file.write(b"middle")
        file.truncate(9_000_000)
    put(b"xattr", b"x\n")
    try:
        os.setxattr(base + b"/xattr", b"user.note", b"kept?\x00\xff")
    except OSError as error:
        print(f"no user attributes on this file system: {error.strerror}")
