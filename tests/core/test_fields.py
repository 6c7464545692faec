"""The encrypted column: rotated, unreadable without its key, and not to be searched."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography.fernet import Fernet
from django.contrib.auth.models import User
from django.core.exceptions import FieldError
from django.db import connection

from core.fields import SecretUnreadable
from pool.models import Account


@pytest.fixture
def account(alice: User) -> Account:
    return Account.objects.create(owner=alice, kind="vast", label="v", credentials='{"api_key": "hush é"}')


def stored(account: Account) -> str:
    with connection.cursor() as cursor:
        cursor.execute("SELECT credentials FROM pool_account WHERE id = %s", [account.pk])
        return str(cursor.fetchone()[0])


def test_the_database_holds_ciphertext_and_the_row_the_text(account: Account) -> None:
    assert "hush" not in stored(account)
    assert Account.objects.get().credentials == '{"api_key": "hush é"}'


def test_the_same_text_is_never_stored_the_same(account: Account) -> None:
    first = stored(account)
    account.save()
    assert stored(account) != first


def test_nothing_stays_nothing(alice: User) -> None:
    account = Account.objects.create(owner=alice, kind="vast", label="w")
    assert stored(account) == ""
    assert Account.objects.get().credentials == ""


def test_an_old_key_still_reads_and_saving_moves_to_the_new_one(account: Account, settings: Any) -> None:
    old, new = settings.FIELD_KEYS[0], Fernet.generate_key().decode()
    settings.FIELD_KEYS = [new, old]
    Account.objects.get().save()
    settings.FIELD_KEYS = [new]
    assert Account.objects.get().credentials == '{"api_key": "hush é"}'


def test_without_its_key_a_secret_is_an_error_that_names_the_column(account: Account, settings: Any) -> None:
    settings.FIELD_KEYS = [Fernet.generate_key().decode()]
    with pytest.raises(SecretUnreadable, match=r"pool\.Account\.credentials"):
        Account.objects.get()


@pytest.mark.parametrize(
    "lookup", ["credentials", "credentials__contains", "credentials__startswith", "credentials__in"]
)
def test_a_secret_cannot_be_searched(account: Account, lookup: str) -> None:
    with pytest.raises(FieldError, match="encrypted"):
        Account.objects.filter(**{lookup: "x"}).exists()
