from __future__ import annotations

import base64
import os
import subprocess
import sys
from typing import Any

import pytest

from gateway.settings import Limits, SettingsError, Upstream, read
from tests.gateway.harness import AGENT_KEYS, KEY, KID, OLD_KEY, OLD_KID, ROOT

GOOD = {
    "DORMOUSE_UPSTREAM": "/run/web.sock",
    "REDIS_URL": "redis://localhost:6379/0",
    "DORMOUSE_AGENT_KEYS": AGENT_KEYS,
}
SHORT_KEY = base64.urlsafe_b64encode(b"x" * 31).decode()


def test_three_settings_are_enough() -> None:
    settings = read(GOOD)
    assert (settings.listen_host, settings.listen_port) == ("127.0.0.1", 8000)
    assert settings.upstream == Upstream(socket_path="/run/web.sock")
    assert list(settings.agent_keys.items()) == [(KID, KEY), (OLD_KID, OLD_KEY)]
    assert settings.trusted_proxies == 0
    assert settings.limits == Limits()


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("redis://u:p@host:1/2", "redis://u:p@host:1/2"),
        ("rediss://host", "rediss://host"),
        ("unix:///run/v.sock", "unix:///run/v.sock"),
        ("unix:///run/v.sock?db=3", "unix:///run/v.sock?db=3"),
        ("redis+socket:///run/v.sock", "unix:///run/v.sock"),
        ("redis+socket:///run/v.sock?virtual_host=3&password=s", "unix:///run/v.sock?db=3&password=s"),
    ],
)
def test_redis_url_may_be_redis_pys_or_celerys(text: str, found: str) -> None:
    assert read(GOOD | {"REDIS_URL": text}).redis_url == found


@pytest.mark.parametrize(
    ("name", "text", "attribute", "found"),
    [
        ("DORMOUSE_LISTEN", "[::1]:9", "listen_host", "::1"),
        ("DORMOUSE_LISTEN", "0.0.0.0:0", "listen_port", 0),
        ("DORMOUSE_UPSTREAM", "unix:/run/w.sock", "upstream", Upstream(socket_path="/run/w.sock")),
        ("DORMOUSE_UPSTREAM", "http://web:8001/", "upstream", Upstream(host="web", port=8001)),
        ("DORMOUSE_TRUSTED_PROXIES", "2", "trusted_proxies", 2),
        ("LOG_FORMAT", "json", "log_format", "json"),
        ("DORMOUSE_GATEWAY_CLIENT_IDLE_S", "0.5", "limits", Limits(client_idle_s=0.5)),
        ("DORMOUSE_GATEWAY_CONNECTIONS", "100", "limits", Limits(connections=100)),
    ],
)
def test_value_is_read(name: str, text: str, attribute: str, found: Any) -> None:
    assert getattr(read(GOOD | {name: text}), attribute) == found


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("DORMOUSE_LISTEN", "8000"),
        ("DORMOUSE_LISTEN", "host:x"),
        ("DORMOUSE_LISTEN", "host:70000"),
        ("DORMOUSE_LISTEN", "::1:8000"),
        ("DORMOUSE_UPSTREAM", ""),
        ("DORMOUSE_UPSTREAM", "web.sock"),
        ("DORMOUSE_UPSTREAM", "/" + "x" * 103),
        ("DORMOUSE_UPSTREAM", "https://web:1"),
        ("DORMOUSE_UPSTREAM", "http://web:1/path"),
        ("REDIS_URL", ""),
        ("REDIS_URL", "localhost:6379"),
        ("REDIS_URL", "redis:///0"),
        ("REDIS_URL", "redis://host/zero"),
        ("REDIS_URL", "unix://v.sock"),
        ("REDIS_URL", "redis+socket:///v.sock?virtual_host=x"),
        ("DORMOUSE_AGENT_KEYS", ""),
        ("DORMOUSE_AGENT_KEYS", AGENT_KEYS.replace(":", "=")),
        ("DORMOUSE_AGENT_KEYS", f"{AGENT_KEYS},{AGENT_KEYS}"),
        ("DORMOUSE_AGENT_KEYS", "k:not base64url!"),
        ("DORMOUSE_AGENT_KEYS", f"k:{SHORT_KEY}"),
        ("DORMOUSE_TRUSTED_PROXIES", "-1"),
        ("DORMOUSE_TRUSTED_PROXIES", "1.5"),
        ("LOG_FORMAT", "xml"),
        ("DORMOUSE_GATEWAY_CONNECTIONS", "many"),
        ("DORMOUSE_GATEWAY_DRAIN_S", "nan"),
    ],
)
def test_wrong_value_is_one_sentence_that_names_the_setting(name: str, text: str) -> None:
    with pytest.raises(SettingsError) as caught:
        read(GOOD | {name: text})
    (sentence,) = caught.value.sentences
    assert sentence.startswith(f"{name} ")
    assert len(sentence) > len(name) + 20
    assert "\n" not in sentence


def test_sentence_never_repeats_a_secret() -> None:
    with pytest.raises(SettingsError) as caught:
        read(GOOD | {"REDIS_URL": "redis://u:hunter2@h/x", "DORMOUSE_AGENT_KEYS": "k:hunter2"})
    assert len(caught.value.sentences) == 2
    assert "hunter2" not in str(caught.value)


def test_process_with_wrong_settings_says_all_of_them_and_exits_2() -> None:
    environ = {
        name: value for name, value in os.environ.items() if not name.startswith(("DORMOUSE_", "REDIS_"))
    }
    ran = subprocess.run(
        [sys.executable, "-m", "gateway"],
        cwd=ROOT,
        env=environ | {"DORMOUSE_LISTEN": "x"},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 2
    assert [line.split()[1] for line in ran.stderr.splitlines()] == [
        "DORMOUSE_LISTEN",
        "DORMOUSE_UPSTREAM",
        "REDIS_URL",
        "DORMOUSE_AGENT_KEYS",
    ]
