"""Field keys: a new one first, everything encrypted again, the old one away."""

import pytest
from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.core.management.base import CommandError
from django.db import connection

from config.keyfile import secrets_fresh
from pool.models import Account

pytestmark = pytest.mark.django_db


@pytest.fixture
def account():
    owner = get_user_model().objects.create_user("alice")
    return Account.objects.create(owner=owner, kind="local", label="box", credentials="a provider's key: ção")


def stored():
    with connection.cursor() as cursor:
        cursor.execute("SELECT credentials FROM pool_account")
        return cursor.fetchone()[0]


def test_secret_is_readable_with_the_new_key_alone_after_rotation(account, settings):
    old = list(settings.FIELD_KEYS)
    new = secrets_fresh()["FIELD_KEYS"]
    settings.FIELD_KEYS = new + old
    before = stored()
    call_command("rotate_keys")
    assert stored() != before
    settings.FIELD_KEYS = new
    account.refresh_from_db()
    assert account.credentials == "a provider's key: ção"


def test_key_that_is_missing_stops_the_rotation_and_nothing_changes(account, settings):
    before = stored()
    settings.FIELD_KEYS = secrets_fresh()["FIELD_KEYS"]
    with pytest.raises(CommandError, match="nothing was changed"):
        call_command("rotate_keys")
    assert stored() == before
