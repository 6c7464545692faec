"""Logs, sources, records and blobs."""

from __future__ import annotations

import json

from benchmarks.snapshots.workspace.seeds import EPOCH_S, rng

WORDS = [
    "loss",
    "step",
    "epoch",
    "lr",
    "grad",
    "norm",
    "batch",
    "tokens",
    "per",
    "second",
    "cuda",
    "memory",
    "allocated",
    "reserved",
    "worker",
    "loader",
    "shard",
    "eval",
    "accuracy",
    "model",
    "layer",
    "attention",
    "warmup",
    "cosine",
    "decay",
    "checkpoint",
    "saved",
    "restored",
    "info",
    "warning",
    "debug",
    "trainer",
    "rank",
    "device",
    "host",
    "queue",
    "retry",
    "timeout",
    "dataset",
    "split",
    "train",
    "valid",
    "test",
    "sample",
    "index",
    "cache",
    "miss",
    "hit",
]


def log_lines(key: object, length: int) -> bytes:
    random, found, size, at_s = rng("log", key), [], 0, EPOCH_S
    while size < length:
        words, values = random.integers(0, len(WORDS), (256, 9)), random.random((256, 3))
        waits = random.integers(0, 4, 256)
        for row in range(256):
            at_s += int(waits[row])
            line = (
                f"{at_s}.{int(values[row, 0] * 1e6):06d} INFO rank0 {WORDS[words[row, 0]]} {WORDS[words[row, 1]]} "
                f"step={at_s - EPOCH_S} loss={values[row, 1] * 3:.6f} lr={values[row, 2] * 1e-4:.3e} "
                f"{' '.join(WORDS[word] for word in words[row, 2:])}\n"
            )
            found.append(line)
            size += len(line)
    return "".join(found).encode()[:length]


def source_file(key: object, length: int) -> bytes:
    random, found = rng("source", key), [f'"""{key}"""\nimport os\nimport sys\n']
    size = len(found[0])
    while size < length:
        verb, noun, first, second = (WORDS[word] for word in random.integers(0, len(WORDS), 4))
        number = int(random.integers(0, 9999))
        part = (
            f"\n\ndef {verb}_{noun}_{number}(self, {first}, {second}={number}):\n    if {first} is None:\n"
            f"        raise ValueError('{verb} {noun}: {first}')\n    return self.{second}({first} + {number % 17})\n"
        )
        found.append(part)
        size += len(part)
    return "".join(found).encode()


def records(key: object, length: int) -> bytes:
    """JSON, one object a line."""
    random, found, size, number = rng("records", key), [], 0, 0
    while size < length:
        words, counts = random.integers(0, len(WORDS), (128, 40)), random.integers(10, 40, 128)
        for row in range(128):
            text = " ".join(WORDS[word] for word in words[row, : counts[row]])
            line = json.dumps({"id": number, "text": text, "label": int(words[row, 0])}) + "\n"
            found.append(line)
            size, number = size + len(line), number + 1
    return "".join(found).encode()[:length]


def jpeg_like(key: object, length: int) -> bytes:
    head = b"\xff\xd8\xff\xe0\x00\x10JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x00\x00"
    return head + rng("image", key).bytes(length) + b"\xff\xd9"
