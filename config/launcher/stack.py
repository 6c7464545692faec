"""Brings the whole installation up, in order, each part awaited; `./run` and `./run demo` stand on it."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from config.launcher import agents
from config.launcher.asking import get
from config.launcher.guard import guarded
from config.launcher.lockfile import STARTING, AlreadyRunning, Lock
from config.launcher.plan import QUEUES, Plan
from config.launcher.ports import NoPort, is_free, next_free
from config.launcher.processes import Child, Failed, StopAsked, Supervisor
from config.launcher.valkey import ValkeyMissing, answers
from config.paths import CHECKOUT, RunFolderRefused, run_dir_make

PREPARE_LIMIT_S = 300.0
READY_LIMIT_S = 90.0
"""Until a part answers. Two busy cores can make a Python process of this size take twenty seconds."""

READY_EVERY_S = 0.25
"""Each question goes through gateway, Django, database and Redis, while all of them are starting."""

HTTP_OK = 200

PRESENT = ("online", "draining")
"""What the API calls a worker that it hears of."""


class Refused(Exception):
    """It cannot be started as asked; the text holds one sentence a line."""


@dataclass
class Stack:
    """Everything that one launcher started. first: what `prepare` answered (username, password, tokens).
    data_kept: what to say at the end."""

    plan: Plan
    supervisor: Supervisor
    started_s: float = field(default_factory=time.monotonic)
    first: Mapping[str, Any] = field(default_factory=dict)
    data_kept: bool = True

    @property
    def logs(self) -> Path:
        return self.supervisor.logs

    @property
    def url(self) -> str:
        return self.plan.env.public_url

    @property
    def token_file(self) -> Path:
        return self.plan.env.data_dir / "admin-token"

    def start(self, *, local_workers: bool = True) -> None:
        """All processes, each ready. Raises Failed (what did not come up, with the end of its log) or StopAsked."""
        self._broker()
        self._database(join_tokens=len(agents.newcomers(self.plan)) if local_workers else 0)
        self._servers()
        if local_workers:
            self._agents()

    def missing(self) -> list[str]:
        """What /readyz still misses of the servers; empty when they all work."""
        status, body = self.get("/readyz")
        if status == HTTP_OK:
            return []
        try:
            return [part for part in json.loads(body)["missing"] if part != STARTING]
        except (ValueError, KeyError):
            return [f"/readyz answers {status}" if status else "the gateway does not answer"]

    def get(self, path: str, *, token: str = "") -> tuple[int, bytes]:
        """GET through the gateway."""
        return get(path, host=self.plan.local_host.strip("[]"), port=self.plan.env.port, token=token)

    def watch(self) -> None:
        """Until somebody asks to stop (StopAsked) or a server ends by itself (Failed)."""
        while True:
            if self.supervisor.stop_asked:
                raise StopAsked
            for child in self.supervisor.look():
                say("!", child.program.name, f"has ended; its log: {shown(child.log)}")
            time.sleep(0.2)

    def _broker(self) -> None:
        if not self.plan.env.redis_embedded:
            say("✓", "broker", "the one of REDIS_URL")
            return
        try:
            program = self.plan.valkey()
        except ValkeyMissing as error:
            raise Failed(str(error)) from error
        child = self.supervisor.start(program)
        self._wait(child, lambda: answers(self.plan.valkey_socket))
        say("✓", "broker", f"private, unix socket ({Path(program.command[0]).name})")

    def _database(self, *, join_tokens: int) -> None:
        answer = self.supervisor.run(self.plan.prepare(join_tokens=join_tokens), limit_s=PREPARE_LIMIT_S)
        self.first = json.loads(answer.decode().strip().splitlines()[-1])
        kind = "PostgreSQL" if self.plan.env.postgres else "SQLite"
        say("✓", "database", f"{kind}, migrated")

    def _servers(self) -> None:
        """Started together and awaited one after the other: each needs a second or two of processor time."""
        plan = self.plan
        web = self.supervisor.start(plan.web())
        gateway = self.supervisor.start(plan.gateway())
        workers = [self.supervisor.start(program) for program in plan.workers()]
        beat = self.supervisor.start(plan.beat())
        local_host = agents.local_host(plan)
        if local_host:
            self.supervisor.start(local_host)
        self._wait(web, lambda: get("/healthz", sock=plan.web_socket)[0] == HTTP_OK)
        self._wait(gateway, lambda: self.get("/healthz")[0] == HTTP_OK)
        say("✓", "web", f"{self.plan.local_url}")
        for worker in workers:
            self._wait(worker, partial(_has_said, worker, b" ready."))
        try:
            self.supervisor.wait_until(
                beat, lambda: not self.missing(), limit_s=READY_LIMIT_S, every_s=READY_EVERY_S
            )
        except Failed as error:
            raise Failed("\n".join([str(error), "Still missing:", *self.missing()])) from error
        say("✓", "worker + beat", f"Celery, {sum(QUEUES.values())} slots")

    def _agents(self) -> None:
        """An agent that does not come up is said and no more: the installation works without it."""
        programs = agents.local_agents(self.plan, self.first["tokens"])
        children = [self.supervisor.start(program) for program in programs]
        folders = agents.folders(self.plan)
        joined = 0
        for child in children:
            try:
                self._wait(child, partial(_has_said, child, agents.LISTENS))
                self._wait(child, partial(self._has_joined, folders[child.program.name]))
            except Failed as error:
                say("!", child.program.name, str(error))
            else:
                joined += 1
        if joined:
            say("✓", "agents", f"{joined} workers with simulated GPUs")

    def _has_joined(self, folder: Path) -> bool:
        """Does the pool know that the agent of that folder is there? Whether it gets work is the pool's own business."""
        status, body = self.get(
            f"/api/workers/{agents.worker_id(folder)}", token=self.token_file.read_text().strip()
        )
        return status == HTTP_OK and json.loads(body)["status"] in PRESENT

    def _wait(self, child: Child, ready: Callable[[], bool]) -> None:
        self.supervisor.wait_until(child, ready, limit_s=READY_LIMIT_S)


