"""The HTTP API as people and agents use it, through the gateway. Every call is a connection of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import requests

TIMEOUT_S = 60
ENDED = ("succeeded", "failed", "cancelled")


@dataclass(frozen=True)
class Answer:
    status: int
    body: Any
    headers: dict[str, str]

    @property
    def code(self) -> str:
        """Of an error."""
        return str(self.body.get("code", "")) if isinstance(self.body, dict) else ""

    def __str__(self) -> str:
        return f"{self.status} {self.code or self.body}"


class Client:
    """token: a person's or an agent's; empty: nobody's."""

    def __init__(self, url: str, *, token: str = "") -> None:
        self.url = url
        self.token = token

    def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        headers: dict[str, str] | None = None,
        **params: Any,
    ) -> Answer:
        """One request, whatever is answered. requests' errors where nobody answers."""
        own = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        response = requests.request(
            method,
            path if path.startswith("http") else self.url + path,
            json=body,
            params=params,
            headers={**own, **(headers or {})},
            timeout=TIMEOUT_S,
            allow_redirects=False,
        )
        try:
            found = response.json()
        except ValueError:
            found = response.text
        return Answer(response.status_code, found, dict(response.headers))

    def ok(self, method: str, path: str, **fields: Any) -> Any:
        """The body of an answer that is not an error: fields are the query of a GET, else the body."""
        answer = self.call(method, path, **fields) if method == "GET" else self.call(method, path, fields)
        assert answer.status < 400, f"{method} {path}: {answer}"
        return answer.body

    def get(self, path: str, **params: Any) -> Any:
        return self.ok("GET", path, **params)

    def post(self, path: str, **body: Any) -> Any:
        return self.ok("POST", path, **body)

    # -- what the tests look at most ---------------------------------------------------------------------

    def worker(self, name: str, *, status: str = "") -> dict[str, Any] | None:
        found = [
            worker for worker in self.get("/api/workers", limit=500)["results"] if worker["name"] == name
        ]
        return next((worker for worker in found if not status or worker["status"] == status), None)

    def job(self, job_id: str) -> dict[str, Any]:
        return dict(self.get(f"/api/jobs/{job_id}"))

    def job_ended(self, job_id: str) -> dict[str, Any] | None:
        job = self.job(job_id)
        return job if job["status"] in ENDED else None

    def log(self, job_id: str) -> str:
        """The output of the job's present attempt, as far as there is any; of one that has ended, all of it.

        A reader that cannot get on although the attempt has ended is a fault, and no end.
        """
        parts, offset = [], 0
        while True:
            over = self.job_ended(job_id) is not None
            page = self.get(f"/api/jobs/{job_id}/logs", offset=offset)
            parts.append(page["data"])
            if page["done"]:
                return "".join(parts)
            if page["next_offset"] == offset:
                assert not over, f"the output of {job_id} stops at byte {offset} and is not done"
                return "".join(parts)
            offset = page["next_offset"]

    def instance(self, instance_id: str) -> dict[str, Any]:
        return dict(self.get(f"/api/instances/{instance_id}"))

    def chains(self, instance_id: str) -> list[dict[str, Any]]:
        """The newest first."""
        return list(self.get(f"/api/instances/{instance_id}/chains")["results"])
