"""What the gateway costs: parked polls, rings, status posts, pass-through. Prints its tables; needs Linux (/proc).

    nice .venv/bin/python -m benchmarks.gateway [--polls 2000] [--seconds 5]

Peers, in the same run and with the same client: the same status post handled by a minimal Django view under gunicorn
(one worker, four threads; token, checks and the same round trip to Redis), and by a bare asyncio protocol that only
answers (the floor of this client and machine).
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import os
import platform
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import jwt
import redis

from agent import wire
from gateway import keys
from tests.servers import valkey

ROOT = Path(__file__).parents[1]
KEY = b"k" * 32
TICK_S = 1 / os.sysconf("SC_CLK_TCK")
MiB = 1024 * 1024

PEER_VIEW = """
import base64, json, os, time
import django, jwt, redis
from django.conf import settings
from django.http import HttpResponse, JsonResponse
from django.urls import path
settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"], SECRET_KEY="x" * 50, MIDDLEWARE=["django.middleware.common.CommonMiddleware"])
from agent import wire
from gateway import keys
KEY = base64.urlsafe_b64decode(os.environ["PEER_KEY"])
REDIS = redis.Redis.from_url(os.environ["REDIS_URL"])
def status(request):
    token = request.headers["Authorization"].partition(" ")[2]
    claims = jwt.decode(token, KEY, algorithms=["HS256"], audience=wire.AUDIENCE)
    post = wire.StatusPost.from_json(json.loads(request.body))
    if (post.worker_id, post.epoch) != (claims["sub"], claims["epoch"]):
        return HttpResponse(status=403)
    body = json.dumps(wire.to_json(post))
    with REDIS.pipeline(transaction=False) as pipeline:
        pipeline.hget(keys.GATE, claims["sub"])
        pipeline.hget(keys.ORDERS, claims["sub"])
        pipeline.xadd(keys.STATUS_STREAM, {"body": body, "at": str(time.time())}, maxlen=200_000)
        gate, orders, _ = pipeline.execute()
    entry = json.loads(gate)
    return JsonResponse({"next_in_s": entry["next_in_s"], "epoch": entry["epoch"], "orders": json.loads(orders or "[]")})
def small(request):
    return HttpResponse(b"ok")
def upload(request):
    size = 0
    while piece := request.read(262144):
        size += len(piece)
    return HttpResponse(str(size))
def download(request):
    from django.http import StreamingHttpResponse
    piece = bytes(262144)
    response = StreamingHttpResponse(piece for _ in range(1024))
    response["Content-Length"] = str(1024 * len(piece))
    return response
urlpatterns = [path("api/agent/status", status), path("small", small), path("upload", upload), path("download", download)]
django.setup()
from django.core.wsgi import get_wsgi_application
application = get_wsgi_application()
"""


# -- processes ------------------------------------------------------------------------------------


@contextmanager
def running(
    command: list[str], ready: Callable[[], bool], **environ: str
) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)} | environ, stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 20
        while not ready():
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"did not start: {' '.join(command)}")
            time.sleep(0.02)
        yield process
    finally:
        process.terminate()
        process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def listens(port: int) -> Callable[[], bool]:
    return lambda: socket.socket().connect_ex(("127.0.0.1", port)) == 0


def cpu_s(pid: int) -> float:
    """User and system time of a process and of its children that still run."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return (int(fields[11]) + int(fields[12])) * TICK_S + sum(cpu_s(int(child)) for child in children)


def rss_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Floor(asyncio.Protocol):
    """Answers any request that arrives in one piece."""

    BODY = b'{"next_in_s": 30.0, "epoch": 1, "orders": []}'
    ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(BODY), BODY)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(self.ANSWER)  # type: ignore[attr-defined]


async def floor(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Floor, "127.0.0.1", port)
    await server.serve_forever()


# -- the client -----------------------------------------------------------------------------------


def token(worker_id: str) -> str:
    now = int(time.time())
    claims = {"sub": worker_id, "epoch": 1, "aud": wire.AUDIENCE, "iat": now, "exp": now + 3_600}
    return jwt.encode(claims, KEY, algorithm="HS256", headers={"kid": "k"})


def request_bytes(method: str, path: str, worker_id: str = "", body: bytes = b"") -> bytes:
    authorization = f"Authorization: Bearer {token(worker_id)}\r\n" if worker_id else ""
    head = f"{method} {path} HTTP/1.1\r\nHost: x\r\n{authorization}Content-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def status_request(worker_id: str) -> bytes:
    gpu = {
        "index": 0,
        "name": "Tesla T4",
        "util": 2.0,
        "mem_used_bytes": 0,
        "mem_total_bytes": 16 * 2**30,
        "temp_c": 41,
    }
    post = {
        "worker_id": worker_id, "epoch": 1, "timestamp": "2026-11-21T14:30:00Z", "session_runtime_hours": 3.45,
        "max_session_hours": 11.5, "gpu_util": 2.0, "status": "idle", "gpus": [gpu], "cpu_util": 3.0,
        "net_bytes_per_s": 120, "disk_free_bytes": 2**36, "sessions": {"ssh": 0, "jupyter": 0}, "jobs": ["a_1"],
    }  # fmt: skip
    return request_bytes("POST", wire.STATUS, worker_id, json.dumps(post).encode())


