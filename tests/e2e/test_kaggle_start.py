"""The control plane starts a session at Kaggle itself: its API a double, the notebook run for real by a kernel."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pool.terms import TERMS
from tests.e2e.installation import Installation
from tests.e2e.waiting import eventually
from tests.simulators.kaggle import KaggleDouble, Version
from tests.simulators.notebook_host import NotebookMachine, NotebookRun

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


class Machines:
    """Kaggle's machines: each push gets one, and its log and its end are the notebook's."""

    def __init__(self, installation: Installation) -> None:
        self._env = {
            "INSTALLATION_UNDER_TEST": str(installation.data),
            "AGENT_BACKOFF_CAP_S": "1",
            "KAGGLE_KERNEL_RUN_TYPE": "Batch",
        }
        self._machines: list[NotebookMachine] = []
        self.runs: list[tuple[Version, NotebookRun]] = []

    def take_up(self, version: Version) -> None:
        machine = NotebookMachine("kaggle", env=self._env)
        machine.secrets("pushed")  # a notebook that was pushed has none
        self._machines.append(machine)
        self.runs.append((version, machine.run(version.notebook)))
        version.status = "RUNNING"

    def over(self) -> bool:
        """Whether every notebook has ended; Kaggle knows it then."""
        for version, run in self.runs:
            if run.over and version.status == "RUNNING":
                version.says(run.said)
                version.status = "ERROR" if run.failed else "COMPLETE"
        return all(version.status != "RUNNING" for version, _ in self.runs)

    def remove(self) -> None:
        for machine in self._machines:
            machine.remove()


@pytest.fixture
def kaggle() -> Iterator[KaggleDouble]:
    with KaggleDouble() as double:
        double.person("ana")
        yield double


@pytest.fixture
def own(tmp_path_factory: pytest.TempPathFactory, kaggle: KaggleDouble) -> Iterator[Installation]:
    made = Installation(
        tmp_path_factory.mktemp("e2e-kaggle"), environ={"DORMOUSE_KAGGLE_URL": kaggle.base_url}
    )
    try:
        yield made.start()
    finally:
        made.stop()


@pytest.fixture
def machines(own: Installation) -> Iterator[Machines]:
    made = Machines(own)
    yield made
    made.remove()


def test_session_is_started_works_and_ends_at_its_limit(own, kaggle, machines):
    kaggle.on_push = machines.take_up
    client = own.client()
    account = client.post(
        "/api/accounts", kind="kaggle", label="k", check_interval_s=1,
        credentials={"api_token": kaggle.people["ana"].token}, acknowledged_terms=TERMS["kaggle"].version,
        session_limit_h=60 / 3600, session_shutdown_h=40 / 3600,
    )  # fmt: skip
    asked = client.post("/api/notebook-starts", account=account["id"], name="night")
    place = f"/api/notebook-starts/{asked['id']}"
    worker = eventually(
        lambda: client.worker("night", status="online"),
        what=lambda: (
            f"the worker is online: {client.get(place)} {[run.said[-2000:] for _, run in machines.runs]}"
        ),
    )
    job = client.post("/api/jobs", script="echo at Kaggle", provider="kaggle")["id"]
    assert eventually(lambda: client.job_ended(job), what="the job ends")["status"] == "succeeded"
    assert client.log(job) == "at Kaggle\n"

    # A look of the tick is up to minutes away; here it is due now.
    due = "UPDATE pool_notebookstart SET next_at = created_at WHERE id = ?"
    own.rows.change(due, asked["id"])
    eventually(lambda: client.get(place)["status"] == "running", what=lambda: f"it runs: {client.get(place)}")

    eventually(machines.over, what="the notebook ends by itself at its limit", within_s=90)
    eventually(lambda: client.worker("night", status="offline"), what="the worker is offline")
    own.rows.change(due, asked["id"])
    ended = eventually(lambda: (row := client.get(place))["ended_at"] and row, what="the start is over")
    assert (ended["status"], ended["worker"], ended["version"]) == ("ended", worker["id"], 1), ended
    assert "the session's limit of 0.0111111 h is reached" in ended["output"]
    assert kaggle.called("SaveKernel")[0]["sessionTimeoutSeconds"] == 60
    quota = client.get(f"/api/accounts/{account['id']}")["official_quota"]
    assert (quota["total_hours"], quota["error"]) == (30, "")
