"""The first administrator and the token in the data folder."""

import io
import json
from datetime import timedelta

import pytest
from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.utils import timezone

from core.models import ApiToken

pytestmark = pytest.mark.django_db


@pytest.fixture
def bootstrap(settings, tmp_path):
    """bootstrap() → the command's answer, in a data folder of its own."""
    settings.DATA_DIR = tmp_path

    def call():
        out = io.StringIO()
        call_command("bootstrap_admin", json=True, stdout=out)
        return json.loads(out.getvalue())

    return call


def admin():
    return get_user_model().objects.get(username="admin")


def test_password_is_random_and_shown_once(bootstrap):
    password = bootstrap()["password"]
    assert len(password) >= 12
    assert admin().check_password(password)
    assert admin().is_superuser
    assert bootstrap()["password"] is None
    assert admin().check_password(password)


def test_demo_signs_in_as_admin_admin_and_says_so_each_time(bootstrap, settings):
    settings.DEMO = True
    assert bootstrap()["password"] == "admin"
    assert bootstrap()["password"] == "admin"


def test_password_of_a_demo_does_not_outlive_it(bootstrap, settings):
    settings.DEMO = True
    bootstrap()
    settings.DEMO = False
    password = bootstrap()["password"]
    assert password != "admin"
    assert admin().check_password(password)


def test_existing_administrator_is_left_alone_whatever_her_name(bootstrap):
    get_user_model().objects.create_superuser("alice", "", "her own words")
    answer = bootstrap()
    assert (answer["username"], answer["password"]) == ("alice", None)
    assert not get_user_model().objects.filter(username="admin").exists()


def test_token_file_is_its_owners_alone_and_opens_the_api(bootstrap, tmp_path, client):
    from core.tokens import token_find

    bootstrap()
    path = tmp_path / "admin-token"
    assert path.stat().st_mode & 0o777 == 0o600
    row = token_find(path.read_text().strip(), now=timezone.now())
    assert row.user == admin()
    assert set(row.scopes) == {"read", "operate", "admin"}


def test_token_is_kept_while_it_is_good_and_replaced_before_it_ends(bootstrap, tmp_path):
    bootstrap()
    first = (tmp_path / "admin-token").read_text()
    bootstrap()
    assert (tmp_path / "admin-token").read_text() == first
    ApiToken.objects.update(expires_at=timezone.now() + timedelta(days=2))
    bootstrap()
    second = (tmp_path / "admin-token").read_text()
    assert second != first
    ApiToken.objects.update(revoked_at=timezone.now())
    bootstrap()
    assert (tmp_path / "admin-token").read_text() != second
