"""What the person who starts the agent decides, from the command line and the environment."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

from agent import __version__
from agent.errors import UsageError
from agent.own_box import KEY_VARIABLE

PROVIDERS = ("colab", "kaggle", "vast", "local")
PROBES = ("auto", "nvml", "nvidia-smi", "simulated", "none")
BACKOFF_CAP_S = 30.0

_EPILOG = """\
environment: DORMOUSE_URL, DORMOUSE_JOIN_TOKEN (keeps the token out of the process list), DORMOUSE_AGENT_DIR,
DORMOUSE_WORKSPACE, DORMOUSE_AGENT_NAME, DORMOUSE_PROVIDER, DORMOUSE_SESSION_STARTED, DORMOUSE_HEALTH_URL,
DORMOUSE_PROBE, AGENT_LOG=debug|info|warning,
AGENT_BACKOFF_CAP_S (longest wait between two tries, default 30). exit codes: 0 ended as asked, 2 wrong usage,
3 refused: a newer box has taken over or the worker was revoked, 4 cannot enrol, 5 not enrolled within --enrol-within.
"""


@dataclass(frozen=True, kw_only=True)
class Options:
    """url without a trailing slash, None where only the state directory knows it; token None after the first start."""

    url: str | None
    token: str | None = field(repr=False)
    name: str
    provider: str
    state_dir: Path
    workspace: Path | None
    health_port: int
    health_url: str
    session_started: datetime | None
    enrol_within_s: float | None
    probe: str
    backoff_cap_s: float
    log_level: str


def parse(arguments: Sequence[str], environ: Mapping[str, str]) -> Options:
    """Raises UsageError, or SystemExit(2) where argparse says it itself."""
    parser = argparse.ArgumentParser(
        prog="dormouse-agent",
        description="Joins this machine to a Dormouse pool and runs its jobs. Outbound HTTPS only.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=__version__)
    words = parser.add_subparsers(dest="word", required=True, metavar="run")
    run = words.add_parser("run", help="join (the first time) and work until told to end", epilog=_EPILOG,
                           formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    run.add_argument("--join", nargs="+", metavar=("URL", "TOKEN"),
                     help="the control plane's address, and the one-use token for the first start")  # fmt: skip
    run.add_argument(
        "--name", default=environ.get("DORMOUSE_AGENT_NAME", ""), help="how people call this worker"
    )
    run.add_argument(
        "--provider",
        default=environ.get("DORMOUSE_PROVIDER", ""),
        choices=("", *PROVIDERS),
        metavar="|".join(PROVIDERS),
    )
    run.add_argument("--state-dir", default=environ.get("DORMOUSE_AGENT_DIR", ""), metavar="DIR",
                     help="identity, journal and output until delivered (default ~/.dormouse-agent)")  # fmt: skip
    run.add_argument("--workspace", default=environ.get("DORMOUSE_WORKSPACE", ""), metavar="DIR",
                     help="the folder that snapshots hold; without it each job gets a folder of its own")  # fmt: skip
    run.add_argument(
        "--health-port", default="0", metavar="P", help="port of GET /health on 127.0.0.1 (0: a free one)"
    )
    run.add_argument("--health-url", default=environ.get("DORMOUSE_HEALTH_URL", ""), metavar="URL",
                     help="where the control plane reaches that /health, if it can: a tunnel's address, say")  # fmt: skip
    run.add_argument("--session-started", default=environ.get("DORMOUSE_SESSION_STARTED", ""), metavar="RFC3339",
                     help="when the provider's session began (default: the first start on this machine)")  # fmt: skip
    run.add_argument("--enrol-within", default="", metavar="SECONDS",
                     help="end with 5 where the control plane lets nobody enrol for so long (default: wait for ever)")  # fmt: skip
    run.add_argument("--probe", default=environ.get("DORMOUSE_PROBE") or "auto", choices=PROBES,
                     help="how GPUs are read (default auto)")  # fmt: skip
    found = parser.parse_args(arguments)
    if found.probe not in PROBES:
        raise UsageError(f"DORMOUSE_PROBE {found.probe!r} is no probe", hint=", ".join(PROBES))
    join: list[str] = found.join or []
    if len(join) > 2:
        raise UsageError("--join takes an address and a token", hint="--join URL TOKEN")
    url = join[0] if join else environ.get("DORMOUSE_URL", "")
    token = join[1] if len(join) == 2 else environ.get("DORMOUSE_JOIN_TOKEN", "")
    return Options(
        url=_url(url) if url else None,
        token=token.strip() or None,
        name=found.name,
        provider=found.provider,
        state_dir=Path(found.state_dir or Path.home() / ".dormouse-agent").expanduser().absolute(),
        workspace=Path(found.workspace).expanduser().absolute() if found.workspace else None,
        health_port=_port(found.health_port),
        health_url=_health_url(found.health_url) if found.health_url else "",
        session_started=_time(found.session_started) if found.session_started else None,
        enrol_within_s=_patience(found.enrol_within) if found.enrol_within else None,
        probe=found.probe,
        backoff_cap_s=_seconds(environ.get("AGENT_BACKOFF_CAP_S", ""), default=BACKOFF_CAP_S),
        log_level=_level(environ.get("AGENT_LOG", "info")),
    )


OURS = ("DORMOUSE_", "AGENT_", KEY_VARIABLE)
NOTEBOOKS_OWN = ("KAGGLE_", "COLAB_", "TBE_")
"""What the providers of notebooks put into the kernel's environment: tokens for the person's secrets and data, for the
notebook's own server, and the address that hands out her credentials and ends the runtime."""
HARMLESS = frozenset(
    {
        "KAGGLE_KERNEL_RUN_TYPE", "KAGGLE_DOCKER_IMAGE", "KAGGLE_CONTAINER_NAME",
        "COLAB_GPU", "COLAB_RELEASE_TAG", "COLAB_TPU_ADDR",
    }
)  # fmt: skip
"""What programs ask to learn where they run and on what."""


