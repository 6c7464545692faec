"""The secrets that this installation makes for itself: one file in the data folder, readable by its owner only."""

from __future__ import annotations

import base64
import binascii
import fcntl
import json
import os
import re
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
STORE_SIGNING_KEY_LEAST_CHARS = 32
AGENT_KEY_LEAST_BYTES = 32
"""RFC 7518 3.2: an HS256 key is at least as long as the hash."""

KEY_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


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
    """The secrets of this process: each from its variable, else from the file. What is wrong goes to the reader.

    DORMOUSE_FIELD_KEYS is key,key,… and DORMOUSE_AGENT_KEYS is kid:key,kid:key,…, the form that the gateway reads.
    """
    values: dict[str, Any] = {
        "SECRET_KEY": reader.text("DORMOUSE_SECRET_KEY"),
        "FIELD_KEYS": reader.items("DORMOUSE_FIELD_KEYS"),
        "AGENT_KEYS": [item.split(":", 1) for item in reader.items("DORMOUSE_AGENT_KEYS")],
        "STORE_SIGNING_KEY": reader.text("DORMOUSE_STORE_SIGNING_KEY"),
    }
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
    least_chars = {"SECRET_KEY": SECRET_KEY_LEAST_CHARS, "STORE_SIGNING_KEY": STORE_SIGNING_KEY_LEAST_CHARS}
    for name, least in least_chars.items():
        if not isinstance(values[name], str) or len(values[name]) < least:
            reader.problem(
                "E012", named[name], f"is shorter than {least} characters: make one of random characters"
            )
            values[name] = spare[name]
    return Secrets(
        secret_key=values["SECRET_KEY"],
        field_keys=_field_keys(reader, values["FIELD_KEYS"], named["FIELD_KEYS"]) or spare["FIELD_KEYS"],
        agent_keys=_agent_keys(reader, values["AGENT_KEYS"], named["AGENT_KEYS"])
        or _agent_keys(reader, spare["AGENT_KEYS"], ""),
        store_signing_key=values["STORE_SIGNING_KEY"],
    )


def agent_keys_text(keys: list[tuple[str, bytes]]) -> str:
    """The agent keys in the form of DORMOUSE_AGENT_KEYS, for the gateway's environment."""
    return ",".join(f"{kid}:{base64.urlsafe_b64encode(key).decode()}" for kid, key in keys)


def _field_keys(reader: Reader, value: Any, name: str) -> list[str]:
    if (
        isinstance(value, list)
        and value
        and all(_bytes_of(key, FERNET_KEY_BYTES, FERNET_KEY_BYTES) for key in value)
    ):
        return value
    reader.problem(
        "E012", name, "holds something that is no Fernet key (32 bytes in base64url): correct it, "
        "and keep every key that has ever encrypted a stored credential",
    )  # fmt: skip
    return []


def _agent_keys(reader: Reader, value: Any, name: str) -> list[tuple[str, bytes]]:
    keys: dict[str, bytes] = {}
    for pair in value if isinstance(value, list) else []:
        kid, key = pair if isinstance(pair, list) and len(pair) == 2 else ("", None)
        raw = _bytes_of(key, AGENT_KEY_LEAST_BYTES, 1024)
        if not isinstance(kid, str) or not KEY_ID.fullmatch(kid) or raw is None or kid in keys:
            keys.clear()
            break
        keys[kid] = raw
    if not keys:
        reader.problem(
            "E012", name, "is no list of kid:key with a name of its own and 32 bytes or more in base64url each: "
            "correct it; agents fetch new tokens by themselves",
        )  # fmt: skip
    return list(keys.items())


def _bytes_of(value: Any, least: int, most: int) -> bytes | None:
    """base64url, padded or not, of least to most bytes; None otherwise."""
    if not isinstance(value, str):
        return None
    try:
        raw = base64.b64decode(value + "=" * (-len(value) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        return None
    return raw if least <= len(raw) <= most else None
