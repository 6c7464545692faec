"""Every environment variable of the control plane, read once, in one place. Standard library only.

`env_read` never raises on a wrong value: it collects Problems (see `config.reader`). The launcher reads the same
variables through the same function as the settings do.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl, unquote

from config.env_alerts import Alerts, alerts_read, health_places_read, private_networks_read
from config.env_jobs import Jobs, jobs_read
from config.keyfile import Secrets, secrets_read
from config.paths import VALKEY_SOCKET, data_dir, run_dir
from config.reader import Problem, Reader
from core.places import Network, Place

POSTGRES = ("postgres", "postgresql")
REDIS = ("redis", "rediss", "unix")


@dataclass(frozen=True, kw_only=True)
class S3:
    """Where snapshots go when SNAPSHOT_STORE is s3://bucket/prefix."""

    bucket: str
    prefix: str
    endpoint: str
    region: str
    access_key_id: str
    secret_access_key: str
    path_style: bool


@dataclass(frozen=True, kw_only=True)
class Postgres:
    """The parts of DATABASE_URL. options: what follows the question mark, passed to libpq as it stands."""

    name: str
    user: str
    password: str
    host: str
    port: str
    options: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Env:
    """What the environment says. Addresses carry no trailing slash; chain_lease_s and beat_lease_s are seconds;
    listen is the gateway's host:port, port the same port; trusted_proxies counts the TLS proxies that stand before the gateway."""

    data_dir: Path
    run_dir: Path
    port: int
    listen: str
    listen_host: str
    public_url: str
    public_host: str
    https: bool
    postgres: Postgres | None
    redis_url: str
    redis_embedded: bool
    snapshot_store: str
    snapshot_s3: S3 | None
    debug: bool
    demo: bool
    log_format: str
    trusted_proxies: int
    chain_lease_s: float
    beat_lease_s: float
    agent_transport: str
    local_agents: int
    private_networks: tuple[Network, ...]
    health_places: tuple[Place, ...]
    alerts: Alerts
    jobs: Jobs
    kaggle_url: str
    vast_url: str
    vast_image: str
    dead_man_minutes: float
    checkpoint_keep_days: float
    secrets: Secrets
    problems: tuple[Problem, ...]


def env_read(environ: Mapping[str, str]) -> Env:
    """The settings of this process, with every problem found on the way. Makes the secrets file when it is missing."""
    reader = Reader(environ)
    data = data_dir(environ)
    sockets = run_dir(data, environ)
    listen_host, port = _listen(reader)
    public = reader.url(
        "DORMOUSE_PUBLIC_URL", f"http://127.0.0.1:{port}", schemes=("https", "http"), id="E003"
    )
    if not public.hostname or public.path.strip("/") or public.query or public.username:
        reader.problem("E003", "DORMOUSE_PUBLIC_URL", "is more or less than an origin: write https://host[:port], "
                       "because the console and the agents expect it at the top of its host")  # fmt: skip
    store, s3 = _snapshot_store(reader, data)
    host = public.hostname or "127.0.0.1"
    demo = reader.flag("DORMOUSE_DEMO", id="E007")
    for name, place in (("DORMOUSE_PUBLIC_URL", host), ("DORMOUSE_LISTEN", listen_host)):
        if demo and not loopback(place):
            reader.problem(
                "E013",
                "DORMOUSE_DEMO",
                f"is on while {name} names {place}, and there anyone could sign in as admin/admin: unset one of them",
            )
    private = private_networks_read(reader)
    return Env(
        data_dir=data,
        run_dir=sockets,
        port=port,
        listen=f"{listen_host}:{port}",
        listen_host=listen_host,
        public_url=f"{public.scheme}://{public.netloc}",
        public_host=host,
        https=public.scheme == "https",
        postgres=_postgres(reader),
        redis_url=_redis_url(reader, embedded=f"unix://{sockets / VALKEY_SOCKET}"),
        redis_embedded=not reader.text("REDIS_URL"),
        snapshot_store=store,
        snapshot_s3=s3,
        debug=reader.flag("DEBUG", id="E007"),
        demo=demo,
        log_format=reader.choice("LOG_FORMAT", "text", ("text", "json"), id="E008"),
        trusted_proxies=reader.whole(
            "DORMOUSE_TRUSTED_PROXIES", 0, low=0, high=16, unit="a count of proxies", id="E009"
        ),
        chain_lease_s=reader.number(
            "DORMOUSE_CHAIN_LEASE_S", 60, low=1, high=900, unit="a number of seconds", id="E010"
        ),
        beat_lease_s=reader.number(
            "DORMOUSE_BEAT_LEASE_S", 12, low=1, high=300, unit="a number of seconds", id="E010"
        ),
        agent_transport=reader.choice("DORMOUSE_AGENT_TRANSPORT", "https", ("https", "redis"), id="E011"),
        local_agents=reader.whole(
            "DORMOUSE_LOCAL_AGENTS", 3, low=0, high=16, unit="a number of workers", id="E014"
        ),
        private_networks=private,
        health_places=health_places_read(reader),
        alerts=alerts_read(reader, private=private, public_host=host),
        jobs=jobs_read(reader),
        kaggle_url=_kaggle_url(reader),
        vast_url=_vast_url(reader),
        vast_image=reader.text("DORMOUSE_VAST_IMAGE"),
        dead_man_minutes=reader.number(
            "DORMOUSE_DEAD_MAN_MINUTES",
            60,
            low=0,
            high=10_080,
            unit="a number of minutes, 0 for never",
            id="E017",
        ),
        checkpoint_keep_days=reader.number(
            "DORMOUSE_CHECKPOINT_KEEP_DAYS", 7, low=0, high=3_650, unit="a number of days", id="E026"
        ),
        secrets=secrets_read(reader, data),
        problems=tuple(reader.problems),
    )


