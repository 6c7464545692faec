"""One launcher for a data folder."""

import os
import subprocess
import sys

import pytest

from config.launcher.lockfile import AlreadyRunning, Lock

HOLD = """
import pathlib, sys
from config.launcher.lockfile import Lock
lock = Lock.take(pathlib.Path(sys.argv[1]))
lock.tell(url="http://127.0.0.1:8123/")
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock of tmp_path."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdin.close()
    process.stdout.close()


def test_second_launcher_is_told_where_the_first_one_is(tmp_path, holder):
    with pytest.raises(AlreadyRunning) as refused:
        Lock.take(tmp_path)
    assert refused.value.pid == holder.pid
    assert "http://127.0.0.1:8123/" in str(refused.value)
    assert f"kill {holder.pid}" in str(refused.value)


def test_killed_launcher_leaves_no_lock_behind(tmp_path, holder):
    holder.kill()
    holder.wait()
    lock = Lock.take(tmp_path)
    assert lock.pid == os.getpid()
    os.close(lock.fd)
