"""Real Celery messages reach a real Celery worker, over HTTPS or from Redis, and it survives what is no message."""

from __future__ import annotations

import datetime
import ipaddress
import json
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from kombu import Connection, entity
from kombu.exceptions import OperationalError

from agent import transport, wire
from tests.agent.conftest import AgentProcess, eventually
from tests.agent.control_plane import ControlPlane, celery_message
from tests.servers import valkey


class Broker:
    """A Valkey of this test's own, with the ACL that a GPU machine gets."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self._process = subprocess.Popen(
            [
                valkey.binary(),
                "--port",
                str(self.port),
                "--bind",
                "127.0.0.1",
                "--save",
                "",
                "--dir",
                str(folder),
            ],
            stdout=subprocess.DEVNULL,
        )
        self.admin = redis.Redis(port=self.port)
        eventually(self._answers)

    def _answers(self) -> bool:
        try:
            return bool(self.admin.ping())
        except redis.ConnectionError:
            return False

    def publish(self, dispatch_id: str) -> None:
        """As the control plane does: celery.md 1.3."""
        key = wire.queue_key("w_1")
        app = Celery("control", broker=f"redis://127.0.0.1:{self.port}/0", fixups=[], set_as_current=False)
        entities: Any = entity
        queue = entities.Queue(key, entities.Exchange(""), routing_key=key, no_declare=True)
        app.send_task(wire.TASK_RING, args=[dispatch_id], queue=queue, ignore_result=True)
        app.close()

    def stop(self) -> None:
        self.admin.close()
        self._process.terminate()
        self._process.wait(10)


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    made = Broker(tmp_path)
    yield made
    made.stop()


def test_the_bytes_that_celery_puts_into_redis_work_over_https_unchanged(
    standing: AgentProcess, broker: Broker
) -> None:
    plane = standing.server
    job = plane.dispatch("d_bytes", ring=False, command=["true"])
    broker.publish("d_bytes")
    raw = broker.admin.rpop(wire.queue_key("w_1"))
    assert isinstance(raw, bytes)
    with plane.changed:
        plane.queue.append(raw)
        plane.changed.notify_all()
    plane.wait(lambda: job.finish)


@pytest.mark.slow
def test_direct_redis_needs_one_key_and_two_commands_and_can_be_switched_off_again(
    plane: ControlPlane, agent: AgentProcess, broker: Broker
) -> None:
    broker.admin.execute_command(
        "ACL",
        "SETUSER",
        "gpu",
        "reset",
        "on",
        ">pw",
        "~w:w_1:jobs",
        "resetchannels",
        "-@all",
        "+brpop",
        "+ping",
    )
    agent.enrolled()
    plane.settings = {"transport": {"kind": "redis", "url": f"redis://gpu:pw@127.0.0.1:{broker.port}/0"}}
    agent.start()
    first = plane.dispatch("d_1", ring=False, command=["true"])
    broker.publish("d_1")
    plane.wait(lambda: first.finish)
    assert plane.polls == 0 and "pw@" not in agent.log()
    # redis-py introduces itself and does not mind that nobody listens; nothing else was tried
    denied = {bytes(entry[b"object"]) for entry in broker.admin.execute_command("ACL", "LOG")}
    assert denied <= {b"client|setinfo"}
    # with the next token the control plane decides otherwise
    plane.settings = {"transport": {"kind": "https"}}
    plane.access.clear()
    second = plane.dispatch("d_2", ring=False, command=["true"])
    broker.publish("d_2")
    plane.wait(lambda: second.finish and plane.parked)
    third = plane.dispatch("d_3", command=["true"])
    plane.wait(lambda: third.finish)
    started = time.monotonic()
    assert agent.end() == 0 and time.monotonic() - started < 8


def test_a_transport_that_this_agent_does_not_know_is_said_and_https_serves(
    plane: ControlPlane, agent: AgentProcess
) -> None:
    agent.enrolled()
    plane.settings = {"transport": {"kind": "pigeon"}}
    agent.start()
    plane.wait(lambda: plane.parked)
    assert "transport 'pigeon'" in agent.log() and "falls back to HTTPS" in agent.log()


def test_what_is_no_doorbell_is_dropped_and_the_worker_goes_on(standing: AgentProcess) -> None:
    plane = standing.server
    pickled = json.loads(celery_message("d_1"))
    pickled["content-type"] = "application/x-python-serialize"
    cut = json.loads(celery_message("d_1"))
    cut["body"] = "%%%"
    garbage = [
        b'{"anything": 1}',
        b'{"body": "", "properties": {}}',
        json.dumps(pickled).encode(),
        json.dumps(cut).encode(),
        celery_message("d_1", task="os.system"),
        celery_message(),
        celery_message("d_1", "d_2"),
        celery_message({"not": "text"}),
        celery_message("../../etc"),
    ]
    job = plane.dispatch("d_1", ring=False, command=["true"])
    with plane.changed:
        plane.queue += garbage
        plane.queue.append(celery_message("d_1"))
        plane.changed.notify_all()
    plane.wait(lambda: job.finish)
    assert job.claims == 1 and "Unrecoverable" not in standing.log()


@pytest.mark.slow
def test_a_queue_that_answers_nothing_at_once_is_not_asked_in_a_loop(
    plane: ControlPlane, agent: AgentProcess
) -> None:
    agent.enrolled()
    plane.fault(wire.QUEUE, (204, None), times=100)
    agent.start()
    plane.wait(lambda: plane.count(wire.QUEUE) == 2)
    started = time.monotonic()
    plane.wait(lambda: plane.count(wire.QUEUE) == 3)
    assert time.monotonic() - started > 0.5


@pytest.mark.slow
def test_tls_with_an_authority_of_the_machine_and_a_poll_that_is_cut_short(
    plane: ControlPlane, agent: AgentProcess, tmp_path: Path
) -> None:
    plane.close()
    plane.tls = tls_context(tmp_path)
    plane.open()
    agent.start(env={"SSL_CERT_FILE": str(tmp_path / "authority.pem")})
    plane.wait(lambda: plane.parked)
    started = time.monotonic()
    assert agent.end() == 0
    assert time.monotonic() - started < 1.5


def test_a_certificate_that_nobody_vouches_for_is_not_accepted(
    plane: ControlPlane, agent: AgentProcess, tmp_path: Path
) -> None:
    plane.close()
    plane.tls = tls_context(tmp_path)
    plane.open()
    agent.start()
    eventually(lambda: "CERTIFICATE_VERIFY_FAILED" in agent.log())
    assert not plane.enrolments


def test_the_transport_only_consumes() -> None:
    transport.register()
    with Connection(f"{transport.ALIAS}://gateway//", transport_options={"poll": None}) as connection:
        channel = connection.channel()
        with pytest.raises(OperationalError, match="only consumes"):
            channel._put("w:w_2:jobs", {})
        assert channel._size("jobs") == 0


def tls_context(folder: Path) -> ssl.SSLContext:
    """A certificate for 127.0.0.1 that is its own authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    (folder / "authority.pem").write_bytes(pem)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "server.pem").write_bytes(pem + private)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem")
    return context
