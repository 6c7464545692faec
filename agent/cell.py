"""The agent in a notebook's cell: in the foreground, its output visible, started again after a crash, ended with the cell.

The notebooks install the wheel and call `run`. Standard library only, because this runs in the notebook's own process,
beside whatever the provider has installed there; the agent itself is a child.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from agent.errors import CANNOT_ENROL, ENDED_AS_ASKED, NOT_ENROLLED_IN_TIME, STOOD_DOWN, WRONG_USAGE

ENDS_WITHIN_S = 15.0
"""An agent that is told to end is given this; its own graces add up to less (agent/session.py)."""

FIRST_WAIT_S = 1.0
LONGEST_WAIT_S = 60.0
STEADY_AFTER_S = 120.0
"""An agent that ran for this long before it crashed is started again without delay."""

LENT = ("colab", "kaggle")
ENROL_WITHIN_S = 15 * 60.0
"""A machine that is lent by the hour is not held for a server that lets nobody enrol: then the session is ended."""

IDENTITY = "identity.json"
STARTED = "session-started"
LONGEST_SESSION_S = 24 * 3600.0
"""No provider's session is longer."""


class Stopped(Exception):
    """The cell cannot go on. Jupyter shows the sentence in place of a traceback."""

    def _render_traceback_(self) -> list[str]:
        return [f"Dormouse: {self}"]


def run(
    *,
    url: str,
    token: str,
    provider: str,
    name: str = "",
    release: Callable[[], None] | None = None,
    home: Path | None = None,
    options: Sequence[str] = (),
) -> None:
    """Be a worker until the session's limit, until the server sends it away, or until the cell is interrupted.

    release: gives the machine back to the provider; called in each of these cases, and before Stopped is raised where
    the server let nobody enrol for ENROL_WITHIN_S in all. Raises Stopped, the machine kept, where a person must correct
    something first. options: further ones of `dormouse-agent run`.
    """
    state_dir = _state_dir(home or Path.home() / ".dormouse-agent", url=url, token=token)
    # As --name=value: a value that begins with a hyphen is no option.
    command = [sys.executable, "-u", "-m", "agent", "run", f"--provider={provider}", f"--state-dir={state_dir}",
               f"--session-started={_session_started(state_dir)}", f"--name={name}", *options]  # fmt: skip
    # The token goes by the environment: a process list is public.
    env = {**os.environ, "DORMOUSE_URL": url, "DORMOUSE_JOIN_TOKEN": token}
    give_up_s = time.monotonic() + ENROL_WITHIN_S
    wait_s = FIRST_WAIT_S
    while True:
        began_s = time.monotonic()
        patience = [f"--enrol-within={max(0.0, give_up_s - began_s):.1f}"] if provider in LENT else []
        code, last, interrupted = _until_it_ends([*command, *patience], env)
        if interrupted or code in (ENDED_AS_ASKED, STOOD_DOWN):
            break
        if code == NOT_ENROLLED_IN_TIME:
            if release is not None:
                release()
            raise Stopped(
                f"{last or 'the server let nobody enrol'}. This session is over: run all cells again once the server answers."
            )
        if code in (WRONG_USAGE, CANNOT_ENROL):
            raise Stopped(_what_to_do(code, last, state_dir))
        if time.monotonic() - began_s > STEADY_AFTER_S:
            wait_s = FIRST_WAIT_S
        print(f"The agent ended unexpectedly ({code}); it starts again in {wait_s:g} s.", flush=True)
        if not _wait(wait_s):
            interrupted = True
            break
        wait_s = min(2 * wait_s, LONGEST_WAIT_S)
    if interrupted:
        print("Interrupted: the agent has ended, its jobs run elsewhere.", flush=True)
    elif code == STOOD_DOWN:
        print("The server has sent this worker away: a newer session has taken its place, or it was revoked.")
    else:
        print("The agent has ended.")
    if release is not None:
        release()


