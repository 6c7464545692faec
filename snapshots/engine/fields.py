"""Checked fields of decoded MessagePack: what a manifest says is believed only after its type and range."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NoReturn

import msgpack

from snapshots.engine.errors import ManifestRefused

INT64_MAX = 2**63 - 1


def refuse(what: str) -> NoReturn:
    raise ManifestRefused(f"the manifest is damaged or hostile: {what}")


def whole(value: object, what: str, *, low: int = 0, high: int = INT64_MAX) -> int:
    # type() and not isinstance(): True is an int, and msgpack tells the two apart.
    if type(value) is not int or not low <= value <= high:
        refuse(f"{what} is {_short(value)}, not a number from {low} to {high}")
    return value


def octets(value: object, what: str, *, low: int = 0, high: int) -> bytes:
    if type(value) is not bytes or not low <= len(value) <= high:
        refuse(f"{what} is {_short(value)}, not {low} to {high} bytes")
    return value


def text(value: object, what: str, *, high: int = 200) -> str:
    if type(value) is not str or len(value) > high:
        refuse(f"{what} is {_short(value)}, not text of at most {high} characters")
    return value


def row(value: object, what: str, columns: int) -> tuple[Any, ...]:
    if type(value) is not tuple or len(value) != columns:
        refuse(f"{what} is {_short(value)}, not an array of {columns}")
    return value


def rows(value: object, what: str, *, high: int) -> tuple[Any, ...]:
    if type(value) is not tuple or len(value) > high:
        refuse(f"{what} is {_short(value)}, not an array of at most {high}")
    return value


def pack(value: object) -> bytes:
    """MessagePack in its one canonical form: shortest integers, bytes as bin, text as str, tuples as arrays."""
    packed: bytes = msgpack.packb(value, use_bin_type=True)
    return packed


def unpack_one(raw: bytes) -> Any:
    """The value in bytes that this program packed itself."""
    return msgpack.unpackb(raw, use_list=False)


def unpack_stream(raw: bytes) -> Iterator[object]:
    """Every value in a row of them. Arrays become tuples. Raises ManifestRefused."""
    # Without a limit of its own msgpack takes 100 MB; the raw length was checked against the format's before decoding.
    unpacker = msgpack.Unpacker(use_list=False, raw=False, strict_map_key=True, max_buffer_size=len(raw) or 1)
    unpacker.feed(raw)
    try:
        yield from unpacker
    except (msgpack.UnpackException, ValueError, TypeError, RecursionError) as error:
        refuse(f"MessagePack: {type(error).__name__}")
    if unpacker.tell() != len(raw):
        refuse("MessagePack: the last value is cut off")


def unpack(raw: bytes) -> object:
    """The one value in `raw`. Raises ManifestRefused."""
    values = list(unpack_stream(raw))
    if len(values) != 1:
        refuse(f"MessagePack: {len(values)} values where one was expected")
    return values[0]


def _short(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}…"
