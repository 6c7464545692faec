"""A child's output reaches the control plane although this machine stumbles over its own file."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agent import logs
from agent.backoff import Backoff
from agent.client import Client, Http
from agent.identity import Keyring, enrol, load
from agent.logs import STUCK_AFTER, LogShipper
from tests.agent.control_plane import ControlPlane


@pytest.fixture
def shipper(plane: ControlPlane, tmp_path: Path) -> Iterator[Callable[[Path], LogShipper]]:
    http = Http(plane.url)
    enrol(http=http, token="join-1", name="", provider="", state_dir=tmp_path, gpus=(), session_runtime_hours=0)  # fmt: skip
    identity = load(tmp_path)
    assert identity is not None
    keyring = Keyring(
        http=http,
        identity=identity,
        state_dir=tmp_path,
        on_settings=lambda settings: None,
        on_refused=lambda error: None,
    )
    client = Client(http, keyring)
    yield lambda path: LogShipper(
        client=client, dispatch_id="d_1", fence=1, path=path, backoff=Backoff(cap_s=0.01)
    )
    http.close()


def no_descriptor(times: int) -> Callable[..., Any]:
    """`open` as it is in a process that has none left, so many times."""
    left = [times]

    def open_or_not(*arguments: Any) -> Any:
        if left[0]:
            left[0] -= 1
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return open(*arguments)

    return open_or_not


def test_output_arrives_whole_after_a_shortage_of_descriptors(
    plane: ControlPlane,
    tmp_path: Path,
    shipper: Callable[[Path], LogShipper],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    job = plane.dispatch("d_1", ring=False)
    (tmp_path / "log").write_bytes(b"all of it")
    monkeypatch.setattr(logs, "open", no_descriptor(3), raising=False)
    shipping = shipper(tmp_path / "log")
    shipping.complete()
    shipping.start()
    shipping.join(10)
    assert not shipping.is_alive() and job.log == b"all of it"


def test_a_file_that_stays_unreadable_does_not_hold_the_report_back(
    plane: ControlPlane,
    tmp_path: Path,
    shipper: Callable[[Path], LogShipper],
    caplog: pytest.LogCaptureFixture,
) -> None:
    job = plane.dispatch("d_1", ring=False)
    shipping = shipper(tmp_path)  # a folder: reading it fails each time
    shipping.complete()
    shipping.start()
    shipping.join(10)
    assert not shipping.is_alive() and not job.log and not shipping.stood_down.is_set()
    assert caplog.text.count("log cannot be read") == STUCK_AFTER - 1
