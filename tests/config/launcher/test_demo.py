"""The demo is a promise to whoever tries this for the first time: it runs to its end, on every market that it knows."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from django.conf import settings

from config.launcher.demo.markets import MARKETS
from config.launcher.ports import next_free


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("market", sorted(MARKETS))
def test_the_whole_story_is_told(market: str) -> None:
    env = {name: value for name, value in os.environ.items() if not name.startswith(("DORMOUSE_", "DJANGO_"))}
    port = next_free("127.0.0.1", 18_500)
    done = subprocess.run(
        [sys.executable, "-m", "config.launcher", "demo", "--provider", market],
        cwd=settings.CHECKOUT,
        env={**env, "DORMOUSE_PORT": str(port), "NO_BROWSER": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert "compared by SHA-256, mode, mtime and hard links: 0 differences" in done.stdout
    assert "did not end by itself" not in done.stdout
