"""Starting, awaiting and ending programs: with real ones, small."""

import os
import signal
import subprocess
import sys
import time

import pytest

from config.launcher.kernel import descendants
from config.launcher.processes import Failed, Program, Stage, StopAsked, Supervisor
from tests.config.processes import wait_for

linux = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc and prctl")

SLEEP = "import time; time.sleep(60)"
DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"


@pytest.fixture
def supervisor(tmp_path):
    made = Supervisor(cwd=tmp_path, logs=tmp_path / "logs")
    yield made
    for child in made.children:
        child.process.kill()
        child.process.wait()


def program(name, code, **more):
    return Program(name=name, command=[sys.executable, "-c", code], env=dict(os.environ), **more)


def test_program_that_ends_before_it_is_ready_is_named_with_the_end_of_its_log(supervisor):
    child = supervisor.start(program("web", "import sys; sys.exit('no such table')"))
    with pytest.raises(Failed, match=r"(?s)web ended with exit code 1 .*web\.log.*no such table"):
        supervisor.wait_until(child, lambda: False, limit_s=30)


def test_program_that_never_answers_is_named_with_the_time_it_had(supervisor):
    child = supervisor.start(program("web", SLEEP))
    with pytest.raises(Failed, match=r"web was not ready within 0\.1 s"):
        supervisor.wait_until(child, lambda: False, limit_s=0.1)


def test_log_of_an_earlier_run_is_not_taken_for_this_ones(supervisor):
    for _ in range(2):
        child = supervisor.start(program("worker", "print('ready.')"))
        child.process.wait()
        assert child.said() == b"ready.\n"


def test_server_that_dies_is_a_failure_and_an_agent_that_dies_is_news(supervisor):
    agent = supervisor.start(program("sim-gpu-1", "pass", server=False))
    agent.process.wait()
    assert [child.program.name for child in supervisor.look()] == ["sim-gpu-1"]
    assert supervisor.look() == []
    server = supervisor.start(program("beat", "import os; os.kill(os.getpid(), 9)"))
    server.process.wait()
    with pytest.raises(Failed, match="beat ended with signal SIGKILL"):
        supervisor.look()


def test_program_that_cannot_be_found_is_named(supervisor):
    with pytest.raises(Failed, match="gateway cannot be started"):
        supervisor.start(Program(name="gateway", command=["/no/such/program"], env={}))


def test_command_answers_with_its_output_and_fails_with_its_errors(supervisor):
    assert supervisor.run(program("prepare", "print('done')"), limit_s=30) == b"done\n"
    with pytest.raises(Failed, match=r"(?s)prepare ended with exit code 3.*what went wrong"):
        supervisor.run(program("prepare", "import sys; print('what went wrong', file=sys.stderr); sys.exit(3)"), limit_s=30)  # fmt: skip


def test_request_to_stop_ends_the_waiting(supervisor):
    child = supervisor.start(program("web", SLEEP))
    supervisor.stop_asked = 1
    with pytest.raises(StopAsked):
        supervisor.wait_until(child, lambda: False, limit_s=30)


def test_stages_stop_one_after_the_other_and_the_broker_last(supervisor, tmp_path):
    code = "import signal, sys, time; signal.signal(15, lambda *_: (print(time.monotonic(), flush=True), sys.exit())); print('up', flush=True); time.sleep(60)"
    for stage in (Stage.BROKER, Stage.AGENTS, Stage.SERVERS):
        supervisor.start(program(stage.name, code, stage=stage))
    for child in supervisor.children:
        wait_for(lambda child=child: b"up" in child.said(), "is up")
    assert supervisor.stop() == []
    ended = {child.program.name: float(child.said().split()[-1]) for child in supervisor.children}
    assert sorted(ended, key=ended.__getitem__) == ["AGENTS", "SERVERS", "BROKER"]


def test_program_that_will_not_stop_is_killed_and_named(supervisor, monkeypatch):
    monkeypatch.setattr("config.launcher.processes.STOP_WITHIN_S", 0.2)
    child = supervisor.start(program("worker-tick", DEAF))
    wait_for(lambda: b"up" in child.said(), "is up")
    assert supervisor.stop() == ["worker-tick"]
    assert child.process.returncode == -signal.SIGKILL


def test_second_request_to_stop_kills_at_once(supervisor):
    child = supervisor.start(program("worker-tick", DEAF))
    wait_for(lambda: b"up" in child.said(), "is up")
    supervisor.watch_signals()
    try:
        began = time.monotonic()
        ask = "import os, signal, sys, time; time.sleep(0.3); os.kill(int(sys.argv[1]), signal.SIGTERM)"
        with subprocess.Popen([sys.executable, "-c", ask, str(os.getpid())]):
            assert supervisor.stop() == ["worker-tick"]
        assert time.monotonic() - began < 5
    finally:
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)


GUARDED = """
import os, subprocess, sys, time
from config.launcher.guard import guarded

def work():
    # A grandchild in a session of its own, as an agent's job is: no process group reaches it.
    subprocess.Popen([sys.executable, "-c",
        "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'],"
        " start_new_session=True); time.sleep(60)"], start_new_session=True)
    print(os.getppid(), os.getpid(), flush=True)
    time.sleep(60)
    return 0

sys.exit(guarded(work))
"""


@linux
@pytest.mark.parametrize("victim", ["front", "guard"])
def test_whichever_of_the_two_is_killed_nothing_is_left(victim):
    process = subprocess.Popen(
        [sys.executable, "-c", GUARDED], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    with process:
        front, guard = map(int, process.stdout.readline().split())
        assert front == process.pid
        wait_for(lambda: len(descendants(front)) == 3, "guard, child and grandchild run")
        below = descendants(front)
        os.kill(front if victim == "front" else guard, signal.SIGKILL)
        wait_for(lambda: not any(alive(pid) for pid in below), "all have ended", limit_s=10)
        process.wait()


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
