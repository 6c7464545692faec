"""The processes of an installation."""

import pytest

from config.launcher.plan import Plan, without_ours
from gateway.settings import read as gateway_read


@pytest.fixture
def plan(tmp_path):
    """plan(NAME=value, …) → Plan, in a data folder of its own."""
    return lambda **environ: Plan.of({"DORMOUSE_DATA_DIR": str(tmp_path), "PATH": "/bin", **environ})


def programs(plan):
    return [plan.prepare(), plan.web(), plan.gateway(), *plan.workers(), plan.beat()]


def test_gateway_reads_what_it_is_given(plan):
    made = plan(DORMOUSE_PORT="8123", DORMOUSE_TRUSTED_PROXIES="1", DORMOUSE_GATEWAY_HEADER_S="3")
    settings = gateway_read(made.gateway().env)
    assert (settings.listen_host, settings.listen_port, settings.trusted_proxies) == ("127.0.0.1", 8123, 1)
    assert settings.upstream.socket_path == str(made.web_socket)
    assert dict(settings.agent_keys) == dict(made.env.secrets.agent_keys)
    assert settings.limits.header_s == 3


def test_gateway_gets_no_database_no_bucket_and_no_key_but_the_agents(plan):
    env = plan(
        DATABASE_URL="postgresql://u:p@h/d", SNAPSHOT_S3_SECRET_ACCESS_KEY="s", DORMOUSE_SECRET_KEY="k" * 50
    ).gateway().env  # fmt: skip
    assert not {"DATABASE_URL", "SNAPSHOT_S3_SECRET_ACCESS_KEY", "DORMOUSE_SECRET_KEY"} & set(env)


def test_agent_and_so_a_job_sees_nothing_of_the_control_planes_environment():
    environ = {
        "PATH": "/bin",
        "HF_TOKEN": "theirs",
        "DATABASE_URL": "x",
        "REDIS_URL": "x",
        "SNAPSHOT_STORE": "x",
    }
    environ |= {"DORMOUSE_FIELD_KEYS": "x", "DJANGO_SETTINGS_MODULE": "x"}
    assert without_ours(environ) == {"PATH": "/bin", "HF_TOKEN": "theirs"}


def test_every_process_of_django_gets_the_folder_and_the_port_that_were_chosen(plan, tmp_path):
    for program in programs(plan(DORMOUSE_PORT="8123")):
        if program.name != "gateway":
            assert program.env["DORMOUSE_DATA_DIR"] == str(tmp_path)
            assert program.env["DORMOUSE_PORT"] == "8123"


def test_no_secret_stands_in_a_process_list(plan):
    made = plan()
    secrets = made.env.secrets
    words = " ".join(word for program in programs(made) for word in program.command)
    for secret in (secrets.secret_key, *secrets.field_keys, secrets.store_signing_key):
        assert secret not in words
