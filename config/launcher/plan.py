"""The processes of an installation: command line and environment of each. docs/operations.md shows the same for systemd."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from config.env import Env, env_read
from config.keyfile import agent_keys_text
from config.launcher.processes import Program, Stage
from config.launcher.valkey import valkey_binary, valkey_command
from config.paths import VALKEY_SOCKET, WEB_SOCKET

WEB_WORKERS = 2
WEB_THREADS = 8
QUEUES = {"tick": 1, "chains": 2}
"""Queue → how many processes serve it. One for the ticks: two of the same tick at once gain nothing."""

SECRET = ("DATABASE_URL", "REDIS_URL", "DJANGO_SETTINGS_MODULE", "DEBUG", "LOG_FORMAT")
SECRET_PREFIXES = ("DORMOUSE_", "SNAPSHOT_")


def without_ours(environ: Mapping[str, str]) -> dict[str, str]:
    """The person's environment without anything of the control plane: what an agent, and so a job, may see."""
    return {
        name: value
        for name, value in environ.items()
        if name not in SECRET and not name.startswith(SECRET_PREFIXES)
    }


@dataclass(frozen=True)
class Plan:
    """What to start for `env`, which was read from `environ`."""

    environ: Mapping[str, str]
    env: Env

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> Plan:
        environ = dict(environ)
        environ.pop("DJANGO_SETTINGS_MODULE", None)
        return cls(environ, env_read(environ))

    @property
    def local_host(self) -> str:
        """The name by which this machine reaches the gateway, which may listen on all of its addresses."""
        host = self.env.listen_host
        return {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}.get(host, host)

    @property
    def local_url(self) -> str:
        """Where the gateway is reached from this machine, whatever the public address is."""
        return f"http://{self.local_host}:{self.env.port}"

    @property
    def web_socket(self) -> Path:
        return self.env.run_dir / WEB_SOCKET

    @property
    def valkey_socket(self) -> Path:
        return self.env.run_dir / VALKEY_SOCKET

    def valkey(self) -> Program:
        """Raises ValkeyMissing. Its data folder is its own, so that no other file is taken for its append-only log."""
        folder = self.env.data_dir / "valkey"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        command = valkey_command(binary=valkey_binary(), folder=folder, sock=self.valkey_socket)
        return Program(name="valkey", command=command, env=without_ours(self.environ), stage=Stage.BROKER)

    def prepare(self, *, join_tokens: int = 0) -> Program:
        """Answers with one JSON object: bootstrap_admin's, and as many `tokens` for workers of this machine."""
        return self.command("prepare", "prepare", "--first-start", "--join-tokens", str(join_tokens))

    def command(self, name: str, *arguments: str) -> Program:
        """One of manage.py's commands."""
        return self._django(name, "manage.py", *arguments)

    def web(self) -> Program:
        return self._django(
            "web", "-m", "gunicorn", "config.wsgi:application",
            "--bind", f"unix:{self.web_socket}", "--umask", "63",  # 0o077: the socket is ours alone
            "--worker-class", "gthread", "--workers", str(WEB_WORKERS), "--threads", str(WEB_THREADS),
            "--graceful-timeout", "8", "--timeout", "60", "--preload", "--no-control-socket", "--log-level", "warning",
        )  # fmt: skip

    def gateway(self) -> Program:
        env = without_ours(self.environ) | {
            name: value for name, value in self.environ.items() if name.startswith("DORMOUSE_GATEWAY_")
        }
        env |= {
            "DORMOUSE_LISTEN": self.env.listen,
            "DORMOUSE_UPSTREAM": f"unix:{self.web_socket}",
            "DORMOUSE_AGENT_KEYS": agent_keys_text(self.env.secrets.agent_keys),
            "DORMOUSE_TRUSTED_PROXIES": str(self.env.trusted_proxies),
            "REDIS_URL": self.env.redis_url,
            "LOG_FORMAT": self.env.log_format,
        }
        return self._python("gateway", env, "-m", "gateway")

    def workers(self) -> list[Program]:
        return [
            self._celery(
                f"worker-{queue}", "worker", "--queues", queue, "--concurrency", str(processes),
                "--hostname", f"{queue}@%h", "--without-gossip", "--without-mingle", "--loglevel", "info",
            )
            for queue, processes in QUEUES.items()
        ]  # fmt: skip

    def beat(self) -> Program:
        # Without a pid file: the lease in the database is what keeps two beats from doubling.
        return self._celery("beat", "beat", "--pidfile=", "--loglevel", "info")

    def _celery(self, name: str, *arguments: str) -> Program:
        # `prepare` has just run Django's checks; wrong settings are refused all the same (config.checks).
        return self._django(
            name, "-m", "celery", "--app", "config.celery", "--quiet", "--skip-checks", *arguments
        )

    def _django(self, name: str, *arguments: str) -> Program:
        env = dict(self.environ)
        env |= {"DJANGO_SETTINGS_MODULE": "config.settings", "DORMOUSE_DATA_DIR": str(self.env.data_dir)}
        env |= {"DORMOUSE_PORT": str(self.env.port)}
        return self._python(name, env, *arguments)

    def _python(self, name: str, env: Mapping[str, str], *arguments: str) -> Program:
        return Program(name=name, command=[sys.executable, *arguments], env={**env, "PYTHONUNBUFFERED": "1"})
