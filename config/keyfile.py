"""The secrets that this installation makes for itself: one file in the data folder, readable by its owner only."""

from __future__ import annotations

import base64
import binascii
import fcntl
import json
import os
import secrets
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from config.reader import Reader

FILE = "secrets.json"
SECRET_KEY_LEAST_CHARS = 50
"""Below this length `manage.py check --deploy` calls Django's key weak."""

FERNET_KEY_BYTES = 32
AGENT_KEY_LEAST_BYTES = 32
"""RFC 7518 3.2: an HS256 key is at least as long as the hash."""


@dataclass(frozen=True, kw_only=True)
class Secrets:
    """field_keys: Fernet keys, the first encrypts; agent_keys: (kid, key), the first signs; both accept the rest."""

    secret_key: str
    field_keys: list[str]
    agent_keys: list[tuple[str, bytes]]
    store_signing_key: str


def secrets_fresh() -> dict[str, Any]:
    """New random values, in the form of the file."""
    return {
        "SECRET_KEY": secrets.token_urlsafe(64),
        "FIELD_KEYS": [base64.urlsafe_b64encode(secrets.token_bytes(FERNET_KEY_BYTES)).decode()],
        "AGENT_KEYS": [[f"k{secrets.token_hex(4)}", secrets.token_urlsafe(48)]],
        "STORE_SIGNING_KEY": secrets.token_urlsafe(48),
    }


def secrets_ensure(data: Path) -> dict[str, Any]:
    """The content of the secrets file; made when there is none, by exactly one of the processes that ask at once.

    Never replaced: the field keys open what the database holds. Raises OSError, or ValueError where it is no JSON object.
    """
    data.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = data / FILE
    folder = os.open(data, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)  # released with the descriptor, also when the process is killed
        if not path.exists():
            _write(path, json.dumps(secrets_fresh(), indent=2) + "\n")
            os.fsync(folder)
    finally:
        os.close(folder)
    content = json.loads(path.read_text())
    if not isinstance(content, dict):
        raise ValueError("it holds no JSON object")
    return content


def _write(path: Path, text: str) -> None:
    """Whole or not at all, and never readable by others, not even for a moment (mkstemp gives mode 0600)."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    with os.fdopen(handle, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(name, path)


def secrets_read(reader: Reader, data: Path) -> Secrets:
    """The secrets of this process: each from its variable, else from the file. What is wrong goes to the reader."""
    values = {name: reader.json(f"DORMOUSE_{name}") for name in ("FIELD_KEYS", "AGENT_KEYS")}
    values |= {name: reader.text(f"DORMOUSE_{name}") for name in ("SECRET_KEY", "STORE_SIGNING_KEY")}
    named = {name: f"DORMOUSE_{name}" for name in values}
    missing = [name for name, value in values.items() if not value]
    if missing:
        try:
            stored = secrets_ensure(data)
        except (OSError, ValueError) as error:
            reader.problem(
                "E012", str(data / FILE),
                f"cannot be read or made ({error}): put the file back from a backup, or set DORMOUSE_SECRET_KEY, "
                "DORMOUSE_FIELD_KEYS, DORMOUSE_AGENT_KEYS and DORMOUSE_STORE_SIGNING_KEY",
            )  # fmt: skip
            stored = secrets_fresh()
        for name in missing:
            values[name] = stored.get(name)
            named[name] = f"{name} in {data / FILE}"
    spare = secrets_fresh()
    return Secrets(
        secret_key=_text(reader, values, named, "SECRET_KEY", spare),
        field_keys=_field_keys(reader, values["FIELD_KEYS"], named["FIELD_KEYS"], spare),
        agent_keys=_agent_keys(reader, values["AGENT_KEYS"], named["AGENT_KEYS"], spare),
        store_signing_key=_text(reader, values, named, "STORE_SIGNING_KEY", spare),
    )


def _text(
    reader: Reader, values: dict[str, Any], named: dict[str, str], name: str, spare: dict[str, Any]
) -> str:
    least = SECRET_KEY_LEAST_CHARS if name == "SECRET_KEY" else 32
    value = values[name]
    if isinstance(value, str) and len(value) >= least:
        return value
    reader.problem("E012", named[name], f"is shorter than {least} characters: make one of random characters")
    return str(spare[name])


def _field_keys(reader: Reader, value: Any, name: str, spare: dict[str, Any]) -> list[str]:
    """A JSON list, or one bare key, which is what most people will paste."""
    keys = [value] if isinstance(value, str) else value
    if (
        isinstance(keys, list)
        and keys
        and all(_bytes_of(key, FERNET_KEY_BYTES, FERNET_KEY_BYTES) for key in keys)
    ):
        return keys
    reader.problem(
        "E012", name, "is no JSON list of Fernet keys (32 bytes in base64url each): correct it, "
        "and keep every key that has ever encrypted a stored credential",
    )  # fmt: skip
    return list(spare["FIELD_KEYS"])


def _agent_keys(reader: Reader, value: Any, name: str, spare: dict[str, Any]) -> list[tuple[str, bytes]]:
    keys: list[tuple[str, bytes]] = []
    for pair in value if isinstance(value, list) else []:
        kid, key = pair if isinstance(pair, list) and len(pair) == 2 else (None, None)
        raw = _bytes_of(key, AGENT_KEY_LEAST_BYTES, 1024)
        if not isinstance(kid, str) or not kid or raw is None:
            keys.clear()
            break
        keys.append((kid, raw))
    if keys:
        return keys
    reader.problem(
        "E012", name, 'is no JSON list of [kid, key] such as [["k1", "…"]], '
        "each key 32 bytes or more in base64url: correct it",
    )  # fmt: skip
    return [(kid, _bytes_of(key, 1, 1024) or b"") for kid, key in spare["AGENT_KEYS"]]


def _bytes_of(value: Any, least: int, most: int) -> bytes | None:
    """base64url, padded or not, of least to most bytes; None otherwise."""
    if not isinstance(value, str):
        return None
    try:
        raw = base64.b64decode(value + "=" * (-len(value) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        return None
    return raw if least <= len(raw) <= most else None
