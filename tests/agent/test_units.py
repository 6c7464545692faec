"""Options, redaction, readings, waits: the small parts."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from agent.backoff import Backoff
from agent.errors import UsageError
from agent.readings import Machine, _busy_percent, _rate, ssh_sessions
from agent.redact import RedactingFormatter, redact
from agent.settings import child_environment, parse


def test_options_come_from_the_command_line_before_the_environment(tmp_path: Path) -> None:
    environ = {
        "DORMOUSE_URL": "http://env.example/",
        "DORMOUSE_JOIN_TOKEN": "t-env",
        "DORMOUSE_AGENT_DIR": str(tmp_path),
    }
    options = parse(["run"], environ)
    assert (options.url, options.token, options.state_dir) == ("http://env.example", "t-env", tmp_path)
    options = parse(["run", "--join", "https://a.example/pool/", "t-1", "--state-dir", "rel"], environ)
    assert (options.url, options.token) == (
        "https://a.example/pool",
        "t-1",
    ) and options.state_dir == Path.cwd() / "rel"
    options = parse(["run", "--join", "https://a.example"], environ)
    assert options.token == "t-env" and options.workspace is None and options.health_port == 0
    assert "t-env" not in repr(options)


@pytest.mark.parametrize(
    ("arguments", "environ", "why"),
    [
        (["run", "--join", "ftp://x"], {}, "is not the address of a control plane"),
        (["run", "--join", "https://"], {}, "is not the address of a control plane"),
        (["run", "--join", "https://u:p@x"], {}, "has a user"),
        (["run", "--join", "https://x", "t", "more"], {}, "an address and a token"),
        (["run", "--health-port", "x"], {}, "is not a port"),
        (["run", "--health-port", "70000"], {}, "is not a port"),
        (["run", "--health-url", "gpu.example.org/health"], {}, "is not the address of a /health"),
        (["run"], {"DORMOUSE_HEALTH_URL": "https://gpu.example.org/"}, "is not the address of a /health"),
        (["run", "--health-url", "https://a:b@gpu.example.org/health"], {}, "has a user"),
        (
            ["run", "--health-url", "https://gpu.example.org:99999/health"],
            {},
            "is not the address of a /health",
        ),
        (["run", "--session-started", "yesterday"], {}, "is not a time"),
        (["run"], {"AGENT_LOG": "loud"}, "is not a log level"),
        (["run"], {"AGENT_BACKOFF_CAP_S": "0"}, "is not a number of seconds"),
    ],
)
def test_wrong_options_are_one_sentence(arguments: list[str], environ: dict[str, str], why: str) -> None:
    with pytest.raises(UsageError, match=why) as error:
        parse(arguments, environ)
    assert "\n" not in str(error.value) and error.value.exit_code == 2 and error.value.hint


def test_children_get_nothing_of_the_agents_own() -> None:
    assert child_environment(
        {"PATH": "p", "DORMOUSE_JOIN_TOKEN": "t", "AGENT_LOG": "x", "CELERY_BROKER_URL": "user's"}
    ) == {
        "PATH": "p",
        "CELERY_BROKER_URL": "user's",
    }


def test_children_get_none_of_the_notebooks_own_keys_and_still_see_where_they_run() -> None:
    seen = {
        "KAGGLE_KERNEL_RUN_TYPE": "Batch",
        "COLAB_GPU": "1",
        "NVIDIA_VISIBLE_DEVICES": "all",
        "HF_TOKEN": "own",
    }
    keys = ("KAGGLE_USER_SECRETS_TOKEN", "KAGGLE_DATA_PROXY_TOKEN", "KAGGLE_API_V1_TOKEN", "KAGGLE_KEY",
            "COLAB_JUPYTER_TOKEN", "TBE_CREDS_ADDR", "TBE_RUNTIME_ADDR")  # fmt: skip
    assert child_environment({**seen, **dict.fromkeys(keys, "secret")}) == seen


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("Authorization: Bearer abcdefghijkl.m", "abcdefghijkl"),
        ("token eyJhbGciOi.eyJzdWIi.c2ln refused", "eyJzdWIi"),
        ('{"secret": "s3cr3t", "worker_id": "w"}', "s3cr3t"),
        ("{'access_token': 's3cr3t'}", "s3cr3t"),
        ("POST /api/x?a=1&token=s3cr3t&b=2 HTTP", "s3cr3t"),
        ("https://bucket.example/o/k?X-Amz-Credential=AKIA&X-Amz-Signature=s3cr3t", "s3cr3t"),
        ("http://127.0.0.1:8000/s/o/k?expires=1&length=2&signature=s3cr3t", "s3cr3t"),
        ("redis://user:s3cr3t@10.0.0.1:6379/0", "s3cr3t"),
    ],
)
def test_credentials_are_taken_out_of_what_is_logged(text: str, secret: str) -> None:
    assert secret not in redact(text)
    record = logging.LogRecord("n", logging.INFO, "p", 1, "said %s", (text,), None)
    try:
        raise RuntimeError(text)
    except RuntimeError:
        import sys

        record.exc_info = sys.exc_info()
    assert secret not in RedactingFormatter().format(record)


def test_ordinary_text_is_left_alone() -> None:
    text = "the control plane did not take this token: this token has been used (make a new one), wait=25 basic idea"
    assert redact(text) == text


def test_waits_double_up_to_the_cap_with_jitter_and_honour_retry_after() -> None:
    backoff = Backoff(cap_s=30)
    waits = [backoff.next_s() for _ in range(40)]
    assert 0.25 <= waits[0] <= 0.5 and 0.5 <= waits[1] <= 1 and all(15 <= wait <= 30 for wait in waits[8:])
    assert len(set(waits[8:])) > 20
    assert 60 <= backoff.next_s(retry_after_s=60) <= 72
    assert backoff.next_s(retry_after_s=10**9) <= 360
    backoff.reset()
    assert backoff.next_s() <= 0.5


def test_ssh_sessions_are_established_connections_to_port_22(tmp_path: Path) -> None:
    head = "  sl  local_address rem_address   st tx_queue rx_queue\n"
    (tmp_path / "net").mkdir()
    assert ssh_sessions(tmp_path) is None
    (tmp_path / "net" / "tcp").write_text(
        head
        + "   0: 00000000:0016 00000000:0000 0A 0 0\n"  # listening
        + "   1: 0100007F:0016 0200007F:C001 01 0 0\n"  # somebody is logged in
        + "   2: 0100007F:C001 0200007F:0016 01 0 0\n"  # this machine is logged in elsewhere
        + "   3: 0100007F:0016 0200007F:C002 06 0 0\n"  # has left
    )
    (tmp_path / "net" / "tcp6").write_text(head + "   0: 0000:0016 0000:C003 01 0 0\n")
    assert ssh_sessions(tmp_path) == 2


def test_rates_are_unknown_where_they_cannot_be_told() -> None:
    assert _busy_percent((50, 100), (75, 200)) == 75.0
    assert _busy_percent(None, (1, 2)) is None and _busy_percent((1, 2), (1, 2)) is None
    assert _rate(100, 350, 2.0) == 125.0
    assert _rate(100, 50, 2.0) is None and _rate(None, 50, 2.0) is None


def test_disk_is_measured_where_the_workspace_will_be(tmp_path: Path) -> None:
    reading = Machine(tmp_path / "not" / "yet" / "there").read()
    assert reading.disk_free_bytes and reading.disk_free_bytes > 0
