"""Public identifiers: a prefix that says what it is, and 80 random bits that nobody can guess or count."""

import secrets

ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
"""Crockford's base 32 in lower case: no i, l, o, u, so that an id can be read aloud and never spells a word."""


def new_id(prefix: str) -> str:
    """`new_id("i")` -> "i_" and 16 characters."""
    return f"{prefix}_{''.join(secrets.choice(ALPHABET) for _ in range(16))}"
