"""The project's own files, as the architecture tests read them."""

from __future__ import annotations

import ast
import subprocess
from functools import cache
from pathlib import Path

from django.conf import settings

ROOT: Path = settings.CHECKOUT
PACKAGES = ("agent", "config", "core", "gateway", "hibernation", "pool", "snapshots")


@cache
def files() -> tuple[Path, ...]:
    """Every file that belongs to the project: tracked, or new and not ignored."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return tuple(path for path in (ROOT / line for line in listed.stdout.splitlines()) if path.is_file())


def python_files(*packages: str) -> list[Path]:
    """The Python files of these packages, or all of them."""
    found = [path for path in files() if path.suffix == ".py"]
    return [path for path in found if not packages or path.relative_to(ROOT).parts[0] in packages]


def module_of(path: Path) -> str:
    """The dotted name of a file."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), filename=str(path))
