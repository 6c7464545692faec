"""What the OpenAPI document allows, and what it does not, sent by Schemathesis to a whole installation: no answer is a 5xx."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.installation import Installation

SEED = 20261122
EXAMPLES = 60
ALLOWED = re.compile(r"^/api/(accounts|enrollment-tokens|jobs|job-arrays|pool|workers|alerts)")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_no_request_that_schemathesis_thinks_of_is_answered_with_a_fault(tmp_path):
    installation = Installation(tmp_path).start()
    try:
        client = installation.client()
        account = client.post("/api/accounts", kind="local", label="here")["id"]
        installation.join(account, "worker")
        client.post("/api/jobs", command=["true"], name="first")
        command = [
            str(Path(sys.executable).with_name("schemathesis")), "run", f"{installation.url}/api/schema/",
            "--header", f"Authorization: Bearer {client.token}",
            "--include-path-regex", ALLOWED.pattern,
            "--checks", "not_a_server_error",
            "--phases", "coverage,fuzzing",
            "--max-examples", str(EXAMPLES),
            "--seed", str(SEED),
            "--generation-database", "none",
            "--continue-on-failure",
            "--suppress-health-check", "all",
            "--request-timeout", "60",
            "--no-color",
        ]  # fmt: skip
        ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        print(ran.stdout[-4000:])
        assert ran.returncode == 0, ran.stdout[-20_000:] + ran.stderr
        assert re.search(r"Tested:\s+\d+", ran.stdout), "nothing was tested"
        assert client.get("/api/jobs")["count"] >= 1
        faults = [line for line in installation.said("web").splitlines() if "Traceback" in line]
        assert faults == []
    finally:
        installation.stop()