def broker_url(redis_url: str) -> str:
    """The same Redis in the form that kombu reads: it calls a unix socket redis+socket:// and its database virtual_host."""
    if not redis_url.startswith("unix://"):
        return redis_url
    path, _, query = redis_url.removeprefix("unix://").partition("?")
    return f"redis+socket://{path}?virtual_host={dict(parse_qsl(query)).get('db', '0')}"


def loopback(host: str) -> bool:
    """Whether only this machine reaches that host name or address."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _kaggle_url(reader: Reader) -> str:
    """Where Kaggle's API is; another address only for tests and for those who must go through a relay of their own."""
    parts = reader.url(
        "DORMOUSE_KAGGLE_URL", "https://api.kaggle.com/v1", schemes=("https", "http"), id="E015"
    )
    if not parts.hostname or parts.query or parts.username:
        reader.problem(
            "E015", "DORMOUSE_KAGGLE_URL", "is more or less than an address: write https://host/path"
        )
    return f"{parts.scheme}://{parts.netloc}{parts.path}".rstrip("/")


def _vast_url(reader: Reader) -> str:
    """Where vast.ai's API is, if not at its own address: a simulator, or a proxy that must be passed."""
    if not reader.text("DORMOUSE_VAST_URL"):
        return ""
    parts = reader.url("DORMOUSE_VAST_URL", "", schemes=("https", "http"), id="E016")
    if parts.scheme == "http" and not loopback(parts.hostname or ""):
        reader.problem(
            "E016", "DORMOUSE_VAST_URL", "sends the accounts' keys over http to another machine: use https"
        )
    return reader.text("DORMOUSE_VAST_URL").rstrip("/")


def _listen(reader: Reader) -> tuple[str, int]:
    """Where the gateway listens: DORMOUSE_LISTEN whole, else DORMOUSE_PORT on this machine alone."""
    port = reader.whole("DORMOUSE_PORT", 8000, low=1, high=65535, unit="a port", id="E002")
    value = reader.text("DORMOUSE_LISTEN", f"127.0.0.1:{port}")
    host, _, tail = value.rpartition(":")
    if (
        host
        and (":" not in host or host.startswith("["))
        and tail.isascii()
        and tail.isdigit()
        and 0 < int(tail) < 65536
    ):
        return host, int(tail)
    reader.problem(
        "E002",
        "DORMOUSE_LISTEN",
        f"is {value!r}, which is no host:port: write for example 0.0.0.0:8000 or [::]:8000",
    )
    return "127.0.0.1", port


