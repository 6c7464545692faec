"""A worker that is revoked has no say any more: at once, on every route, and its job runs elsewhere."""

import pytest

from tests.e2e.client import Client
from tests.e2e.test_jobs import access_token
from tests.e2e.waiting import eventually

REFUSED_AGENT = 3


@pytest.mark.slow
def test_revoked_worker_is_refused_everywhere_at_once_and_its_agent_ends(installation, join, submit):
    worker = join("revoked", "kaggle")
    client = installation.client()
    job = submit(script="sleep 1000", provider="kaggle")
    eventually(lambda: client.job(job)["status"] == "running", what="the job runs")
    agent = Client(installation.url, token=access_token(installation.url, worker))
    dispatch = f"/api/agent/dispatch/{installation.attempt(job)}"
    calls = {
        "queue": ("/api/agent/queue?wait=0", {}),
        "status": ("/api/agent/status", {"worker_id": worker.id, "epoch": 1}),
        "claim": (f"{dispatch}/claim", {}),
        "log": (f"{dispatch}/log", {"fence": 1, "offset": 0, "data": ""}),
    }
    for name, (path, body) in calls.items():
        assert agent.call("POST", path, body).status < 300, name

    client.post(f"/api/workers/{worker.id}/revoke")
    for name, (path, body) in calls.items():
        answer = agent.call("POST", path, body)
        assert (answer.status, answer.code) == (409, "stand_down"), name

    process = installation.process(worker.name)
    eventually(lambda: process.poll() is not None, what="the revoked agent ends", within_s=15)
    assert process.returncode == REFUSED_AGENT
    assert not [line for line in installation.processes().values() if "sleep 1000" in line]
    assert client.job(job)["status"] == "queued"
