"""Every environment variable: its default, its effect, and one sentence for each wrong value."""

import pytest

from config.env import broker_url, env_read

S3 = {
    "SNAPSHOT_STORE": "s3://bucket/some/where",
    "SNAPSHOT_S3_ACCESS_KEY_ID": "id",
    "SNAPSHOT_S3_SECRET_ACCESS_KEY": "secret",
}
FERNET = "0" * 43


@pytest.fixture
def read(tmp_path):
    """read(NAME=value, …) → Env, in a data folder of its own."""
    return lambda **environ: env_read({"DORMOUSE_DATA_DIR": str(tmp_path / "data"), **environ})


def test_nothing_set_is_a_complete_installation_on_this_machine(read, tmp_path):
    env = read()
    assert env.problems == ()
    assert (env.public_url, env.https, env.demo, env.debug) == ("http://127.0.0.1:8000", False, False, False)
    assert env.postgres is None
    assert env.redis_embedded
    assert env.redis_url == f"unix://{env.run_dir}/valkey.sock"
    assert env.snapshot_store == str(tmp_path / "data" / "snapshots")
    assert (env.chain_lease_s, env.agent_transport, env.log_format) == (60, "https", "text")


WRONG = [
    ("E002", "DORMOUSE_PORT", "80a"),
    ("E002", "DORMOUSE_PORT", "70000"),
    ("E002", "DORMOUSE_LISTEN", "8000"),
    ("E002", "DORMOUSE_LISTEN", "0.0.0.0:http"),
    ("E002", "DORMOUSE_LISTEN", "::1:8000"),
    ("E003", "DORMOUSE_PUBLIC_URL", "ftp://host"),
    ("E003", "DORMOUSE_PUBLIC_URL", "https://host/sub/folder"),
    ("E003", "DORMOUSE_PUBLIC_URL", "https://"),
    ("E003", "DORMOUSE_PUBLIC_URL", "https://host:99999"),
    ("E004", "DATABASE_URL", "mysql://user@host/name"),
    ("E004", "DATABASE_URL", "postgresql://user@host"),
    ("E005", "REDIS_URL", "localhost:6379"),
    ("E005", "REDIS_URL", "redis://"),
    ("E005", "REDIS_URL", "redis://host/zero"),
    ("E006", "SNAPSHOT_STORE", "some/folder"),
    ("E006", "SNAPSHOT_STORE", "s3://"),
    ("E006", "SNAPSHOT_STORE", "gs://bucket"),
    ("E007", "DEBUG", "perhaps"),
    ("E007", "DORMOUSE_DEMO", "2"),
    ("E008", "LOG_FORMAT", "xml"),
    ("E009", "DORMOUSE_TRUSTED_PROXIES", "10.0.0.0/8"),
    ("E010", "DORMOUSE_CHAIN_LEASE_S", "0"),
    ("E010", "DORMOUSE_BEAT_LEASE_S", "nan"),
    ("E011", "DORMOUSE_AGENT_TRANSPORT", "mqtt"),
    ("E030", "DORMOUSE_PRIVATE_NETWORKS", "10.0.0.0/99"),
    ("E030", "DORMOUSE_PRIVATE_NETWORKS", "10.0.0.0/8,here"),
    ("E031", "DORMOUSE_HEALTH_URLS", "gpu.example.org"),
    ("E031", "DORMOUSE_HEALTH_URLS", "https://gpu.example.org/health"),
    ("E032", "DORMOUSE_SMTP_URL", "mail.example.org:587"),
    ("E032", "DORMOUSE_SMTP_URL", "smtp://"),
    ("E032", "DORMOUSE_SMTP_URL", "smtps://mail.example.org?tls=none"),
    ("E032", "DORMOUSE_ALERT_EMAILS", "ops@example.org"),
    ("E033", "DORMOUSE_ALERT_WEBHOOKS", "hooks.example.org/abc"),
    ("E033", "DORMOUSE_ALERT_WEBHOOKS", "https://10.1.2.3/abc"),
    ("E034", "DORMOUSE_ALERT_APPRISE", "json://hooks.example.org"),
    ("E035", "DORMOUSE_ALERT_SEVERITY", "loud"),
    ("E035", "DORMOUSE_ALERT_QUEUE_MINUTES", "0"),
    ("E015", "DORMOUSE_KAGGLE_URL", "https://"),
    ("E015", "DORMOUSE_KAGGLE_URL", "api.kaggle.example"),
    ("E012", "DORMOUSE_SECRET_KEY", "short"),
    ("E012", "DORMOUSE_STORE_SIGNING_KEY", "short"),
    ("E012", "DORMOUSE_FIELD_KEYS", "not-a-fernet-key"),
    ("E012", "DORMOUSE_AGENT_KEYS", "k1"),
    ("E012", "DORMOUSE_AGENT_KEYS", "k1:c2hvcnQ"),
    ("E014", "DORMOUSE_LOCAL_AGENTS", "-1"),
    ("E016", "DORMOUSE_VAST_URL", "vast.example"),
    ("E016", "DORMOUSE_VAST_URL", "http://vast.example"),
    ("E017", "DORMOUSE_DEAD_MAN_MINUTES", "-1"),
    ("E017", "DORMOUSE_DEAD_MAN_MINUTES", "soon"),
    ("E026", "DORMOUSE_CHECKPOINT_KEEP_DAYS", "-1"),
]


