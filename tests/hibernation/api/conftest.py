"""A person, and her client with a token."""

from __future__ import annotations

from typing import Any

import pytest

from tests.hibernation.api.answers import Client
from tests.hibernation.rows import person


@pytest.fixture
def alice() -> Any:
    return person("alice")


@pytest.fixture
def api(api_client: Client, alice: Any) -> Any:
    return api_client(alice)