def child_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """What children inherit: the user's environment, without anything of the agent's own or of the notebook's."""
    return {
        name: value
        for name, value in environ.items()
        if name in HARMLESS or not name.startswith((*OURS, *NOTEBOOKS_OWN))
    }


def shed_foreign_settings() -> None:
    """Celery lets the environment overrule a broker given in code, and loads Django where it is named. Not here."""
    for name in [n for n in os.environ if n.startswith("CELERY_") or n == "DJANGO_SETTINGS_MODULE"]:
        del os.environ[name]


def _url(text: str) -> str:
    parts = urlsplit(text.strip())
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(
            f"{text!r} is not the address of a control plane", hint="give it as https://pool.example.com"
        )
    if parts.username or parts.query or parts.fragment:
        raise UsageError(
            "the control plane's address has a user, a query or a fragment",
            hint="give scheme, host and port only",
        )
    return f"{parts.scheme}://{parts.netloc}{parts.path}".rstrip("/")


def _health_url(text: str) -> str:
    try:
        parts = urlsplit(text.strip())
        known = parts.port is None or parts.port > 0
    except ValueError:
        known = False
    if not known or parts.scheme not in ("http", "https") or not parts.hostname or parts.path != "/health":
        raise UsageError(
            f"--health-url {text!r} is not the address of a /health",
            hint="like https://gpu.example.org/health",
        )
    if parts.username or parts.query or parts.fragment or len(text) > 200:
        raise UsageError(
            "--health-url has a user, a query or a fragment, or is longer than 200 characters",
            hint="give scheme, host and port, and the path /health",
        )
    return text.strip()


def _port(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,5}", text) or int(text) > 65535:
        raise UsageError(f"--health-port {text!r} is not a port", hint="0 to 65535; 0 takes a free one")
    return int(text)


def _time(text: str) -> datetime:
    try:
        at = datetime.fromisoformat(text.strip())
    except ValueError as error:
        raise UsageError(
            f"--session-started {text!r} is not a time", hint="like 2026-11-21T14:30:00Z"
        ) from error
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def _patience(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= 7 * 24 * 3600:
        raise UsageError(f"--enrol-within {text!r} is not a number of seconds", hint="0 to a week")
    return seconds


def _seconds(text: str, *, default: float) -> float:
    if not text:
        return default
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0.01 <= seconds <= 3600:
        raise UsageError(f"AGENT_BACKOFF_CAP_S {text!r} is not a number of seconds", hint="0.01 to 3600")
    return seconds


def _level(text: str) -> str:
    if text.lower() not in ("debug", "info", "warning", "error"):
        raise UsageError(f"AGENT_LOG {text!r} is not a log level", hint="debug, info, warning or error")
    return text.lower()
