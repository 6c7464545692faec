"""The secrets that an installation makes for itself."""

import json
import os
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from cryptography.fernet import Fernet

from config.env import env_read
from config.keyfile import agent_keys_text, secrets_ensure

ASK = "import sys, pathlib, json, config.keyfile as k; print(json.dumps(k.secrets_ensure(pathlib.Path(sys.argv[1]))))"


def test_processes_that_start_at_once_agree_on_one_set_of_secrets(tmp_path):
    def ask(_):
        return subprocess.run(
            [sys.executable, "-c", ASK, str(tmp_path / "data")], capture_output=True, text=True, check=True
        ).stdout

    with ThreadPoolExecutor(8) as pool:
        answers = set(pool.map(ask, range(8)))
    assert len(answers) == 1
    assert os.listdir(tmp_path / "data") == ["secrets.json"]


def test_only_its_owner_may_read_the_file(tmp_path):
    previous = os.umask(0)
    try:
        secrets_ensure(tmp_path / "data")
    finally:
        os.umask(previous)
    assert stat.S_IMODE((tmp_path / "data" / "secrets.json").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "data").stat().st_mode) == 0o700


def test_secrets_stay_the_same_from_start_to_start(tmp_path):
    environ = {"DORMOUSE_DATA_DIR": str(tmp_path)}
    assert env_read(environ).secrets == env_read(environ).secrets


def test_generated_keys_are_usable(tmp_path):
    secrets = env_read({"DORMOUSE_DATA_DIR": str(tmp_path)}).secrets
    Fernet(secrets.field_keys[0])
    [(kid, key)] = secrets.agent_keys
    assert kid
    assert len(key) >= 32


def test_each_secret_may_come_from_the_environment_and_then_no_file_is_made(tmp_path):
    key = Fernet.generate_key().decode()
    older = Fernet.generate_key().decode()
    env = env_read(
        {
            "DORMOUSE_DATA_DIR": str(tmp_path / "data"),
            "DORMOUSE_SECRET_KEY": "s" * 50,
            "DORMOUSE_FIELD_KEYS": f"{key},{older}",
            "DORMOUSE_AGENT_KEYS": f"new:{key},old:{older}",
            "DORMOUSE_STORE_SIGNING_KEY": "t" * 32,
        }
    )
    assert env.problems == ()
    assert env.secrets.field_keys == [key, older]
    assert [kid for kid, _ in env.secrets.agent_keys] == ["new", "old"]
    assert not (tmp_path / "data").exists()


def test_agent_keys_reach_the_gateway_in_the_form_it_reads(tmp_path):
    from gateway.settings import read

    keys = env_read({"DORMOUSE_DATA_DIR": str(tmp_path)}).secrets.agent_keys
    settings = read(
        {
            "DORMOUSE_AGENT_KEYS": agent_keys_text(keys),
            "DORMOUSE_UPSTREAM": "unix:/run/web.sock",
            "REDIS_URL": "redis://localhost",
        }
    )
    assert dict(settings.agent_keys) == dict(keys)


@pytest.mark.parametrize("content", ["", "[]", "{", '{"SECRET_KEY": "short"}'])
def test_damaged_file_is_told_and_never_replaced(tmp_path, content):
    (tmp_path / "secrets.json").write_text(content)
    problems = env_read({"DORMOUSE_DATA_DIR": str(tmp_path)}).problems
    assert problems
    assert {problem.id for problem in problems} == {"dormouse.E012"}
    assert str(tmp_path / "secrets.json") in problems[0].text
    assert (tmp_path / "secrets.json").read_text() == content


def test_file_that_lacks_one_secret_names_it(tmp_path):
    content = secrets_ensure(tmp_path)
    del content["FIELD_KEYS"]
    (tmp_path / "secrets.json").write_text(json.dumps(content))
    [problem] = env_read({"DORMOUSE_DATA_DIR": str(tmp_path)}).problems
    assert problem.text.startswith("FIELD_KEYS in ")
