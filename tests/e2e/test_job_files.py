"""Jobs' files, arrays, order and retries end to end; and docs/jobs.md, every example of it, as it stands."""

import hashlib
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import requests

from tests.e2e.waiting import eventually

DOCUMENT = Path(__file__).parents[2] / "docs" / "jobs.md"


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("curl") is None, reason="the examples are written for curl")
def test_every_example_of_the_document_does_what_it_says(installation, join, tmp_path):
    join("examples")
    blocks = re.findall(r"```bash\n(.*?)```", DOCUMENT.read_text(), flags=re.DOTALL)
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", "\n".join(blocks)],
        cwd=tmp_path,
        env={**os.environ, "DORMOUSE_URL": installation.url, "DORMOUSE_TOKEN": installation.client().token},
        capture_output=True,
        text=True,
        timeout=90,
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert "succeeded\n42\n" in done.stdout, said
    assert (tmp_path / "model.pt").read_text() == "8\n", said
    assert "succeeded\n8\n" in done.stdout, said
    assert "succeeded\n2\n" in done.stdout, "two retries: " + said
    assert "{'succeeded': 3}\n3\n" in done.stdout, said
    assert "/project/src\n" in done.stdout, said
    assert "cancelled\nsaved\n" in done.stdout, said


@pytest.mark.slow
def test_a_large_artifact_and_the_whole_output_come_back_byte_for_byte(installation, join, submit):
    join("files")
    client = installation.client()
    job = submit(
        script="head -c 70000000 /dev/urandom > big; sha256sum < big; seq 1 300000",
        artifacts=["big"],
        timeout_s=60,
    )
    ended = eventually(lambda: client.job_ended(job), what="the job ends")
    assert ended["status"] == "succeeded", ended["reason"]
    (found,) = client.get(f"/api/jobs/{job}/artifacts")["results"]
    wanted, _, lines = client.log(job).partition("\n")
    assert found["sha256"] == wanted.split()[0]
    data = _fetch(found["url"], client.token)
    assert (len(data), hashlib.sha256(data).hexdigest()) == (70_000_000, found["sha256"])
    # Its output leaves the database for the store, and reads the same.
    row = eventually(
        lambda: (
            (
                one := installation.rows.one(
                    "SELECT * FROM pool_dispatch WHERE id = ?", installation.attempt(job)
                )
            )
            and one["log_stored_bytes"] == one["log_bytes"]
            and one
        ),
        what="the output is in the store",
    )
    assert row["log_bytes"] == len(client.log(job))
    assert client.log(job).partition("\n")[2] == lines
    assert lines == "".join(f"{n}\n" for n in range(1, 300_001))


def _fetch(url, token):
    with requests.get(url, headers={"Authorization": f"Bearer {token}"}, timeout=60) as answer:
        assert answer.status_code == 200, answer.text
        return answer.content
