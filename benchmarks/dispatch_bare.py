"""What dispatching is measured against: a stock Celery task, over the same Redis, that starts the same child."""

from __future__ import annotations

import os
import subprocess

from celery import Celery

app = Celery("bare", broker=os.environ["BARE_BROKER"])
app.conf.update(task_ignore_result=True, worker_hijack_root_logger=False)


@app.task(name="bare.start")
def start(command: list[str], out: str) -> None:
    with open(out, "ab") as file:
        subprocess.run(command, stdout=file, check=True)
