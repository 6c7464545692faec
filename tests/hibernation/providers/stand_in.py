"""A stand-in for the agent: tells what it was given, starts a job that hides, and does as a file tells it.

Job: a process in a session of its own, with an empty environment, so that only its ancestry says whose it is; and one
that keeps the environment. Files in the state directory: `exit` holds an exit code to end with, `stubborn` makes it
deaf to SIGTERM.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

state, workspace = Path(os.environ["DORMOUSE_AGENT_DIR"]), Path(os.environ["DORMOUSE_WORKSPACE"])
if (state / "stubborn").exists():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
hidden = subprocess.Popen(["sleep", "1000"], start_new_session=True, env={})
marked = subprocess.Popen(["sleep", "1000"], start_new_session=True)
given = {"environment": dict(os.environ), "hidden": hidden.pid, "marked": marked.pid, "pid": os.getpid()}
beside = state / "given.new"
beside.write_text(json.dumps(given))
beside.rename(state / "given.json")
with (workspace / "starts").open("a") as starts:
    starts.write("x")
while not (state / "exit").exists():
    time.sleep(0.02)
code = int((state / "exit").read_text())
(state / "exit").unlink()
sys.exit(code)
