"""With worker A's real credentials, over HTTP, through the gateway: nothing of worker B's, and nothing of people's.

`pytest -s` prints the table. Both workers are real boxes of two owners; their agents are stopped (SIGSTOP) meanwhile, so
that what the test does is all that happens.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import signal
import time
from contextlib import contextmanager
from urllib.parse import parse_qsl, urlencode, urlsplit

import jwt
import pytest
import requests

from agent import wire
from gateway import keys
from tests.e2e.client import Client
from tests.e2e.rented import Rented, policy
from tests.e2e.waiting import eventually

NEW_USER = """
from django.contrib.auth import get_user_model
from core.tokens import token_issue
user = get_user_model().objects.create_user("bob", password=None)
print(token_issue(user=user, name="isolation", scopes=["read", "operate"])[1])
"""
SLOW_POSTS = policy(check_interval_seconds=30, pause_after_idle_minutes=5)
"""So that an agent that is stopped for a while is not taken for lost."""


class Party:
    """An owner's instance, its box's agent, and what that agent knows."""

    def __init__(self, installation, client, name):
        self.client = client
        account = client.post("/api/accounts", kind="local", label=name)["id"]
        self.rented = Rented.rent(installation, account=account, name=name, client=client, config=SLOW_POSTS)

    def arrived(self):
        """Once its box is up."""
        installation = self.rented.installation
        self.rented.until("running")
        self.box = installation.box_folder(self.rented.box()["provider_ref"])
        self.identity = json.loads((self.box / "agent-state" / "identity.json").read_text())
        self.worker = self.identity["worker_id"]
        answer = Client(installation.url).post(
            "/api/agent/token", worker_id=self.worker, secret=self.identity["secret"]
        )
        self.agent = Client(installation.url, token=answer["access_token"])
        return self

    def signal_agent(self, number):
        os.kill(json.loads((self.box / "agent.json").read_text())["pid"], number)

    @contextmanager
    def agent_stopped(self):
        self.signal_agent(signal.SIGSTOP)
        try:
            yield
        finally:
            self.signal_agent(signal.SIGCONT)


class Attempts:
    """Tries things, and keeps what was answered to each."""

    def __init__(self):
        self.lines = []

    def refused(self, what, answer, *statuses):
        self.lines.append((what, str(answer)))
        assert answer.status in statuses, f"{what}: {answer}"

    def show(self):
        width = max(len(what) for what, _ in self.lines)
        print(f"\n{'with the credentials of worker A':<{width}}  answer")
        for what, answer in self.lines:
            print(f"{what:<{width}}  {' '.join(answer.split())[:100]}")


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_worker_a_reaches_nothing_of_worker_b(installation):
    a = Party(installation, installation.client(), "isolation-a")
    bob = Client(installation.url, token=installation.manage("shell", "-v", "0", "-c", NEW_USER).strip())
    a, b = a.arrived(), Party(installation, bob, "isolation-b").arrived()
    attempts = Attempts()
    with a.agent_stopped(), b.agent_stopped():
        queue(installation, a, b, attempts)
        tokens(installation, a, b, attempts)
        dispatches(installation, a, b, attempts)
        status(installation, a, b, attempts)
        snapshots_and_store(installation, a, b, attempts)
        people(installation, a, b, attempts)
    attempts.show()
    # B's own work was not touched by any of it.
    b.rented.until("hibernated", within_s=90)
    assert b.rented.wake().status == 202
    b.rented.until("running", within_s=90)
    for party in (a, b):
        party.rented.until("running", "hibernated", within_s=90)
        party.client.call("DELETE", f"/api/instances/{party.rented.id}", discard="workspace")


def queue(installation, a, b, attempts):
    """There is no way to name another queue: whatever is tried, one's own is polled, and B's message stays."""
    poll = f"{wire.QUEUE}?wait=0"
    # The stopped agent's last poll is still parked and would take the message; a newer one takes its place.
    assert b.agent.call("POST", poll, {}).status == 204
    job = b.client.post("/api/jobs", command=["true"], instance=b.rented.id)["id"]
    key = wire.queue_key(b.worker)
    broker = installation.broker()
    eventually(lambda: broker.llen(key) == 1, what="B's bell was rung")
    ways = {
        "poll with query worker_id=B": (f"{poll}&worker_id={b.worker}", {}, {}),
        "poll with query queue=B": (f"{poll}&queue={key}&key={key}&sub={b.worker}", {}, {}),
        "poll with body naming B": (poll, {"worker_id": b.worker, "queue": key, "sub": b.worker}, {}),
        "poll with headers naming B": (poll, {}, {"X-Worker-Id": b.worker, "X-Forwarded-User": b.worker}),
    }
    for what, (path, body, headers) in ways.items():
        attempts.refused(what, a.agent.call("POST", path, body, headers=headers), 204)
    attempts.refused("poll a path that names B", a.agent.call("POST", f"{wire.QUEUE}/{b.worker}", {}), 404)
    forged = Client(installation.url, token=with_claims(a.agent.token, sub=b.worker))
    attempts.refused("poll with sub=B in A's signed token", forged.call("POST", poll, {}), 401)
    assert broker.llen(key) == 1
    b.client.post(f"/api/jobs/{job}/cancel")
    broker.delete(key)
    broker.close()


def tokens(installation, a, b, attempts):
    poll = f"{wire.QUEUE}?wait=0"
    now = int(time.time())
    claims = {"sub": b.worker, "epoch": 1, "aud": wire.AUDIENCE, "iat": now, "exp": now + 900}
    kid = jwt.get_unverified_header(a.agent.token)["kid"]
    forgeries = {
        "token for B, alg none": unsigned(claims),
        "token for B, own key": jwt.encode(claims, b"k" * 32, algorithm="HS256", headers={"kid": kid}),
        "token for B, unknown kid": jwt.encode(claims, b"k" * 32, algorithm="HS256", headers={"kid": "mine"}),
        "A's token, epoch + 1": with_claims(a.agent.token, epoch=2),
    }
    for what, token in forgeries.items():
        forged = Client(installation.url, token=token)
        attempts.refused(f"{what}: poll (gateway)", forged.call("POST", poll, {}), 401)
        plan = forged.call("POST", wire.snapshot_path("sn_x", "plan"), {"fence": 1})
        attempts.refused(f"{what}: plan (Django)", plan, 401)
    body = {"worker_id": b.worker, "secret": a.identity["secret"]}
    attempts.refused("token of B for A's secret", a.agent.call("POST", wire.TOKEN, body), 403)
    used = {"token": "dj_" + "x" * 43, "request_id": "r"}
    attempts.refused("enrol with an invented token", a.agent.call("POST", wire.ENROLL, used), 403)


def dispatches(installation, a, b, attempts):
    job = b.client.post("/api/jobs", command=["true"], instance=b.rented.id)["id"]
    dispatch = eventually(
        lambda: installation.rows.all("SELECT id FROM pool_dispatch WHERE job_id = ?", job),
        what="B was given a job",
    )[0]["id"]
    posts = {
        "claim": {},
        "progress": {"fence": 1, "phase": "x"},
        "log": {"fence": 1, "offset": 0, "data": base64.b64encode(b"A was here").decode()},
        "finish": {"fence": 1, "outcome": "succeeded", "exit_code": 0},
    }
    for verb, body in posts.items():
        path = wire.dispatch_path(dispatch, verb)
        attempts.refused(f"{verb} B's unclaimed dispatch", a.agent.call("POST", path, body), 404)
    b.agent.post(wire.dispatch_path(dispatch, "claim"))
    for verb, body in posts.items():
        path = wire.dispatch_path(dispatch, verb)
        attempts.refused(f"{verb} B's running dispatch", a.agent.call("POST", path, body), 404)
    row = installation.rows.one("SELECT state, fence, log_bytes FROM pool_dispatch WHERE id = ?", dispatch)
    assert row == {"state": "claimed", "fence": 1, "log_bytes": 0}
    b.agent.post(wire.dispatch_path(dispatch, "finish"), fence=1, outcome="succeeded", exit_code=0)


def status(installation, a, b, attempts):
    broker = installation.broker()
    before = installation.rows.one("SELECT COUNT(*) AS n FROM pool_sample WHERE worker_id = ?", b.worker)
    body = {"worker_id": b.worker, "epoch": 1, "gpu_util": 99.0}
    attempts.refused("post B's status", a.agent.call("POST", wire.STATUS, body), 403)
    body = {"worker_id": a.worker, "epoch": 2, "gpu_util": 99.0}
    attempts.refused("post A's status of a later epoch", a.agent.call("POST", wire.STATUS, body), 409)
    assert not any(b.worker.encode() in fields[b"body"] for _, fields in broker.xrange(keys.STATUS_STREAM))
    assert (
        installation.rows.one("SELECT COUNT(*) AS n FROM pool_sample WHERE worker_id = ?", b.worker) == before
    )
    broker.close()


def snapshots_and_store(installation, a, b, attempts):
    snapshots = {}
    for party in (a, b):
        party.rented.hibernate()
        snapshots[party.worker] = eventually(
            lambda party=party: [
                row for row in party.rented.snapshots() if party.rented.dispatches("snapshot")
            ],
            what="the snapshot was asked for",
        )[-1]["id"]
    ours, theirs = snapshots[a.worker], snapshots[b.worker]
    terms = b.agent.post(wire.snapshot_path(theirs, "plan"), fence=1)["terms"]
    commit = {
        "fence": 1, "root_key": terms["root_key"], "root_sha256": "0" * 64, "root_length": 1, "content_id": "0" * 64,
        "entries": 0, "files": 0, "logical_bytes": 0, "stored_bytes": 0, "referenced_bytes": 0, "new_packs": 0,
    }  # fmt: skip
    for verb, body in {"plan": {"fence": 1}, "commit": commit, "restore-plan": {"fence": 1}}.items():
        answer = a.agent.call("POST", wire.snapshot_path(theirs, verb), body)
        attempts.refused(f"{verb} B's snapshot", answer, 404)

    plan = wire.snapshot_path(ours, "plan")
    own = a.agent.post(plan, fence=1)["terms"]
    data = b"an object of A's"
    pack = {
        "key": f"o/{own['owner_id']}/p/{'a' * 32}",
        "length": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
    }
    foreign = {**pack, "key": f"o/{terms['owner_id']}/p/{'a' * 32}"}
    ask = {"upload into B's folder": {"put": [foreign]}, "download B's root": {"get": [terms["root_key"]]},
           "upload B's root": {"put": [{**pack, "key": terms["root_key"]}]},
           "upload beside the store": {"put": [{**pack, "key": f"o/{own['owner_id']}/p/../../x"}]},
           "upload 10 TB": {"put": [{**pack, "key": pack["key"][:-1] + "b", "length": 10**13}]}}  # fmt: skip
    for what, wish in ask.items():
        attempts.refused(f"plan: {what}", a.agent.call("POST", plan, {"fence": 1, **wish}), 400)
    signed = a.agent.post(plan, fence=1, put=[pack])["put"][0]
    store(installation, signed, data, own, terms, attempts)


def store(installation, signed, data, own, terms, attempts):
    """A's own signed upload, bent in every direction, then used as it is, then used twice."""
    url = installation.url + signed["url"] if signed["url"].startswith("/") else signed["url"]

    def tampered(**query):
        parts = urlsplit(url)
        changed = {**dict(parse_qsl(parts.query)), **query}
        return parts._replace(query=urlencode(changed)).geturl()

    def send(method, to, body=data):
        answer = requests.request(method, to, data=body, headers={"If-None-Match": "*"}, timeout=30)
        return Sent(answer.status_code, answer.text[:70])

    expires = dict(parse_qsl(urlsplit(url).query))["expires"]
    there = url.replace(own["owner_id"], terms["owner_id"])
    ways = {
        "another key (B's folder)": ("PUT", there, data),
        "another key (own folder)": ("PUT", url.replace("a" * 32, "b" * 32), data),
        "another method (GET)": ("GET", url, None),
        "another method (DELETE)": ("DELETE", url, None),
        "a later expiry": ("PUT", tampered(expires=int(expires) + 3600), data),
        "another length, signed one kept": ("PUT", url, data + b"!"),
        "another length, said so": ("PUT", tampered(length=len(data) + 1), data + b"!"),
        "another content of that length": ("PUT", url, bytes(len(data))),
        "another hash, said so": ("PUT", tampered(sha256="0" * 64), data),
        "no signature": ("PUT", tampered(signature=""), data),
        "no query at all": ("PUT", url.partition("?")[0], data),
        "a listing": ("GET", url.partition("/o/")[0] + "/", None),
    }
    for what, (method, to, body) in ways.items():
        attempts.refused(f"store: {what}", send(method, to, body), 400, 403, 404, 405)
    assert send("PUT", url).status == 200
    attempts.refused("store: the same upload twice", send("PUT", url), 412)


