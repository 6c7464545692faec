"""`./run lock`: the hashed locks, from requirements/*.in. One file each for Python 3.11 to 3.13 on every platform."""

from __future__ import annotations

import shutil
import subprocess
import sys

SERVER, DEV = "requirements.txt", "requirements-dev.txt"
LOCKS = (
    ("requirements/server.in", SERVER, ()),
    ("requirements/dev.in", DEV, ("--constraint", SERVER)),  # the tests run on what the server runs on
    ("requirements/kaggle-cli.in", "requirements/kaggle-cli.txt", ()),  # in an environment of its own
    ("requirements/vast-cli.in", "requirements/vast-cli.txt", ()),  # in an environment of its own
)


def lock() -> int:
    """Rewrite all; pins stay where they still fit (delete a lock to take everything newest). Needs uv."""
    uv = shutil.which("uv")
    if uv is None:
        print(
            "./run lock needs uv on PATH: pip is not able to lock for several Pythons at once.",
            file=sys.stderr,
        )
        return 1
    for source, target, more in LOCKS:
        # Without an index address: whoever installs asks the registry, or the mirror, that he is set up for.
        subprocess.run(
            [uv, "pip", "compile", "--quiet", "--universal", "--python-version", "3.11", "--generate-hashes",
             "--no-emit-index-url", "--no-emit-find-links", "--no-header", *more, source, "--output-file", target],
            check=True,
        )  # fmt: skip
        print(f"{target} written from {source}")
    return 0
