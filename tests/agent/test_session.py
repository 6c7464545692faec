"""The session's runtime only ever grows, whatever clocks do; and ends are asked for safely."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from agent import session
from agent.errors import Interrupted, Superseded
from agent.hold import Halt, Hold
from agent.session import Ending, EndingRequests, SessionClock, limit_reached
from agent.wire import Claimed


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "session.json"


def test_runtime_goes_on_through_a_restart_and_a_wall_clock_that_jumps(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr(session, "boot_clock_s", lambda: now[0])
    clock = SessionClock(path=file, epoch=1, started=None)
    now[0] += 7200
    assert clock.runtime_hours() == 2.0
    # time.time() is not asked at all after the start: a clock set forward or back changes nothing
    monkeypatch.setattr(time, "time", lambda: 0.0)
    again = SessionClock(path=file, epoch=1, started=None)
    now[0] += 3600
    assert again.runtime_hours() == 3.0 == clock.runtime_hours()


def test_session_start_that_the_provider_gives_counts_and_stays(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [50.0]
    monkeypatch.setattr(session, "boot_clock_s", lambda: now[0])
    started = datetime.now(UTC) - timedelta(hours=5)
    clock = SessionClock(path=file, epoch=1, started=started)
    assert abs(clock.runtime_hours() - 5) < 0.01
    now[0] += 3600
    again = SessionClock(path=file, epoch=1, started=started)
    assert again.runtime_hours() == clock.runtime_hours()
    other = SessionClock(path=file, epoch=1, started=started + timedelta(hours=4))
    assert abs(other.runtime_hours() - 1) < 0.01


def test_another_boot_or_epoch_is_another_session(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [5000.0]
    monkeypatch.setattr(session, "boot_clock_s", lambda: now[0])
    monkeypatch.setattr(session, "boot_id", lambda: "first")
    SessionClock(path=file, epoch=1, started=None)
    now[0] += 100
    assert SessionClock(path=file, epoch=2, started=None).runtime_s() == 0
    now[0] += 100
    assert SessionClock(path=file, epoch=2, started=None).runtime_s() == 100
    monkeypatch.setattr(session, "boot_id", lambda: "second")
    assert SessionClock(path=file, epoch=2, started=None).runtime_s() == 0
    # a system that does not name its boots: a clock that is behind says it
    monkeypatch.setattr(session, "boot_id", lambda: "")
    SessionClock(path=file, epoch=2, started=None)
    now[0] = 10.0
    assert SessionClock(path=file, epoch=2, started=None).runtime_s() == 0


def test_a_start_in_the_future_counts_from_now(file: Path) -> None:
    clock = SessionClock(path=file, epoch=1, started=datetime.now(UTC) + timedelta(hours=3))
    assert 0 <= clock.runtime_s() < 5


# -- ending ----------------------------------------------------------------------------------------


@pytest.fixture
def requests() -> Iterator[EndingRequests]:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    made = EndingRequests()
    made.install()
    yield made
    for number, handler in before.items():
        signal.signal(number, handler)


def test_a_signal_cuts_a_wait_short_only_where_that_is_allowed(requests: EndingRequests) -> None:
    seen = []
    requests.on_signal(lambda: seen.append(1))
    os.kill(os.getpid(), signal.SIGTERM)
    assert requests.asked and seen == [1]
    with pytest.raises(Interrupted), requests.interruptible():
        raise AssertionError("never entered: the end was asked for before")
    ending = requests.wait(0)
    assert ending is not None and ending.reason == "told to end by SIGTERM" and ending.exit_code == 0


def test_a_thread_wakes_the_main_thread_and_its_reason_comes_first(requests: EndingRequests) -> None:
    started = time.monotonic()
    threading.Timer(0.1, lambda: requests.refuse(Superseded("a newer box"))).start()
    with pytest.raises(Interrupted), requests.interruptible():
        time.sleep(30)
    assert time.monotonic() - started < 5
    ending = requests.wait(1)
    assert ending is not None and ending.silent and ending.exit_code == 3 and ending.reason == "a newer box"


def test_nohup_keeps_its_promise(monkeypatch: pytest.MonkeyPatch) -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    try:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        EndingRequests().install()
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# -- what cuts work short ----------------------------------------------------------------------------


def hold() -> Hold:
    return Hold(Claimed(dispatch_id="d_1", kind="job", fence=1, lease_s=60, work={}))


def test_the_stronger_reason_wins() -> None:
    held = hold()
    assert held.halt is None
    held.end(limit_reached(11.5))
    assert held.halt is Halt.INTERRUPTED
    held.cancel()
    assert held.halt is Halt.CANCELLED
    held.supersede()
    assert held.halt is Halt.STAND_DOWN and not held.may_report()
    assert held.grace_left_s(own_grace_s=60, since_s=time.monotonic()) == 0


def test_grace_shrinks_with_the_agents_own_end_and_the_report_has_its_time_after_the_work() -> None:
    held = hold()
    since_s = time.monotonic()
    assert 59 < held.grace_left_s(own_grace_s=60, since_s=since_s) <= 60
    held.end(Ending(reason="r", exit_code=0, grace_s=4, report_s=0.2))
    assert 3 < held.grace_left_s(own_grace_s=60, since_s=since_s) <= 4
    assert held.grace_left_s(own_grace_s=1, since_s=since_s) <= 1
    assert held.may_report()
    time.sleep(0.25)
    assert not held.may_report()
    held.work_is_over()
    assert held.may_report()
    silent = hold()
    silent.end(Ending(reason="r", exit_code=3, grace_s=0, report_s=0, silent=True))
    assert silent.halt is Halt.STAND_DOWN