def _until_it_ends(command: Sequence[str], env: Mapping[str, str]) -> tuple[int, str, bool]:
    """Exit code, the agent's own last word, and whether the cell was interrupted meanwhile."""
    # In the notebook's process group on purpose: whatever kills the notebook kills the agent.
    process = subprocess.Popen(
        command, env=dict(env), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    )
    assert process.stdout is not None
    last, interrupted = "", False
    with process.stdout as output:
        while True:
            try:
                line = output.readline()
                if not line:
                    return process.wait(), last, interrupted
                print(line, end="", flush=True)
                last = _own_word(line) or last
            except KeyboardInterrupt:
                _end(process, at_once=interrupted)
                interrupted = True


def _end(process: subprocess.Popen[str], *, at_once: bool) -> None:
    """Ask it to end, and see to it that it does. A person who interrupts again does not wait for its good-bye."""
    if at_once:
        process.kill()
        return
    process.terminate()
    timer = threading.Timer(ENDS_WITHIN_S, process.kill)
    timer.daemon = True
    timer.start()


def _own_word(line: str) -> str:
    """What the agent says to the person, without its name; empty for a line of its log."""
    before, mark, word = line.partition("dormouse-agent: ")
    return word.strip() if mark and not before else ""


def _what_to_do(code: int, last: str, state_dir: Path) -> str:
    said = last or "the agent could not start; its lines above say why"
    if code == WRONG_USAGE:
        return f"{said}. Correct it in the first cell, then run all cells again."
    identity = state_dir / IDENTITY
    if identity.exists():
        # The server has forgotten this worker: out of the way, so that the same cell can join anew.
        identity.replace(identity.with_suffix(".refused"))
    return (
        f"{said}. In the console open Workers, then Add a worker; put the new join token into the first cell"
        " (or into the secret), then run all cells again."
    )


def _state_dir(home: Path, *, url: str, token: str) -> Path:
    """One folder for each token: the same cell run again is the same worker, a new token is a new enrolment."""
    folder = home / hashlib.sha256(f"{url}\n{token}".encode()).hexdigest()[:16]
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def _session_started(state_dir: Path) -> str:
    """When this machine's session began, as far as can be known.

    Colab and Kaggle make a container for each session, and a kernel that is restarted stays in it: the session is as
    old as the container's first process. Colab may have made its machine some minutes before it was handed out; then
    the session ends that much too early, never too late. Where the first process is older than any session can be
    (a machine of one's own, a provider that keeps its containers), it is as old as its first notebook process, which is
    kept in a file for the next one. The file belongs to this boot and this container: a home may outlive both.
    """
    given = os.environ.get("DORMOUSE_SESSION_STARTED", "")
    if given:
        return given
    path = state_dir.parent / STARTED
    machine = f"{_boot_id()} {_started_s(1)}"
    try:
        kept = json.loads(path.read_text(encoding="ascii"))
    except (FileNotFoundError, ValueError):
        kept = None
    if isinstance(kept, dict) and kept.get("machine") == machine:
        return str(kept["began"])
    age_s = _age_s(1)
    if age_s is None or age_s > LONGEST_SESSION_S:
        age_s = _age_s(os.getpid()) or 0.0
    began = datetime.fromtimestamp(time.time() - age_s, UTC).isoformat(timespec="seconds")
    path.write_text(json.dumps({"machine": machine, "began": began}) + "\n", encoding="ascii")
    return began


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _started_s(process: int) -> float | None:
    """Seconds from boot to that process's start; None where the system does not say."""
    try:
        stat = Path(f"/proc/{process}/stat").read_text(encoding="ascii", errors="replace")
        # After the command's name, which may hold spaces and brackets; field 22 of proc(5) is ticks since boot.
        return int(stat.rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError, IndexError, ValueError):
        return None


def _age_s(process: int) -> float | None:
    """Seconds since that process was started; None where the system does not say."""
    began_s = _started_s(process)
    if began_s is None or not hasattr(time, "CLOCK_BOOTTIME"):
        return None
    return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - began_s)


def _wait(seconds: float) -> bool:
    """False where it was cut short by an interrupt."""
    try:
        time.sleep(seconds)
    except KeyboardInterrupt:
        return False
    return True
