"""The checks that touch the world: each broken part is one sentence, and a healthy installation has none."""

from dataclasses import replace

import pytest
from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.core.management.base import SystemCheckError

from config import probes
from config.demo_login import DEMO_PASSWORD
from pool.models import Account


@pytest.fixture
def healthy(db, valkey, settings, tmp_path):
    """Everything that the probes ask for."""
    settings.DATA_DIR.chmod(0o700)
    settings.SNAPSHOT_STORE = str(tmp_path / "store")
    return settings


def ids(messages):
    return [message.id.removeprefix("dormouse.") for message in messages]


def test_healthy_installation_has_nothing_to_say(healthy):
    assert probes.probe_all() == []


def test_data_folder_that_cannot_be_written_is_named(healthy, tmp_path):
    (tmp_path / "file").touch()
    healthy.DATA_DIR = tmp_path / "file" / "data"
    [message] = probes.probe_data_dir()
    assert message.id == "dormouse.E020"
    assert str(healthy.DATA_DIR) in message.msg


def test_data_folder_that_others_may_read_is_a_warning_with_the_remedy(healthy):
    healthy.DATA_DIR.chmod(0o755)
    [message] = probes.probe_data_dir()
    assert message.id == "dormouse.W020"
    assert "chmod 700" in message.msg


def test_broker_that_is_away_is_one_sentence(healthy, valkey):
    valkey.kill()
    assert ids(probes.probe_redis()) == ["E022"]


def test_broker_that_forgets_when_full_is_a_warning(healthy):
    from core import broker

    broker.client().config_set("maxmemory-policy", "allkeys-lru")
    try:
        assert ids(probes.probe_redis()) == ["W022"]
    finally:
        broker.client().config_set("maxmemory-policy", "noeviction")


def test_store_that_cannot_be_used_is_one_sentence(healthy, tmp_path):
    (tmp_path / "file").touch()
    healthy.SNAPSHOT_STORE = str(tmp_path / "file" / "store")
    [message] = probes.probe_store()
    assert message.id == "dormouse.E023"
    assert healthy.SNAPSHOT_STORE in message.msg


def test_bucket_that_does_not_answer_is_one_sentence_without_its_key(healthy):
    healthy.SNAPSHOT_STORE = "s3://bucket"
    healthy.SNAPSHOT_S3 = {
        "endpoint": "http://127.0.0.1:9", "region": "auto", "access_key_id": "id",
        "secret_access_key": "hunter2", "path_style": True,
    }  # fmt: skip
    [message] = probes.probe_store()
    assert message.id == "dormouse.E023"
    assert "hunter2" not in message.msg


def test_stored_secret_that_no_key_opens_is_told_before_it_is_needed(healthy):
    from config.keyfile import secrets_fresh

    owner = get_user_model().objects.create_user("alice")
    Account.objects.create(owner=owner, kind="local", label="box", credentials="key")
    assert probes.probe_secrets() == []
    healthy.FIELD_KEYS = secrets_fresh()["FIELD_KEYS"]
    assert ids(probes.probe_secrets()) == ["E024"]


def test_password_of_a_demo_is_refused_on_a_public_address_and_told_on_this_machine(healthy):
    get_user_model().objects.create_superuser("admin", "", DEMO_PASSWORD)
    [message] = probes.probe_secrets()
    assert (message.id, message.is_serious()) == ("dormouse.E025", False)
    healthy.ENV = replace(healthy.ENV, public_host="pool.example")
    [message] = probes.probe_secrets()
    assert message.is_serious()


def test_check_stays_offline_until_it_is_told_to_probe(healthy, valkey):
    valkey.kill()
    call_command("check")
    with pytest.raises(SystemCheckError, match=r"dormouse\.E022"):
        call_command("check", probe=True)
    call_command("check")