def run_guarded(environ: Mapping[str, str], body: Callable[[Stack, Lock], int]) -> int:
    """Check, lock, choose a port, then `body(stack, lock)` in a guard; whatever it started is stopped afterwards.

    Returns the exit code: body's own, 0 after a request to stop, 1 after a failure, 2 where nothing was started.
    """
    try:
        plan, lock = _plan(environ)
    except (Refused, AlreadyRunning) as error:
        print(error, flush=True)
        return 1 if isinstance(error, AlreadyRunning) else 2
    return guarded(lambda: _work(plan, lock, body))


def _plan(environ: Mapping[str, str]) -> tuple[Plan, Lock]:
    plan = Plan.of(environ)
    if plan.env.problems:
        raise Refused("\n".join(["Dormouse cannot start with these settings:", *map(str, plan.env.problems)]))
    try:
        lock = Lock.take(plan.env.data_dir)
        run_dir_make(plan.env.run_dir)
        return _with_port(plan), lock
    except (RunFolderRefused, NoPort) as error:
        raise Refused(str(error)) from error
    except OSError as error:
        raise Refused(
            f"DORMOUSE_DATA_DIR cannot be used ({error}): make it this user's or name another"
        ) from error


def _with_port(plan: Plan) -> Plan:
    """The plan, moved to the next free port where its own is taken and nobody outside counts on it."""
    host, port = plan.env.listen_host, plan.env.port
    fixed = [name for name in ("DORMOUSE_LISTEN", "DORMOUSE_PUBLIC_URL") if plan.environ.get(name)]
    if is_free(host, port):
        return plan
    if fixed:
        raise NoPort(
            f"{plan.env.listen} is taken, and {' and '.join(fixed)} may name no other: free it or change them"
        )
    free = next_free(host, port + 1)
    print(f"Port {port} is taken; using {free}.", flush=True)
    return Plan.of({**plan.environ, "DORMOUSE_PORT": str(free)})


def _work(plan: Plan, lock: Lock, body: Callable[[Stack, Lock], int]) -> int:
    os.umask(0o077)  # database, logs and sockets are nobody else's business
    stack = Stack(plan, Supervisor(cwd=CHECKOUT, logs=plan.env.data_dir / "logs"))
    stack.supervisor.watch_signals()
    try:
        code = body(stack, lock)
    except StopAsked:
        code = 0
    except Failed as error:
        print(f"\n{error}", flush=True)
        code = 1
    _stop(stack)
    return code


def _stop(stack: Stack) -> None:
    began_s = time.monotonic()
    count = len(stack.supervisor.children)
    print("\nStopping", flush=True)
    for name in stack.supervisor.stop():
        say("!", name, "did not end by itself and was killed")
    took_s = time.monotonic() - began_s
    kept = f" Data kept in {shown(stack.plan.env.data_dir)}/." if stack.data_kept else ""
    print(f"Stopped {count} processes in {took_s:.1f} s.{kept}", flush=True)


def _has_said(child: Child, words: bytes) -> bool:
    return words in child.said()


def say(mark: str, name: str, text: str = "") -> None:
    print(f"  {mark} {name:<14} {text}", flush=True)


def shown(path: Path) -> str:
    """A path as a person in the checkout would write it."""
    return str(path.relative_to(CHECKOUT)) if path.is_relative_to(CHECKOUT) else str(path)
