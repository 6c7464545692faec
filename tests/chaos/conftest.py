"""An installation whose Celery workers and agents can be told where to die, and that starts again what has died."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.installation import Installation

CELERY = ("-m", "tests.chaos.celery_main")
AGENT = "tests.chaos.agent_main"
MORE_WORKERS = 2


@pytest.fixture(scope="package")
def mortal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """Three workers for the chains, so that one which dies holds up nobody but its own chain."""
    made = Installation(
        tmp_path_factory.mktemp("chaos"), celery=CELERY, agent=AGENT, boxes=24, kept_up=True,
        seconds=["worker-chains"] * MORE_WORKERS,
    )  # fmt: skip
    try:
        yield made.start()
    finally:
        made.stop()