@pytest.mark.parametrize(("id", "name", "value"), WRONG)
def test_wrong_value_is_one_sentence_that_names_its_variable(read, id, name, value):
    [problem] = read(**{name: value}).problems
    assert problem.id == f"dormouse.{id}"
    assert problem.setting == name
    assert problem.text.startswith(f"{name} ")
    assert problem.text.endswith(".")
    assert "\n" not in problem.text


def test_all_wrong_values_are_told_at_once(read):
    env = read(DORMOUSE_PORT="x", LOG_FORMAT="y", DEBUG="z")
    assert [problem.setting for problem in env.problems] == ["DORMOUSE_PORT", "DEBUG", "LOG_FORMAT"]


def test_sentence_never_repeats_a_password(read):
    env = read(
        DATABASE_URL="mysql://user:hunter2@host/name",
        REDIS_URL="http://:hunter2@host",
        DORMOUSE_AGENT_KEYS="k1:hunter2",
        DORMOUSE_FIELD_KEYS="hunter2",
        DORMOUSE_SECRET_KEY="hunter2",
    )
    assert len(env.problems) == 5
    assert "hunter2" not in str(env.problems)


def test_bucket_without_keys_names_each_key(read):
    assert [problem.setting for problem in read(SNAPSHOT_STORE="s3://bucket").problems] == [
        "SNAPSHOT_S3_ACCESS_KEY_ID",
        "SNAPSHOT_S3_SECRET_ACCESS_KEY",
    ]


def test_bucket_is_read_with_prefix_endpoint_and_the_region_that_fits_it(read):
    r2 = read(**S3, SNAPSHOT_S3_ENDPOINT="https://account.r2.example/", SNAPSHOT_S3_PATH_STYLE="1")
    assert r2.problems == ()
    assert r2.snapshot_store == "s3://bucket/some/where"
    assert (r2.snapshot_s3.endpoint, r2.snapshot_s3.region, r2.snapshot_s3.path_style) == (
        "https://account.r2.example",
        "auto",
        True,
    )
    assert read(**S3).snapshot_s3.region == "us-east-1"


@pytest.mark.parametrize(
    "where",
    [{"DORMOUSE_PUBLIC_URL": "https://pool.example"}, {"DORMOUSE_LISTEN": "0.0.0.0:8000"}],
)
def test_demo_is_refused_wherever_others_can_reach_it(read, where):
    assert [problem.id for problem in read(DORMOUSE_DEMO="1", **where).problems] == ["dormouse.E013"]
    assert read(DORMOUSE_DEMO="1").problems == ()


