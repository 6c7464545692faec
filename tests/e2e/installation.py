"""A whole installation for tests: every process real, in a data folder of its own, each of them to be killed.

installation = Installation(folder).start()
installation.kill("web"); installation.start_again("web")
installation.stop()      # and nothing of it is left, or the test fails
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import requests

from config.launcher import agents
from config.launcher.plan import Plan, without_ours
from config.launcher.processes import Child, Program, Stage, Supervisor
from config.launcher.valkey import answers
from config.paths import CHECKOUT, run_dir_make
from hibernation.providers.local import local_folder
from tests.e2e.client import Client
from tests.e2e.rows import Rows
from tests.e2e.waiting import eventually

READY_WITHIN_S = 90.0
AGENT_ENDS_WITHIN_S = 15.0
LOOK_EVERY_S = 0.1
CHAIN_LEASE_S = 4.0
CELERY = ("-m", "celery")
SERVERS = ("valkey", "web", "gateway", "worker-tick", "worker-chains", "beat", "local-host")


class Installation:
    """Names of processes: SERVERS, and each agent by its own name.

    celery: what replaces `-m celery`; agent: what replaces `-m agent` in boxes and workers. boxes: at once, on all
    machines. kept_up: a process that dies is started again, as systemd would. seconds: of which there is one more.
    """

    def __init__(
        self,
        folder: Path,
        *,
        database_url: str = "",
        celery: Sequence[str] = CELERY,
        agent: str = "agent",
        boxes: int = 16,
        kept_up: bool = False,
        seconds: Sequence[str] = (),
        settings: str = "tests.e2e.settings",
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self.folder = folder
        self.data = folder / "data"
        self._celery = tuple(celery)
        self._agent = agent
        self._boxes = boxes
        self._seconds = tuple(seconds)
        self._settings = settings
        self.plan = Plan.of(_environ(self.data, database_url=database_url, **(environ or {})))
        assert not self.plan.env.problems, self.plan.env.problems
        self.supervisor = Supervisor(cwd=CHECKOUT, logs=self.data / "logs")
        self.programs: dict[str, Program] = {}
        self._children: dict[str, Child] = {}
        self._held_down: set[str] = set()
        self._stopping = threading.Event()
        self._keeper = threading.Thread(target=self._keep_up, name="keeper", daemon=True) if kept_up else None
        self.rows = Rows(self.plan.env)
        self.restarts = 0

    # -- as a whole -----------------------------------------------------------------------------------

    def start(self) -> Installation:
        """Everything up and ready."""
        self.data.mkdir(parents=True, exist_ok=True, mode=0o700)
        run_dir_make(self.plan.env.run_dir)
        self._plan_servers()
        self.launch("valkey")
        eventually(lambda: answers(self.plan.valkey_socket), what="valkey answers")
        self.supervisor.run(self._program(self.plan.prepare()), limit_s=READY_WITHIN_S)
        for name in [*SERVERS[1:], *map(self.second, self._seconds)]:
            self.launch(name)
        self.until_ready()
        if self._keeper is not None:
            self._keeper.start()
        return self

    def until_ready(self) -> None:
        """Until /readyz says so and the local host answers."""
        eventually(self._is_ready, within_s=READY_WITHIN_S, what="the installation is ready")

    def stop(self) -> None:
        """End everything, then hold it to its word: not one process is left."""
        self._stopping.set()
        if self._keeper is not None and self._keeper.is_alive():
            self._keeper.join()
        self.supervisor.stop()
        try:
            eventually(lambda: not self.processes(), within_s=15, what=lambda: f"ended: {self.processes()}")
        finally:
            self.power_cut()

    def power_cut(self) -> None:
        """SIGKILL for everything, boxes and their jobs too, again until nothing is left."""
        self._held_down.update(self._children)

        def cut() -> bool:
            for pid in self.processes():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            for child in self._children.values():
                child.process.poll()
            return not self.processes()

        eventually(cut, what="everything is killed")
        for name in list(self._children):
            self.forget(name)

    def processes(self) -> dict[int, str]:
        """Every living process of this installation, by number: its command line. Known by its environment."""
        mark = os.fsencode(self.data)
        found = {}
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if (
                    mark in (entry / "environ").read_bytes()
                    and b"\nState:\tZ" not in (entry / "status").read_bytes()
                ):
                    found[int(entry.name)] = (
                        (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()[:120]
                    )
        return found

    # -- one process -----------------------------------------------------------------------------------

    def launch(self, name: str) -> Child:
        self.forget(name)
        child = self._children[name] = self.supervisor.start(self.programs[name])
        self._held_down.discard(name)
        return child

    def process(self, name: str) -> subprocess.Popen[bytes]:
        return self._children[name].process

    def pid(self, name: str) -> int:
        return self.process(name).pid

    def kill(self, name: str, *, stay_down: bool = True) -> None:
        """SIGKILL for the process and for all of its group, as a machine that loses power would end them."""
        if stay_down:
            self._held_down.add(name)
        process = self._children[name].process
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def start_again(self, *names: str) -> None:
        for name in names:
            self.launch(name)
        if "valkey" in names:
            eventually(lambda: answers(self.plan.valkey_socket), what="valkey answers again")

    @contextmanager
    def without(self, *names: str) -> Iterator[None]:
        """The block runs while these processes are away, killed; afterwards they are back."""
        for name in names:
            self.kill(name)
        try:
            yield
        finally:
            self.start_again(*names)
            self.until_ready()

    def said(self, name: str) -> str:
        return (self.supervisor.logs / f"{name}.log").read_text(errors="replace")

    # -- what runs on it --------------------------------------------------------------------------------

    def client(self, token: str = "") -> Client:
        """The API as a person; the first administrator where no token is given."""
        return Client(self.url, token=token or (self.data / "admin-token").read_text().strip())

    @property
    def url(self) -> str:
        return self.plan.local_url

    def leave(self, worker_id: str, name: str) -> None:
        """The worker is revoked; its agent ends what it runs, and then itself."""
        self._held_down.add(name)
        self.client().call("POST", f"/api/workers/{worker_id}/revoke", {})
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process(name).wait(AGENT_ENDS_WITHIN_S)
        self.forget(name)

    def join(
        self, account: str, name: str, *, provider: str = "local", extra: Sequence[str] = (), token: str = ""
    ) -> str:
        """A worker of that account with a real agent, online; returns its id."""
        client = self.client()
        token = token or client.ok("POST", "/api/enrollment-tokens", account=account)["token"]
        program = agents.agent_program(
            self.plan, name=name, folder=self.agent_folder(name), token=token, provider=provider, extra=extra
        )
        self.programs[name] = self._agent_program(program)
        self.launch(name)
        return str(eventually(lambda: client.worker(name, status="online"), what=f"{name} is online")["id"])

    def agent_folder(self, name: str) -> Path:
        return self.data / "agents" / name

    @property
    def local_folder(self) -> Path:
        return local_folder(self.data)

    def box_folder(self, ref: str) -> Path:
        return self.local_folder / "boxes" / ref

    def attempt(self, job_id: str, number: int = 1) -> str:
        """The id of the dispatch that is this attempt of a job."""
        row = self.rows.one("SELECT id FROM pool_dispatch WHERE job_id = ? AND number = ?", job_id, number)
        return str(row["id"])

    def manage(self, *words: str) -> str:
        """The output of one of manage.py's commands."""
        program = self._program(self.plan.command("manage", *words))
        return self.supervisor.run(program, limit_s=READY_WITHIN_S).decode()

    def broker(self) -> Any:
        """A connection to its Valkey, to look into or to lose its data."""
        import redis

        return redis.Redis.from_url(self.plan.env.redis_url)

    # -- inside -------------------------------------------------------------------------------------------

    def _plan_servers(self) -> None:
        plan = self.plan
        programs = [
            plan.valkey(),
            plan.web(),
            plan.gateway(),
            *plan.workers(),
            plan.beat(),
            self._local_host(),
        ]
        self.programs.update({program.name: self._program(program) for program in programs})
        assert set(self.programs) >= set(SERVERS)

    def second(self, name: str) -> str:
        """Plan another process like that one, to run at the same time; the name it goes by."""
        number = 1 + sum(other.startswith(name) for other in self.programs)
        again = f"{name}-{number}"
        words = [word.replace("@%h", f"-{number}@%h") for word in self.programs[name].command]
        self.programs[again] = replace(self.programs[name], name=again, command=words)
        return again

    def _program(self, program: Program) -> Program:
        env = dict(program.env)
        if env.get("DJANGO_SETTINGS_MODULE"):
            env["DJANGO_SETTINGS_MODULE"] = self._settings
        words = list(program.command)
        if words[1:3] == list(CELERY):
            words[1:3] = self._celery
        return replace(program, env=env, command=words, server=False)

    def _local_host(self) -> Program:
        program = agents.local_host(self.plan)
        command = f"{sys.executable} -m {self._agent} run --provider local --probe simulated"
        options = ["--boxes", str(self._boxes), "--grace-s", "2", "--agent-command", command]
        return replace(program, command=[*program.command, *options])

    def _agent_program(self, program: Program) -> Program:
        words = [self._agent if word == "agent" else word for word in program.command]
        return replace(program, command=words, stage=Stage.AGENTS)

    def _is_ready(self) -> bool:
        for name in SERVERS:
            ended = self._children[name].process.poll()
            assert ended is None, f"{name} ended with {ended}:\n{self.said(name)[-3000:]}"
        try:
            status = requests.get(f"{self.url}/readyz", timeout=5).status_code
        except requests.RequestException:
            return False
        return status == 200 and (self.local_folder / "host.json").exists()

    def _keep_up(self) -> None:
        while not self._stopping.wait(LOOK_EVERY_S):
            for name, child in list(self._children.items()):
                if child.process.poll() is not None and name not in self._held_down:
                    self.restarts += 1
                    self.launch(name)
        self._stopping.wait()

    def forget(self, name: str) -> None:
        """End it, with all of its group, for good."""
        child = self._children.pop(name, None)
        if child is None:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.process.pid, signal.SIGKILL)
        child.process.wait()
        self.supervisor.children.remove(child)


def _environ(data: Path, *, database_url: str, **more: str) -> dict[str, str]:
    kept = without_ours(os.environ)
    kept.pop("PYTEST_CURRENT_TEST", None)
    port = _free_port()
    own = {
        "DORMOUSE_DATA_DIR": str(data),
        "DORMOUSE_PORT": str(port),
        "DORMOUSE_CHAIN_LEASE_S": str(CHAIN_LEASE_S),
        "DORMOUSE_LOCAL_AGENTS": "0",
        # How all of its processes are known again. Agents and their jobs inherit it; the boxes' have the path elsewhere.
        "INSTALLATION_UNDER_TEST": str(data),
        "AGENT_BACKOFF_CAP_S": "1",
    }
    return {**kept, **own, **({"DATABASE_URL": database_url} if database_url else {}), **more}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