def _postgres(reader: Reader) -> Postgres | None:
    if not reader.text("DATABASE_URL"):
        return None
    parts = reader.url("DATABASE_URL", "", schemes=POSTGRES, id="E004")
    if parts.scheme not in POSTGRES:
        return None
    name = unquote(parts.path.lstrip("/"))
    if not name or "/" in name:
        reader.problem(
            "E004", "DATABASE_URL", "names no database: write postgresql://user:password@host:5432/dormouse"
        )
        return None
    options = dict(parse_qsl(parts.query))
    return Postgres(
        name=name,
        user=unquote(parts.username or ""),
        password=unquote(parts.password or ""),
        host=options.pop("host", "") or unquote(parts.hostname or ""),
        port=options.pop("port", "") or str(parts.port or ""),
        options=options,
    )


def _redis_url(reader: Reader, *, embedded: str) -> str:
    """In redis-py's form. The text itself, because urllib writes unix:///path back as unix:/path."""
    parts = reader.url("REDIS_URL", embedded, schemes=REDIS, id="E005")
    place = parts.path if parts.scheme == "unix" else parts.hostname
    database = (
        dict(parse_qsl(parts.query)).get("db", "0") if parts.scheme == "unix" else parts.path.strip("/")
    )
    if not place or not (database or "0").isdigit():
        reader.problem("E005", "REDIS_URL", "names no server: write redis://host:6379/0, rediss://:password@host:6379/0 "
                       "or unix:///path/of/the.sock?db=0")  # fmt: skip
        return embedded
    return reader.text("REDIS_URL", embedded) if parts.scheme in REDIS else embedded


def _snapshot_store(reader: Reader, data: Path) -> tuple[str, S3 | None]:
    """("s3://bucket/prefix", S3) or (folder, None)."""
    value = reader.text("SNAPSHOT_STORE")
    if "://" not in value:
        folder = Path(value).expanduser() if value else data / "snapshots"
        if not folder.is_absolute():
            reader.problem("E006", "SNAPSHOT_STORE", f"is {value!r}, which means another folder for each process's working "
                           "directory: write the whole path or s3://bucket")  # fmt: skip
            folder = data / "snapshots"
        return str(folder), None
    parts = reader.url("SNAPSHOT_STORE", "", schemes=("s3",), id="E006")
    if parts.scheme != "s3" or not parts.netloc:
        if parts.scheme == "s3":
            reader.problem(
                "E006", "SNAPSHOT_STORE", "names no bucket: write s3://bucket or s3://bucket/prefix"
            )
        return str(data / "snapshots"), None
    for name in ("SNAPSHOT_S3_ACCESS_KEY_ID", "SNAPSHOT_S3_SECRET_ACCESS_KEY"):
        if not reader.text(name):
            reader.problem("E006", name, f"is not set, but SNAPSHOT_STORE is the bucket {parts.netloc}: "
                           "set it to a key that may read, write and list that bucket")  # fmt: skip
    endpoint = reader.text("SNAPSHOT_S3_ENDPOINT")
    if endpoint:
        reader.url("SNAPSHOT_S3_ENDPOINT", "", schemes=("https", "http"), id="E006")
    prefix = parts.path.strip("/")
    s3 = S3(
        bucket=parts.netloc,
        prefix=prefix,
        endpoint=endpoint.rstrip("/"),
        # R2 wants "auto"; Amazon's own endpoint needs a real region.
        region=reader.text("SNAPSHOT_S3_REGION", "auto" if endpoint else "us-east-1"),
        access_key_id=reader.text("SNAPSHOT_S3_ACCESS_KEY_ID"),
        secret_access_key=reader.text("SNAPSHOT_S3_SECRET_ACCESS_KEY"),
        path_style=reader.flag("SNAPSHOT_S3_PATH_STYLE", id="E006"),
    )
    return f"s3://{s3.bucket}{f'/{prefix}' if prefix else ''}", s3