def test_postgres_address_is_read_with_socket_folder_escapes_and_options(read):
    parts = read(DATABASE_URL="postgresql://me:p%40ss@/pool?host=/run/postgresql&sslmode=require").postgres
    assert (parts.user, parts.password, parts.name, parts.host) == ("me", "p@ss", "pool", "/run/postgresql")
    assert parts.options == {"sslmode": "require"}


@pytest.mark.parametrize(
    ("redis_py", "kombu"),
    [
        ("unix:///run/v.sock", "redis+socket:///run/v.sock?virtual_host=0"),
        ("unix:///run/v.sock?db=3", "redis+socket:///run/v.sock?virtual_host=3"),
        ("rediss://:secret@host:6380/1", "rediss://:secret@host:6380/1"),
    ],
)
def test_celery_gets_the_same_redis_in_its_own_form(redis_py, kombu):
    assert broker_url(redis_py) == kombu


def test_empty_variable_is_the_same_as_none(read):
    assert read(REDIS_URL="", DATABASE_URL=" ", DORMOUSE_PORT="").problems == ()


def test_listening_elsewhere_moves_the_default_address_with_it(read):
    env = read(DORMOUSE_LISTEN="[::]:8123", DORMOUSE_PORT="8000")
    assert (env.listen, env.listen_host, env.port) == ("[::]:8123", "[::]", 8123)
    assert env.public_url == "http://127.0.0.1:8123"


def test_who_is_told_and_who_may_be_asked(read):
    env = read(
        DORMOUSE_SMTP_URL="smtp://ops:pa%40ss@mail.example.org",
        DORMOUSE_MAIL_FROM="gpus@example.org",
        DORMOUSE_ALERT_EMAILS="a@example.org, b@example.org",
        DORMOUSE_ALERT_WEBHOOKS="https://hooks.example.org/abc,http://10.1.2.3:9/x",
        DORMOUSE_ALERT_WEBHOOK_SECRET="s" * 32,
        DORMOUSE_PRIVATE_NETWORKS="10.1.0.0/16,fd00::/8",
        DORMOUSE_HEALTH_URLS="https://*.example.org,http://10.2.0.0/16:8081",
    )
    assert env.problems == ()
    mail = env.alerts.mail
    assert (mail.host, mail.port, mail.user, mail.password, mail.tls) == (
        "mail.example.org", 587, "ops", "pa@ss", "starttls",
    )  # fmt: skip
    assert mail.sender == "gpus@example.org"
    assert env.alerts.emails == ("a@example.org", "b@example.org")
    assert len(env.alerts.webhooks) == len(env.private_networks) == len(env.health_places) == 2
    assert (env.alerts.least_severity, env.alerts.queue_minutes) == ("info", 30)


def test_nobody_is_told_and_nobody_asked_unless_the_operator_says_so(read):
    env = read()
    assert (env.alerts.mail, env.alerts.emails, env.alerts.webhooks, env.alerts.apprise) == (None, (), (), ())
    assert (env.health_places, env.private_networks) == ((), ())


@pytest.mark.parametrize("secret", ["", "short"])
def test_a_webhook_needs_a_secret(read, secret):
    env = read(
        DORMOUSE_ALERT_WEBHOOKS="https://hooks.example.org/s3cret", DORMOUSE_ALERT_WEBHOOK_SECRET=secret
    )
    assert [problem.setting for problem in env.problems] == ["DORMOUSE_ALERT_WEBHOOK_SECRET"]
    assert "32 random characters" in env.problems[0].text and "s3cret" not in env.problems[0].text


def test_how_mail_goes_out(read):
    def mail(url):
        found = read(DORMOUSE_SMTP_URL=url).alerts.mail
        return found.port, found.tls

    assert mail("smtps://mail.example.org") == (465, "implicit")
    assert mail("smtp://127.0.0.1:25?tls=none") == (25, "none")
