"""The environment variables about what stays: jobs' artifacts and output, and what happened in the pool."""

from __future__ import annotations

from dataclasses import dataclass

from config.reader import Reader

GIB, MIB = 1024**3, 1024**2


@dataclass(frozen=True, kw_only=True)
class Jobs:
    """Bounds of one attempt's artifacts and output, and how long they stay after its end (0 days: for ever).

    events_days: how long it is known what happened to workers and accounts.
    """

    artifacts_at_most: int
    artifact_bytes: int
    artifacts_bytes: int
    log_bytes: int
    files_days: float
    events_days: float


def jobs_read(reader: Reader) -> Jobs:
    artifact_gib = reader.number(
        "DORMOUSE_ARTIFACT_GIB", 16, low=0.001, high=1024, unit="a number of GiB", id="E036"
    )
    return Jobs(
        artifacts_at_most=reader.whole(
            "DORMOUSE_ARTIFACTS_AT_MOST", 1_000, low=1, high=10_000, unit="a number of files", id="E036"
        ),
        artifact_bytes=int(artifact_gib * GIB),
        artifacts_bytes=int(
            GIB
            * reader.number(
                "DORMOUSE_ARTIFACTS_GIB", 64, low=0.001, high=16_384, unit="a number of GiB", id="E036"
            )
        ),
        log_bytes=MIB
        * reader.whole("DORMOUSE_JOB_LOG_MIB", 1_024, low=1, high=65_536, unit="a number of MiB", id="E036"),
        files_days=reader.number(
            "DORMOUSE_JOB_FILES_DAYS", 30, low=0, high=36_500, unit="a number of days, 0 for ever", id="E036"
        ),
        events_days=reader.number(
            "DORMOUSE_EVENTS_DAYS", 365, low=0, high=36_500, unit="a number of days, 0 for ever", id="E036"
        ),
    )
