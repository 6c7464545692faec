from __future__ import annotations

from pathlib import Path

import pytest

from core.errors import Invalid
from hibernation.providers.base import ProviderRefused
from hibernation.providers.local import LocalProvider, local_folder
from hibernation.providers.registry import ProviderSettings, provider_for, provider_kinds


@pytest.fixture
def settings(tmp_path: Path) -> ProviderSettings:
    return ProviderSettings(data_dir=tmp_path)


@pytest.mark.parametrize("kind", sorted(provider_kinds()))
def test_every_kind_that_is_known_can_be_made(kind: str, settings: ProviderSettings) -> None:
    assert callable(provider_for(kind, {"api_key": "k"}, settings, account_id="a_1").listing)


def test_a_local_account_is_told_apart_by_its_id(settings: ProviderSettings) -> None:
    alice, bob = (provider_for("local", "", settings, account_id=owner) for owner in ("a_alice", "a_bob"))
    assert isinstance(alice, LocalProvider) and isinstance(bob, LocalProvider)
    assert (alice.tenant, bob.tenant) == ("a_alice", "a_bob")
    assert alice.folder == bob.folder == local_folder(settings.data_dir)


@pytest.mark.parametrize("kind", ["colab", "kaggle", "", "Local"])
def test_a_kind_that_is_not_rented_from_is_refused_with_those_that_are(
    kind: str, settings: ProviderSettings
) -> None:
    with pytest.raises(Invalid) as refused:
        provider_for(kind, "", settings)
    assert "local" in refused.value.hint


@pytest.mark.parametrize("credentials", ["{", "[]", '"key"'])
def test_credentials_that_are_no_object_are_refused_and_not_shown(
    credentials: str, settings: ProviderSettings
) -> None:
    with pytest.raises(ProviderRefused) as refused:
        provider_for("local", credentials, settings)
    assert credentials not in refused.value.message
