"""`python -m tests.chaos.celery_main …` is `celery …`, the real app and the real tasks, with points to die at.

    claimed     the step is claimed, nothing of it has happened
    held-N      the step's N-th transaction has committed
    unrung      the agent was asked, and its bell not rung
    created     the provider has created the box, and nothing is written down
    destroyed   the provider was asked to destroy the box, and nothing is written down
    read        the whole generation was read back, and nothing is written down
    verified    the generation is verified, the chain does not know
    looked      the recheck has looked
    gone        the box is seen to be gone and marked so, the chain does not know
    done        the step has done everything; its outcome is not written down
    settled     its outcome is written down; the next step is not rung

A child dies together with its parent, as a machine would lose both; with `-child` behind the name it dies alone.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any

import django
from celery.__main__ import main

from tests.chaos.points import Points, die

points = Points(Path(os.environ["DORMOUSE_DATA_DIR"]))


class Present:
    """What this process is doing. A prefork child does one thing at a time."""

    run: Any = None
    step: str = ""
    held: int = 0
    settling: bool = False


present = Present()


def reach(point: str) -> None:
    """Die here, if a test has armed this point for this instance, chain and step."""
    if present.run is None:
        return
    chain = present.run.chain
    name = f"{chain.subject_id}:{chain.kind}:{present.step}:{point}"
    if points.take(name):
        die(parent=True)
    if points.take(f"{name}-child"):
        die(parent=False)


def after(point: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def wrap(function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def wrapped(*args: Any, **named: Any) -> Any:
            result = function(*args, **named)
            reach(point)
            return result

        return wrapped

    return wrap


def replace(owner: Any, name: str, wrap: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    setattr(owner, name, wrap(getattr(owner, name)))


def perform_watched(perform: Callable[..., Any]) -> Callable[..., Any]:
    def watched(run: Any) -> Any:
        present.run, present.step, present.held = run, run.chain.step, 0
        reach("claimed")
        return perform(run)

    return watched


def settle_watched(settle: Callable[..., None]) -> Callable[..., None]:
    from core.chains import Again

    def watched(run: Any, outcome: Any) -> None:
        moves = not isinstance(outcome, Again)
        if moves:
            reach("done")
        present.settling = moves
        settle(run, outcome)
        if moves:  # after the last step nothing is rung
            reach("settled")
        present.settling = False
        present.run = None

    return watched


def send_watched(send: Callable[..., None]) -> Callable[..., None]:
    def watched(*args: Any) -> None:
        if present.settling:
            reach("settled")
        send(*args)

    return watched


def bell_watched(send: Callable[..., None]) -> Callable[..., None]:
    def watched(*args: Any) -> None:
        reach("unrung")
        send(*args)

    return watched


def holding_watched(holding: Callable[..., Any]) -> Callable[..., Any]:
    @contextmanager
    def watched(self: Any) -> Iterator[None]:
        with holding(self):
            yield
        present.held += 1
        reach(f"held-{present.held}")

    return watched


def watch() -> None:
    """Every name that is wrapped must exist: a point that nobody passes any more fails the tests that arm it."""
    from core import chains, doorbell
    from hibernation.chains import hibernate
    from hibernation.providers.local import LocalProvider
    from hibernation.services import pursuit
    from snapshots.services import verifying

    replace(chains, "perform", perform_watched)
    replace(chains, "settle", settle_watched)
    replace(chains.Run, "holding", holding_watched)
    replace(doorbell, "_send", send_watched)
    replace(doorbell, "_send_to_worker", bell_watched)
    replace(LocalProvider, "create", after("created"))
    replace(LocalProvider, "destroy", after("destroyed"))
    replace(verifying, "verify", after("read"))
    replace(verifying, "snapshot_verify", after("verified"))
    replace(hibernate, "obstacle", after("looked"))
    replace(pursuit, "box_gone", after("gone"))


if __name__ == "__main__":
    django.setup()
    watch()
    sys.exit(main())
