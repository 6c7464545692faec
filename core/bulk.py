"""Many rows in one statement, the same on SQLite and PostgreSQL, where the ORM would make a statement of each row."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Any

from django.db import connections, router
from django.db.models import Field, Model

ROWS_PER_STATEMENT = 1_000


def update_rows(
    model: type[Model],
    rows: Iterable[Mapping[str, Any]],
    *,
    match: Sequence[str],
    only: Mapping[str, str | int] | None = None,
) -> int:
    """Write each row's values into the row of `model` that has the same values in `match`; returns how many were found.

    rows: field name -> value, all with the same names; `match` names some of them, the others are written. A row of
    `model` that no longer matches (another epoch by now, say) is left alone. only: what such a row must hold besides,
    the same for all, also in columns that are written.
    """
    return sum(_chunked(model, rows, match, partial(_update, only=only or {})))


def add_rows(model: type[Model], rows: Iterable[Mapping[str, Any]], *, match: Sequence[str]) -> int:
    """Add each row's values to the row of `model` that has the same values in `match`, or insert it where none has.

    `match` is a unique constraint; the other fields are numbers. The same `match` may not occur twice in `rows`.
    """
    return sum(_chunked(model, rows, match, _add))


def _chunked(
    model: type[Model], rows: Iterable[Mapping[str, Any]], match: Sequence[str], write: Any
) -> Iterable[int]:
    waiting = iter(rows)
    while chunk := list(islice(waiting, ROWS_PER_STATEMENT)):
        yield write(model, chunk, match)


def _update(
    model: type[Model],
    rows: list[Mapping[str, Any]],
    match: Sequence[str],
    *,
    only: Mapping[str, str | int],
) -> int:
    using = connections[router.db_for_write(model)]
    quote = using.ops.quote_name
    fields = [model._meta.get_field(name) for name in rows[0]]
    columns = {field.name: quote(field.column) for field in fields}
    table = quote(model._meta.db_table)
    # The first row says the types: PostgreSQL takes a bare literal for text. SQLite has none to say.
    typed = [
        f"CAST(%s AS {field.cast_db_type(using)})" if using.vendor == "postgresql" else "%s"
        for field in fields
    ]
    first, other = f"({', '.join(typed)})", f"({', '.join(['%s'] * len(fields))})"
    values = ", ".join([first] + [other] * (len(rows) - 1))
    written = ", ".join(f"{columns[name]} = v.{columns[name]}" for name in columns if name not in match)
    matched = [f"{table}.{columns[name]} = v.{columns[name]}" for name in match]
    held = [f"{table}.{quote(model._meta.get_field(name).column)} = %s" for name in only]
    found = " AND ".join([*matched, *held])
    named = f"WITH v ({', '.join(columns.values())}) AS (VALUES {values}) SELECT * FROM v"
    # The CTE stands inside: of a statement that begins with WITH, SQLite's driver does not count the rows.
    sql = f"UPDATE {table} SET {written} FROM ({named}) AS v WHERE {found}"
    return _run(using, sql, fields, rows, *only.values())


def _add(model: type[Model], rows: list[Mapping[str, Any]], match: Sequence[str]) -> int:
    using = connections[router.db_for_write(model)]
    quote = using.ops.quote_name
    fields = [model._meta.get_field(name) for name in rows[0]]
    columns = {field.name: quote(field.column) for field in fields}
    table = quote(model._meta.db_table)
    values = ", ".join([f"({', '.join(['%s'] * len(fields))})"] * len(rows))
    summed = ", ".join(
        f"{columns[name]} = {table}.{columns[name]} + excluded.{columns[name]}"
        for name in columns
        if name not in match
    )
    return _run(
        using,
        f"INSERT INTO {table} ({', '.join(columns.values())}) VALUES {values} "
        f"ON CONFLICT ({', '.join(columns[name] for name in match)}) DO UPDATE SET {summed}",
        fields,
        rows,
    )


def _run(
    using: Any, sql: str, fields: Sequence[Field[Any, Any]], rows: list[Mapping[str, Any]], *also: str | int
) -> int:
    columns = [_prepared(field, [row[field.name] for row in rows], using) for field in fields]
    values = [value for row in zip(*columns, strict=True) for value in row]
    with using.cursor() as cursor:
        cursor.execute(sql, [*values, *also])
        return cursor.rowcount


AS_THEY_ARE = frozenset({"CharField", "TextField", "FloatField", "IntegerField", "PositiveIntegerField",
                         "PositiveSmallIntegerField", "SmallIntegerField", "BigIntegerField", "ForeignKey"})  # fmt: skip
"""Kinds of fields whose values the drivers take as they are: asking the field costs more than the statement."""


def _prepared(field: Field[Any, Any], values: list[Any], using: Any) -> list[Any]:
    kind = field.get_internal_type()
    if kind in AS_THEY_ARE and type(field).__module__.startswith("django.db.models"):
        return values
    if kind == "DateTimeField":
        adapt = using.ops.adapt_datetimefield_value
        return [None if value is None else adapt(value) for value in values]
    return [field.get_db_prep_save(value, using) for value in values]
