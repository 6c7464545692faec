"""Who is told, once each, however the way there fails. Against a real mail server and a real webhook."""

from __future__ import annotations

import hashlib
import hmac
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connection

from config.celery import app
from core.alerts import channels, outbox
from core.alerts.outbox import BACK_OFF_S, HOLD_S, LEASE, deliveries_send
from core.models import Alert, AlertDelivery, AlertPreference
from tests.core.alerts.conftest import Watch, at
from tests.servers.smtp import SmtpServer

Told = Callable[..., None]


@pytest.fixture
def smtp(settings: Any) -> Iterator[SmtpServer]:
    server = SmtpServer()
    settings.EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
    settings.EMAIL_HOST, settings.EMAIL_PORT = "127.0.0.1", server.port
    settings.EMAIL_USE_TLS = settings.EMAIL_USE_SSL = False
    settings.DEFAULT_FROM_EMAIL = "dormouse@example.org"
    yield server
    server.stop()


class Hook:
    """A webhook that keeps what it is sent, and answers as it is told."""

    def __init__(self) -> None:
        self.status = 204
        self.got: list[tuple[dict[str, str], bytes]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.got.append((dict(self.headers), body))
                self.send_response(outer.status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/s3cret-path"

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def hook() -> Iterator[Hook]:
    running = Hook()
    yield running
    running.stop()


def send(seconds: float = HOLD_S) -> int:
    return deliveries_send(now=at(seconds))


def channels_of(alert: Alert) -> set[tuple[str, str]]:
    return set(alert.deliveries.values_list("channel", "target"))


# -- who ------------------------------------------------------------------------------------------------------------


def test_the_owner_and_the_site_are_told_and_nobody_else(
    watch: Watch, told: Told, alice: User, bob: User
) -> None:
    told(emails=["ops@example.org"], webhooks=["https://hooks.example.org/abc"])
    watch.says("attic", owner=alice)
    watch.look()
    hook = channels.label("https://hooks.example.org/abc")
    assert channels_of(Alert.objects.get()) == {
        ("email", "alice@example.org"),
        ("email", "ops@example.org"),
        ("webhook", hook),
    }
    assert "abc" not in hook and hook.startswith("https://hooks.example.org#")


def test_somebody_who_is_both_is_told_once(watch: Watch, told: Told, alice: User) -> None:
    told(emails=["alice@example.org"])
    watch.says("attic", owner=alice)
    watch.look()
    assert AlertDelivery.objects.count() == 1


@pytest.mark.parametrize(
    ("choice", "mailed"),
    [
        (None, {"tests_fire", "tests_flood"}),
        ({"least_severity": "info"}, {"tests_smoke", "tests_fire", "tests_flood"}),
        ({"least_severity": "critical"}, {"tests_flood"}),
        ({"email": False}, set()),
    ],
)
def test_an_owner_is_mailed_what_she_chose(
    watch: Watch, told: Told, alice: User, choice: dict[str, Any] | None, mailed: set[str]
) -> None:
    if choice:
        AlertPreference.objects.create(user=alice, **choice)
    for number, cause in enumerate(("tests_smoke", "tests_fire", "tests_flood")):
        watch.says("attic", cause=cause, owner=alice)
        watch.look(15 * number)
    assert set(AlertDelivery.objects.values_list("alert__cause", flat=True)) == mailed


def test_nobody_is_mailed_without_an_address_or_a_mail_server(watch: Watch, told: Told, alice: User) -> None:
    told(mail=False)
    watch.says("attic", owner=alice)
    watch.look()
    told()
    User.objects.filter(pk=alice.pk).update(email="")
    watch.says("attic", "cellar", owner=alice)
    watch.look(15)
    assert (Alert.objects.count(), AlertDelivery.objects.count()) == (2, 0)


def test_the_site_is_told_what_is_bad_enough(watch: Watch, told: Told) -> None:
    told(emails=["ops@example.org"], least="critical")
    watch.says("attic")
    watch.look()
    watch.says("attic", cause="tests_flood")
    watch.look(15)
    assert list(AlertDelivery.objects.values_list("alert__cause", flat=True)) == ["tests_flood"]


# -- mail -----------------------------------------------------------------------------------------------------------


def test_what_happens_together_is_one_mail(watch: Watch, told: Told, smtp: SmtpServer, alice: User) -> None:
    told()
    watch.says("attic", "cellar", owner=alice)
    watch.look()
    assert send(HOLD_S - 1) == 0
    assert send() == 2
    (mail,) = smtp.messages
    assert smtp.recipients == ["alice@example.org"]
    assert mail["Subject"] == "[Dormouse] warning: fire in attic (and 1 more)"
    text = mail.get_content()
    assert "WARNING: fire in attic" in text and "WARNING: fire in cellar" in text
    assert "since 2026-11-18T12:00:00Z" in text
    assert "/core/alert/" not in text, "an owner need not be able to open the console"
    assert send(60) == 0
    assert not AlertDelivery.objects.filter(sent_at__isnull=True).exists()


def test_the_site_gets_links_and_is_told_what_is_over_meanwhile(
    watch: Watch, told: Told, smtp: SmtpServer
) -> None:
    told(emails=["ops@example.org"])
    watch.says("attic")
    watch.look()
    watch.says()
    watch.look(5)
    send()
    text = smtp.messages[0].get_content()
    assert f"/core/alert/{Alert.objects.get().pk}/change/" in text
    assert "over since 2026-11-18T12:00:05Z" in text


def test_a_name_with_a_line_break_makes_no_header(watch: Watch, told: Told, smtp: SmtpServer) -> None:
    told(emails=["ops@example.org"])
    watch.says("attic\r\nBcc: evil@example.org")
    watch.look()
    assert send() == 1
    assert smtp.messages[0]["Subject"] == "[Dormouse] warning: fire in attic Bcc: evil@example.org"
    assert smtp.recipients == ["ops@example.org"]


def test_a_mail_that_is_refused_is_tried_again_later_and_given_up_after_a_day(
    watch: Watch, told: Told, smtp: SmtpServer
) -> None:
    told(emails=["ops@example.org"])
    watch.says("attic")
    watch.look()
    smtp.refuse = "451 not now"
    now_s = HOLD_S
    for number, wait_s in enumerate(BACK_OFF_S, start=1):
        assert send(now_s) == 0
        row = AlertDelivery.objects.get()
        assert (row.attempts, row.next_at) == (number, at(now_s + wait_s))
        assert "not now" in row.error
        assert send(now_s + wait_s - 1) == 0
        assert AlertDelivery.objects.get().attempts == number
        now_s += wait_s
    send(now_s)
    row = AlertDelivery.objects.get()
    assert (row.next_at, row.given_up_at) == (None, at(now_s))
    assert now_s > 86_000


def test_a_mail_server_that_comes_back_gets_it(watch: Watch, told: Told, smtp: SmtpServer) -> None:
    told(emails=["ops@example.org"])
    watch.says("attic")
    watch.look()
    smtp.refuse = "451 not now"
    send()
    smtp.refuse = ""
    assert send(HOLD_S + BACK_OFF_S[0]) == 1
    assert len(smtp.messages) == 1
    assert AlertDelivery.objects.get().error == ""


# -- exactly once ---------------------------------------------------------------------------------------------------


def test_a_lease_is_whole_however_long_the_recipients_before_it_took(
    watch: Watch, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    told(emails=["slow@example.org", "last@example.org"])
    watch.says("attic")
    watch.look()
    AlertDelivery.objects.filter(target="slow@example.org").update(next_at=at(0))
    passed = [0.0]
    left = []

    def takes_its_time(channel: str, target: str, *_: Any, **__: Any) -> None:
        lease_until = AlertDelivery.objects.get(target=target).lease_until
        assert lease_until is not None
        left.append(lease_until - at(HOLD_S + passed[0]))
        passed[0] += 90

    monkeypatch.setattr(outbox.time, "monotonic", lambda: passed[0])
    monkeypatch.setattr(outbox.channels, "send", takes_its_time)
    assert send() == 2
    assert left == [LEASE, LEASE]


def test_no_task_lives_as_long_as_a_lease() -> None:
    assert app.conf.task_time_limit < LEASE.total_seconds()


@pytest.mark.django_db(transaction=True)
def test_two_that_send_at_the_same_moment_send_once(watch: Watch, told: Told, smtp: SmtpServer) -> None:
    told(emails=[f"ops{number}@example.org" for number in range(8)])
    watch.says("attic", "cellar")
    watch.look()
    together = threading.Barrier(2)

    def run() -> None:
        together.wait()
        try:
            send()
        finally:
            connection.close()

    both = [threading.Thread(target=run) for _ in range(2)]
    for one in both:
        one.start()
    for one in both:
        one.join()
    send(20)
    assert sorted(smtp.recipients) == [f"ops{number}@example.org" for number in range(8)]


def test_a_worker_that_dies_while_sending_leaves_it_to_another_after_its_lease(
    watch: Watch, told: Told, smtp: SmtpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    told(emails=["ops@example.org"])
    watch.says("attic")
    watch.look()

    class Killed(BaseException):
        pass

    def dies(*_: Any, **__: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(outbox.channels, "send", dies)
        with pytest.raises(Killed):
            send()
    assert send(HOLD_S + 1) == 0
    assert send(HOLD_S + LEASE.total_seconds() - 1) == 0
    assert send(HOLD_S + LEASE.total_seconds() + 60) == 1
    assert len(smtp.messages) == 1


def test_a_recipient_that_never_lets_a_sender_live_is_given_up(
    watch: Watch, told: Told, smtp: SmtpServer
) -> None:
    told(emails=["ops@example.org"])
    watch.says("attic", "cellar")
    watch.look()
    tired = AlertDelivery.objects.order_by("pk").first()
    assert tired is not None
    AlertDelivery.objects.filter(pk=tired.pk).update(attempts=len(BACK_OFF_S) + 1)
    assert send() == 1
    assert len(smtp.messages) == 1
    tired.refresh_from_db()
    assert (tired.given_up_at, tired.next_at, tired.error) == (at(HOLD_S), None, "every attempt was cut off")


def test_the_same_message_sent_again_has_the_same_id(
    watch: Watch, told: Told, smtp: SmtpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between sending and settling: the one case in which a mail goes out twice."""
    told(emails=["ops@example.org"])
    watch.says("attic")
    watch.look()
    send()
    AlertDelivery.objects.update(sent_at=None, next_at=at(HOLD_S))
    send()
    first, second = smtp.messages
    assert first["Message-ID"] == second["Message-ID"]


def test_an_address_that_is_none_is_given_up_and_holds_up_nobody(
    watch: Watch, told: Told, smtp: SmtpServer, alice: User
) -> None:
    told(emails=["ops@example.org"])
    User.objects.filter(pk=alice.pk).update(email="alice@@example..org, <")
    alice.refresh_from_db()
    watch.says("attic", owner=alice)
    watch.look()
    assert send() == 1
    assert smtp.recipients == ["ops@example.org"]
    row = AlertDelivery.objects.exclude(target="ops@example.org").get()
    assert (row.given_up_at, row.next_at) == (at(HOLD_S), None)
    assert "no mail can be sent to 'alice@@example..org, <'" in row.error


# -- webhook --------------------------------------------------------------------------------------------------------


def test_a_webhook_is_signed_with_its_time(watch: Watch, told: Told, hook: Hook, alice: User) -> None:
    told(webhooks=[hook.url], mail=False)
    watch.says("attic", owner=alice)
    watch.look()
    assert send() == 1
    ((headers, body),) = hook.got
    timestamp = headers["Dormouse-Timestamp"]
    assert timestamp == str(int(at(HOLD_S).timestamp()))
    wanted = hmac.new(b"s" * 32, timestamp.encode() + b"." + body, hashlib.sha256).hexdigest()
    assert headers["Dormouse-Signature"] == f"v1={wanted}"
    (told_of,) = json.loads(body)["alerts"]
    assert (told_of["cause"], told_of["message"], told_of["severity"]) == (
        "tests_fire",
        "fire in attic",
        "warning",
    )
    assert (told_of["subject"], told_of["owner"]) == ({"type": "room", "id": "attic"}, "alice")
    assert told_of["id"] == Alert.objects.get().pk


def test_a_webhook_that_answers_otherwise_is_tried_again(watch: Watch, told: Told, hook: Hook) -> None:
    told(webhooks=[hook.url], mail=False)
    watch.says("attic")
    watch.look()
    hook.status = 500
    assert send() == 0
    assert AlertDelivery.objects.get().error == "the webhook answered 500"
    hook.status = 302
    assert send(HOLD_S + BACK_OFF_S[0]) == 0
    hook.status = 200
    assert send(HOLD_S + BACK_OFF_S[0] + BACK_OFF_S[1]) == 1


def test_a_webhook_into_the_private_network_is_not_asked(watch: Watch, told: Told, hook: Hook) -> None:
    told(webhooks=[hook.url], mail=False, private=[])
    watch.says("attic")
    watch.look()
    assert send() == 0
    assert hook.got == []
    assert "not a public address" in AlertDelivery.objects.get().error


def test_one_recipient_that_fails_holds_up_no_other(
    watch: Watch, told: Told, hook: Hook, smtp: SmtpServer
) -> None:
    told(webhooks=["http://127.0.0.1:9/nobody", hook.url], emails=["ops@example.org"])
    watch.says("attic")
    watch.look()
    assert send() == 2
    assert len(hook.got) == len(smtp.messages) == 1


def test_a_webhook_that_was_taken_out_of_the_settings_is_given_up(
    watch: Watch, told: Told, hook: Hook
) -> None:
    told(webhooks=[hook.url], mail=False)
    watch.says("attic")
    watch.look()
    told(webhooks=[], mail=False)
    send()
    row = AlertDelivery.objects.get()
    assert row.given_up_at == at(HOLD_S) and "no longer names" in row.error
    assert "s3cret" not in row.error + row.target


def test_nothing_of_a_webhooks_path_reaches_the_log(
    watch: Watch, told: Told, caplog: pytest.LogCaptureFixture
) -> None:
    told(webhooks=["http://127.0.0.1:9/s3cret"], mail=False)
    watch.says("attic")
    watch.look()
    send()
    assert "not sent" in caplog.text and "s3cret" not in caplog.text


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of what it imports
def test_apprise_tells_whom_it_knows(watch: Watch, told: Told, hook: Hook) -> None:
    pytest.importorskip("apprise")
    told(apprise=[hook.url.replace("http://", "json://")], mail=False)
    watch.says("attic")
    watch.look()
    assert send() == 1
    assert json.loads(hook.got[0][1])["title"] == "[Dormouse] warning: fire in attic"