class Sent:
    def __init__(self, status, text):
        self.status, self.text = status, text

    def __str__(self):
        return f"{self.status} {self.text}".strip()


def people(installation, a, b, attempts):
    routes = {
        ("GET", "/api/instances"), ("POST", f"/api/instances/{b.rented.id}/wake"), ("GET", "/api/jobs"),
        ("POST", "/api/jobs"), ("GET", "/api/workers"), ("POST", "/api/enrollment-tokens"), ("GET", "/api/accounts"),
        ("GET", "/api/snapshots"), ("GET", "/api/savings"), ("GET", "/api/pool/status"), ("GET", "/api/schema/"),
    }  # fmt: skip
    for method, path in sorted(routes):
        answer = a.agent.call(method, path, {} if method == "POST" else None)
        attempts.refused(f"agent's token: {method} {path.replace(b.rented.id, 'B')}", answer, 401)
    agents = [
        f"{wire.QUEUE}?wait=0", wire.STATUS, wire.dispatch_path("d_x", "claim"), wire.snapshot_path("sn_x", "plan"),
    ]  # fmt: skip
    for path in agents:
        answer = a.client.call("POST", path, {"worker_id": a.worker, "epoch": 1, "fence": 1})
        attempts.refused(f"person's token: POST {path}", answer, 401)
    stranger = f"/api/instances/{a.rented.id}"
    for method, path in (("GET", stranger), ("POST", f"{stranger}/wake"), ("POST", f"{stranger}/hibernate")):
        answer = b.client.call(method, path, {} if method == "POST" else None)
        attempts.refused(f"person B: {method} {path.replace(a.rented.id, 'A')}", answer, 404)


def with_claims(token, **claims):
    """The token with other claims under its old signature."""
    head, body, signature = token.split(".")
    found = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    return ".".join((head, encoded({**found, **claims}), signature))


def unsigned(claims):
    return f"{encoded({'alg': 'none', 'typ': 'JWT'})}.{encoded(claims)}."


def encoded(value):
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()
