"""Checks that touch the world: the data folder, the database, Redis, the snapshot store, the stored secrets.

`manage.py check` stays offline; `manage.py check --probe` and `manage.py prepare` run these as well.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable

import redis
from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning
from django.db import DatabaseError, NotSupportedError, connection
from django.db.migrations.executor import MigrationExecutor

from config.demo_login import demo_admins
from config.env import loopback
from config.paths import RunFolderRefused, run_dir_make
from config.stored import secret_columns
from core import broker
from core.fields import SecretUnreadable
from snapshots.engine.errors import EngineError
from snapshots.engine.store import open_store

PROBE_PREFIX = "probe-that-matches-nothing"


def probe_data_dir() -> list[CheckMessage]:
    """Only its owner may look in, because it holds the keys."""
    try:
        settings.DATA_DIR.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryFile(dir=settings.DATA_DIR):
            pass
        run_dir_make(settings.RUN_DIR)
    except RunFolderRefused as error:
        return [Error(f"The folder for the sockets cannot be used: {error}.", id="dormouse.E020")]
    except OSError as error:
        text = f"DORMOUSE_DATA_DIR ({settings.DATA_DIR}) cannot be written ({error.strerror}): make it this user's or name another."
        return [Error(text, id="dormouse.E020")]
    if settings.DATA_DIR.stat().st_mode & 0o077 and os.name == "posix":
        text = (
            f"DORMOUSE_DATA_DIR ({settings.DATA_DIR}) is open to other users: chmod 700 {settings.DATA_DIR}."
        )
        return [Warning(text, id="dormouse.W020")]
    return []


def probe_database() -> list[CheckMessage]:
    """Reachable, of a version that Django supports, and for SQLite on a file system that can do WAL."""
    name = (
        "DATABASE_URL"
        if settings.ENV.postgres
        else f"The SQLite database ({settings.DATABASES['default']['NAME']})"
    )
    try:
        connection.ensure_connection()
        connection.check_database_version_supported()
        with connection.cursor() as cursor:
            cursor.execute("PRAGMA journal_mode" if connection.vendor == "sqlite" else "SELECT 1")
            answer = cursor.fetchone()
    except NotSupportedError as error:
        return [Error(f"{name} is too old: {error}.".replace("..", "."), id="dormouse.E021")]
    except DatabaseError as error:
        reason = " ".join(str(error).split())
        text = f"{name} cannot be reached ({reason}): check that it runs and that address, user and password are right."
        return [Error(text, id="dormouse.E021")]
    if connection.vendor == "sqlite" and answer and answer[0] not in ("wal", "memory"):
        text = f"{name} lies on a file system without shared memory: put DORMOUSE_DATA_DIR on a local disk, or set DATABASE_URL."
        return [Error(text, id="dormouse.E021")]
    return []


def probe_redis() -> list[CheckMessage]:
    """Reachable, and not of the kind that forgets when it is full."""
    try:
        memory = broker.client().info("memory")
    except redis.exceptions.NoPermissionError:
        return []  # a hosted one that hides its settings
    except redis.RedisError as error:
        text = f"REDIS_URL cannot be reached ({error}): start it or correct the address."
        return [Error(text, id="dormouse.E022")]
    policy = memory.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        text = f"REDIS_URL forgets keys when it is full (maxmemory-policy {policy}), which loses doorbells: set it to noeviction."
        return [Warning(text, id="dormouse.W022")]
    return []


def probe_store() -> list[CheckMessage]:
    """The store lists. Whether it also takes an object shows at the first snapshot, which is verified anyway."""
    s3 = settings.SNAPSHOT_S3
    try:
        open_store(
            settings.SNAPSHOT_STORE,
            base_url=f"{settings.PUBLIC_URL}/store",
            signing_key=settings.STORE_SIGNING_KEY.encode(),
            endpoint_url=s3.get("endpoint") or None,
            access_key=s3.get("access_key_id"),
            secret_key=s3.get("secret_access_key"),
            region=s3.get("region", "auto"),
            path_style=s3.get("path_style", False),
        ).list(PROBE_PREFIX)
    except EngineError as error:
        text = f"SNAPSHOT_STORE ({settings.SNAPSHOT_STORE}) cannot be used: {error}."
        return [Error(text, id="dormouse.E023")]
    return []


def probe_secrets() -> list[CheckMessage]:
    """Every encrypted column of every row opens with the keys at hand, and no demo's password is left.
    Skipped before the first migration."""
    executor = MigrationExecutor(connection)
    if executor.migration_plan(executor.loader.graph.leaf_nodes()):
        return []
    found: list[CheckMessage] = []
    if not settings.DEMO and demo_admins():
        text = "An administrator's password is still the demo's: manage.py bootstrap_admin gives a new one."
        found.append((Warning if loopback(settings.ENV.public_host) else Error)(text, id="dormouse.E025"))
    for model, field in secret_columns():
        try:
            for _ in model._base_manager.values_list(field.name).iterator():
                pass
        except SecretUnreadable as error:
            text = f"A stored secret cannot be read ({error}): add the key that wrote it to FIELD_KEYS."
            found.append(Error(text, id="dormouse.E024"))
    return found


PROBES: tuple[Callable[[], list[CheckMessage]], ...] = (
    probe_data_dir,
    probe_database,
    probe_redis,
    probe_store,
    probe_secrets,
)


def probe_all() -> list[CheckMessage]:
    """Every probe; the database's neighbours are not asked through a database that is away."""
    found: list[CheckMessage] = []
    for probe in PROBES:
        if probe is probe_secrets and any(message.id == "dormouse.E021" for message in found):
            continue
        found += probe()
    return found
