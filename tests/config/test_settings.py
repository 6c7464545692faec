"""What the settings make of the environment, seen from outside: real connections, real processes."""

import os
import subprocess
import sys

import pytest
from django.conf import settings
from django.db import connection, transaction

from tests.config.processes import django_environ


def test_sqlite_runs_with_the_settings_that_were_measured(db):
    if connection.vendor != "sqlite":
        pytest.skip("PostgreSQL")
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA journal_mode")
        assert cursor.fetchone() == ("wal",)
        cursor.execute("PRAGMA synchronous")
        assert cursor.fetchone() == (1,)  # NORMAL
        cursor.execute("PRAGMA busy_timeout")
        assert cursor.fetchone() == (10_000,)
        cursor.execute("PRAGMA foreign_keys")
        assert cursor.fetchone() == (1,)


@pytest.mark.django_db(transaction=True)
def test_sqlite_transaction_takes_the_write_lock_at_its_start():
    if connection.vendor != "sqlite":
        pytest.skip("PostgreSQL")
    other = connection.copy()
    other.settings_dict = {**other.settings_dict, "OPTIONS": {**other.settings_dict["OPTIONS"], "timeout": 0}}
    try:
        with transaction.atomic(), other.cursor() as cursor, pytest.raises(Exception, match="locked"):
            cursor.execute("BEGIN IMMEDIATE")
    finally:
        other.close()


def test_connections_persist_and_requests_are_no_transactions():
    assert settings.DATABASES["default"]["CONN_MAX_AGE"] is None
    assert settings.DATABASES["default"]["ATOMIC_REQUESTS"] is False


def test_tests_never_touch_the_folder_of_the_checkout():
    assert str(settings.DATA_DIR).startswith(os.environ["DORMOUSE_TESTS_FOLDER"])


@pytest.mark.slow
def test_https_address_turns_on_everything_that_needs_it(tmp_path):
    done = subprocess.run(
        [sys.executable, "manage.py", "check", "--deploy", "--fail-level", "WARNING"],
        env=django_environ(tmp_path, DORMOUSE_PUBLIC_URL="https://pool.example"),
        capture_output=True, text=True, check=False, cwd=settings.CHECKOUT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        ["-c", "import config.wsgi"],
        ["-m", "celery", "-A", "config.celery", "worker", "--pool", "solo", "--queues", "tick"],
        ["-m", "celery", "-A", "config.celery", "beat", "--pidfile="],
        ["manage.py", "migrate"],
    ],
    ids=["web", "worker", "beat", "command"],
)
def test_process_with_a_wrong_setting_says_so_and_does_not_start(tmp_path, command):
    done = subprocess.run(
        [sys.executable, *command],
        env=django_environ(tmp_path, LOG_FORMAT="xml", DORMOUSE_CHAIN_LEASE_S="soon"),
        capture_output=True, text=True, check=False, cwd=settings.CHECKOUT, timeout=60,
    )  # fmt: skip
    assert done.returncode != 0
    assert "LOG_FORMAT is 'xml'" in done.stderr
    assert "DORMOUSE_CHAIN_LEASE_S is 'soon'" in done.stderr
    assert "Traceback" not in done.stderr
    assert "Applying" not in done.stdout