class Client:
    """One keep-alive connection."""

    def __init__(self, port: int) -> None:
        self._port = port

    async def open(self) -> Client:
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self._port)
        return self

    async def ask(self, request: bytes) -> int:
        """The status; the body is read and thrown away."""
        self.writer.write(request)
        head = await self.reader.readuntil(b"\r\n\r\n")
        at = head.lower().find(b"content-length: ")
        if at >= 0:
            left = int(head[at + 16 : head.index(b"\r", at)])
            while left:
                left -= len(await self.reader.read(min(left, MiB)))
        return int(head[9:12])

    def close(self) -> None:
        self.writer.close()


async def load(port: int, requests: list[bytes], *, connections: int, seconds: float) -> list[float]:
    """Latencies in ms of a closed loop: each connection asks again as soon as it has its answer."""
    took: list[float] = []
    end = time.monotonic() + seconds

    async def one(offset: int) -> None:
        client = await Client(port).open()
        turn = offset
        while (began := time.monotonic()) < end:
            status = await client.ask(requests[turn % len(requests)])
            assert status == 200, status
            took.append((time.monotonic() - began) * 1000)
            turn += connections
        client.close()

    await asyncio.gather(*(one(n) for n in range(connections)))
    return took


async def paced(port: int, requests: list[bytes], *, per_s: float, seconds: float) -> list[float]:
    """Latencies in ms of requests that start at a fixed rate, whether or not earlier ones are answered."""
    clients = [await Client(port).open() for _ in range(64)]
    free: asyncio.Queue[Client] = asyncio.Queue()
    for client in clients:
        free.put_nowait(client)
    took: list[float] = []

    async def one(request: bytes, due: float) -> None:
        client = await free.get()
        await client.ask(request)
        took.append((time.monotonic() - due) * 1000)
        free.put_nowait(client)

    began = time.monotonic()
    tasks = []
    for n in range(int(per_s * seconds)):
        due = began + n / per_s
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        tasks.append(asyncio.create_task(one(requests[n % len(requests)], time.monotonic())))
    await asyncio.gather(*tasks)
    for client in clients:
        client.close()
    return took


def p(values: list[float], percent: int) -> float:
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


# -- what is measured -----------------------------------------------------------------------------


async def parked_polls(port: int, pid: int, workers: list[str], control: redis.Redis) -> None:
    clients = [await Client(port).open() for _ in workers]
    warm = [
        client.ask(request_bytes("POST", f"{wire.QUEUE}?wait=0", worker))
        for client, worker in zip(clients, workers, strict=True)
    ]
    await asyncio.gather(*warm)
    polls_of = [request_bytes("POST", f"{wire.QUEUE}?wait=5", worker) for worker in workers]
    rounds = 3
    began_cpu, began = cpu_s(pid), time.monotonic()

    async def agent(client: Client, request: bytes) -> None:
        for _ in range(rounds):
            assert await client.ask(request) == 204

    agents = [asyncio.create_task(agent(*pair)) for pair in zip(clients, polls_of, strict=True)]
    await asyncio.sleep(4)
    parked_bytes = rss_bytes(pid)
    await asyncio.gather(*agents)
    used_cpu, took_s = cpu_s(pid) - began_cpu, time.monotonic() - began
    polls = rounds * len(workers)
    per_poll_ms = used_cpu / polls * 1000
    empty_bytes = EMPTY_RSS[0]
    print(f"\nparked polls, {len(workers)} at once")
    print(
        f"  memory   {(parked_bytes - empty_bytes) / len(workers) / 1024:6.1f} KiB a parked poll with its connection"
    )
    print(
        f"           {parked_bytes / MiB:6.1f} MiB the whole process, {empty_bytes / MiB:.1f} MiB when nobody is there"
    )
    print(f"  CPU      {per_poll_ms:6.3f} ms a poll from start to 204 ({polls} polls in {took_s:.0f} s)")
    print(
        f"           {per_poll_ms * 10_000 / wire.POLL_WAIT_LIMIT_S / 1000:6.2f} cores for 10,000 agents at {wire.POLL_WAIT_LIMIT_S} s a poll"
    )

    took: list[float] = []
    for n in range(300):
        worker = workers[n % len(workers)]
        poll = asyncio.create_task(clients[n % len(workers)].ask(polls_of[n % len(workers)]))
        await asyncio.sleep(0.01)
        rung = time.monotonic()
        with control.pipeline(transaction=False) as pipeline:
            pipeline.lpush(wire.queue_key(worker), b"x" * 500)
            pipeline.publish(keys.RINGS, worker)
            pipeline.execute()
        assert await poll == 200
        took.append((time.monotonic() - rung) * 1000)
    print(
        f"  ring     {p(took, 50):6.2f} ms p50, {p(took, 99):.2f} ms p99 from LPUSH to the message at the client"
    )
    for client in clients:
        client.close()


