"""How a log line looks."""

import json
import logging
import logging.config
import sys

import pytest

from config.client import client_address
from config.logs import Json, Utc, logging_config


def record(exc_info=None):
    made = logging.LogRecord(
        "pool.services", logging.INFO, "", 0, "worker=%s chosen: ção", ("w_1",), exc_info
    )
    made.created, made.msecs = 1_795_271_400.25, 250.0
    return made


def test_json_line_is_one_object_with_utc_time():
    line = Json().format(record())
    assert "\n" not in line
    assert json.loads(line) | {"process": 0} == {
        "at": "2026-11-21T14:30:00.250Z", "level": "info", "logger": "pool.services",
        "message": "worker=w_1 chosen: ção", "process": 0,
    }  # fmt: skip


def test_json_line_stays_one_line_with_an_exception():
    try:
        raise ValueError("first\nsecond")
    except ValueError:
        line = Json().format(record(sys.exc_info()))
    assert "\n" not in line
    assert "ValueError: first" in json.loads(line)["exception"]


def test_text_line_has_utc_time_to_the_millisecond():
    assert (
        Utc("%(asctime)s %(message)s").format(record()) == "2026-11-21T14:30:00.250Z worker=w_1 chosen: ção"
    )


@pytest.mark.parametrize("form", ["text", "json"])
def test_configuration_is_one_that_logging_accepts(form):
    logging.config.DictConfigurator(logging_config(form, debug=False)).config["handlers"]["stderr"]
    assert logging_config(form, debug=True)["handlers"]["stderr"]["formatter"] == form


@pytest.mark.parametrize(
    ("headers", "address"),
    [
        ({"HTTP_X_FORWARDED_FOR": "198.51.100.7", "REMOTE_ADDR": ""}, "198.51.100.7"),
        ({"HTTP_X_FORWARDED_FOR": "10.0.0.1, 198.51.100.7", "REMOTE_ADDR": ""}, "198.51.100.7"),
        ({"HTTP_X_FORWARDED_FOR": "unknown", "REMOTE_ADDR": ""}, "0.0.0.0"),
        ({"REMOTE_ADDR": "127.0.0.1"}, "127.0.0.1"),
    ],
)
def test_client_is_who_the_gateway_says(rf, headers, address):
    request = rf.get("/", **headers)
    assert client_address(request) == address
