"""An installation's rows, read beside its own processes: what the API does not show, and when things were written."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from typing import Any

import psycopg
from psycopg.rows import dict_row

from config.env import Env

JSON_COLUMNS = ("data", "work", "result", "reason_params", "verdict")


class Rows:
    """Each call is a connection of its own: the installation's processes come and go."""

    def __init__(self, env: Env) -> None:
        self._env = env

    def all(self, sql: str, *values: Any) -> list[dict[str, Any]]:
        """sql: with ? for values. Times come as aware datetimes, JSON as what it says."""
        if self._env.postgres is not None:
            return self._from_postgres(sql, values)
        path = self._env.data_dir / "dormouse.sqlite3"
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=20)) as connection:
            connection.row_factory = sqlite3.Row
            found = [dict(row) for row in connection.execute(sql, values)]
        return [{name: _read(name, value) for name, value in row.items()} for row in found]

    def one(self, sql: str, *values: Any) -> dict[str, Any]:
        (row,) = self.all(sql, *values)
        return row

    def change(self, sql: str, *values: Any) -> int:
        """What no API offers: for example to have a minute be over. How many rows were changed."""
        if self._env.postgres is not None:
            with psycopg.connect(self._conninfo(), autocommit=True) as connection:
                return int(connection.execute(sql.replace("?", "%s"), values).rowcount)
        path = self._env.data_dir / "dormouse.sqlite3"
        with closing(sqlite3.connect(path, timeout=20, isolation_level=None)) as connection:
            return int(connection.execute(sql, values).rowcount)

    def _from_postgres(self, sql: str, values: tuple[Any, ...]) -> list[dict[str, Any]]:
        with psycopg.connect(self._conninfo(), row_factory=dict_row) as connection:
            return list(connection.execute(sql.replace("?", "%s"), values))

    def _conninfo(self) -> str:
        found = self._env.postgres
        assert found is not None
        parts = {
            "dbname": found.name, "user": found.user, "password": found.password, "host": found.host, "port": found.port,
        }  # fmt: skip
        return psycopg.conninfo.make_conninfo(**{name: value for name, value in parts.items() if value})


def _read(name: str, value: Any) -> Any:
    """SQLite keeps times and JSON as text."""
    if not isinstance(value, str):
        return value
    if name in JSON_COLUMNS:
        return json.loads(value)
    if name == "at" or name.endswith(("_at", "_since", "_until")):
        return datetime.fromisoformat(value).replace(tzinfo=UTC)
    return value