EMPTY_RSS = [0]


async def posts(name: str, port: int, pid: int, requests: list[bytes], *, seconds: float) -> None:
    await load(port, requests, connections=16, seconds=0.5)
    began = cpu_s(pid)
    took = await load(port, requests, connections=16, seconds=seconds)
    used_ms = (cpu_s(pid) - began) / len(took) * 1000
    calm = await paced(port, requests, per_s=333, seconds=seconds)
    print(
        f"  {name:34} {len(took) / seconds:7.0f} /s  {used_ms:6.3f} ms CPU  {p(took, 50):6.1f} / {p(took, 99):6.1f} ms"
        f"   at 333/s: {p(calm, 50):5.2f} / {p(calm, 99):6.2f} ms"
    )


async def passing(name: str, port: int, pid: int, *, seconds: float) -> None:
    began = cpu_s(pid)
    took = await load(port, [request_bytes("GET", "/small")], connections=8, seconds=seconds)
    used_ms = (cpu_s(pid) - began) / len(took) * 1000
    line = f"  {name:34} {len(took) / seconds:7.0f} /s  {used_ms:6.3f} ms CPU  {p(took, 50):6.1f} / {p(took, 99):6.1f} ms"
    for what, request in (
        ("up", request_bytes("POST", "/upload", body=bytes(256 * MiB))),
        ("down", request_bytes("GET", "/download")),
    ):
        client = await Client(port).open()
        before, began_s = cpu_s(pid), time.monotonic()
        assert await client.ask(request) == 200
        line += f"   {what} {256 / (time.monotonic() - began_s):5.0f} MiB/s, {(cpu_s(pid) - before) * 4:.2f} CPU s/GiB"
        client.close()
    print(line)


async def measure(
    options: argparse.Namespace, ports: dict[str, int], pids: dict[str, int], control: redis.Redis
) -> None:
    workers = [f"w_{n}" for n in range(options.polls)]
    with control.pipeline(transaction=False) as pipeline:
        for worker in workers:
            pipeline.hset(keys.GATE, worker, '{"epoch": 1, "next_in_s": 30}')
        pipeline.execute()
    EMPTY_RSS[0] = rss_bytes(pids["gateway"])
    await parked_polls(ports["gateway"], pids["gateway"], workers, control)
    requests = [status_request(worker) for worker in workers]
    print(f"\nstatus posts of {len(requests[0])} bytes, 16 connections; latencies p50 / p99")
    for key, name in (
        ("gateway", "gateway"),
        ("peer", "Django view, gunicorn 1x4 threads"),
        ("floor", "bare asyncio, answers only"),
    ):
        await posts(name, ports[key], pids[key], requests, seconds=options.seconds)
    print("\nGET of 2 bytes, 8 connections; one body of 256 MiB; CPU without Django's own")
    await passing("Django direct (its own CPU)", ports["peer"], pids["peer"], seconds=options.seconds)
    await passing(
        "through the gateway (CPU beside)", ports["gateway"], pids["gateway"], seconds=options.seconds
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--polls", type=int, default=2_000, help="parked at once")
    parser.add_argument("--seconds", type=float, default=5.0, help="of load for each line")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="bench-gateway-"))
    broker = valkey.start(folder)
    (folder / "peer.py").write_text(PEER_VIEW)
    ports = {name: free_port() for name in ("gateway", "peer", "floor")}
    key = base64.urlsafe_b64encode(KEY).decode()
    web = str(folder / "web.sock")
    gunicorn = [
        sys.executable, "-m", "gunicorn", "--chdir", str(folder), "--workers", "1", "--threads", "4",
        "--bind", f"127.0.0.1:{ports['peer']}", "--bind", f"unix:{web}", "peer:application",
    ]  # fmt: skip
    gateway_environ = {
        "DORMOUSE_LISTEN": f"127.0.0.1:{ports['gateway']}", "DORMOUSE_UPSTREAM": web, "REDIS_URL": broker.url,
        "DORMOUSE_AGENT_KEYS": f"k:{key}", "DORMOUSE_GATEWAY_POSTS_PER_S": "100000",
    }  # fmt: skip
    run_floor = [
        sys.executable,
        "-c",
        f"import asyncio; from benchmarks.gateway import floor; asyncio.run(floor({ports['floor']}))",
    ]
    print(
        f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}, load {os.getloadavg()[0]:.1f}"
    )
    try:
        with (
            running(gunicorn, listens(ports["peer"]), PEER_KEY=key, REDIS_URL=broker.url) as peer,
            running(
                [sys.executable, "-m", "gateway"], listens(ports["gateway"]), **gateway_environ
            ) as gateway,
            running(run_floor, listens(ports["floor"])) as bare,
            redis.Redis.from_url(broker.url) as control,
        ):
            time.sleep(1)
            pids = {"gateway": gateway.pid, "peer": peer.pid, "floor": bare.pid}
            asyncio.run(measure(options, ports, pids, control))
    finally:
        broker.stop()
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
