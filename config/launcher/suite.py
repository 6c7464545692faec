"""`./run test`: linter, import rules, types, migrations, schema, tests, and the database's tests once more on PostgreSQL."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from config.keyfile import secrets_fresh
from config.launcher.plan import without_ours

PYTHON = sys.executable
NO_TESTS = 5
"""pytest's exit code when a selection matches nothing, as it may for the second run of a few files."""


@dataclass
class Report:
    """What ran. `closing` is the line that pytest's run ended with; of the run that failed, if one did."""

    failed: list[str] = field(default_factory=list)
    closing: str = "no test ran"

    def step(self, name: str, command: Sequence[str], env: Mapping[str, str]) -> None:
        """Run a check; its output only where it fails."""
        began_s = time.monotonic()
        done = subprocess.run(
            command, env=dict(env), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
        self._say(name, done.returncode == 0, began_s)
        if done.returncode:
            print(done.stdout, flush=True)

    def tests(
        self, name: str, arguments: Iterable[str], env: Mapping[str, str], *, none_is_fine: bool
    ) -> None:
        """Run pytest, showing its lines as they come."""
        print(f"\n{name}", flush=True)
        color = ["--color=yes"] if sys.stdout.isatty() else []
        process = subprocess.Popen(
            [PYTHON, "-m", "pytest", *color, *arguments],
            env=dict(env), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
        )  # fmt: skip
        assert process.stdout is not None
        last = ""
        for line in process.stdout:
            print(line, end="", flush=True)
            last = line.strip() or last
        code = process.wait()
        failed = code not in ((0, NO_TESTS) if none_is_fine else (0,))
        if failed or not self._test_failed:
            self.closing = last if code != NO_TESTS or failed else self.closing
        if failed:
            self.failed.append(name)

    @property
    def _test_failed(self) -> bool:
        return any(name.startswith("Tests") for name in self.failed)

    def _say(self, name: str, passed: bool, began_s: float) -> None:
        print(f"  {'✓' if passed else '✗'} {name:<24} {time.monotonic() - began_s:.1f} s", flush=True)
        if not passed:
            self.failed.append(name)


def suite(environ: Mapping[str, str], arguments: Sequence[str]) -> int:
    """Everything; with the path of a test among the arguments only pytest, for a short loop. Returns the exit code."""
    env = without_ours(environ)
    report = Report()
    print(f"Python {sys.version.split()[0]} on {sys.platform}", flush=True)
    if not any(Path(argument.partition("::")[0]).exists() for argument in arguments):
        with tempfile.TemporaryDirectory(prefix="dormouse-check-") as folder:
            _static(report, env | {"DORMOUSE_DATA_DIR": folder})
    workers = [] if any(argument.startswith(("-n", "-p")) for argument in arguments) else _workers()
    # PostgreSQL first: the longer run ends the output, and so its closing line stands where one looks.
    _on_postgres(report, environ, env, [*workers, *arguments])
    report.tests("Tests, on SQLite", [*workers, *arguments], env, none_is_fine=False)
    if report.failed:
        print(f"\nFailed: {', '.join(report.failed)}", flush=True)
    print(report.closing, flush=True)
    return 1 if report.failed else 0


def _workers() -> list[str]:
    """One more than there are cores: tests of real processes wait most of the time.

    A file's tests stay together, because they share servers.
    """
    return ["-n", str(min(4, (os.cpu_count() or 1) + 1)), "--dist", "loadfile"]


def _static(report: Report, env: Mapping[str, str]) -> None:
    tool = Path(PYTHON).parent
    manage = [PYTHON, "manage.py"]
    report.step("linter", [PYTHON, "-m", "ruff", "check", "."], env)
    report.step("format", [PYTHON, "-m", "ruff", "format", "--check", "."], env)
    report.step("import rules", [str(tool / "lint-imports")], env)
    report.step("types", [PYTHON, "-m", "mypy"], env)
    report.step("migrations", [*manage, "makemigrations", "--check", "--dry-run"], env)
    schema = [*manage, "spectacular", "--validate", "--fail-on-warn", "--file", os.devnull]
    report.step("OpenAPI schema", schema, env)
    report.step(
        "deployment checks",
        [*manage, "check", "--deploy", "--fail-level", "WARNING"],
        {**env, **production()},
    )


def production() -> dict[str, str]:
    """An environment as of a real installation. Its services are not asked: `check` stays offline."""
    keys = secrets_fresh()
    return {
        "DORMOUSE_PUBLIC_URL": "https://dormouse.example",
        "DORMOUSE_TRUSTED_PROXIES": "1",
        "DORMOUSE_SECRET_KEY": keys["SECRET_KEY"],
        "DORMOUSE_FIELD_KEYS": ",".join(keys["FIELD_KEYS"]),
        "DORMOUSE_AGENT_KEYS": ",".join(":".join(pair) for pair in keys["AGENT_KEYS"]),
        "DORMOUSE_STORE_SIGNING_KEY": keys["STORE_SIGNING_KEY"],
        "DATABASE_URL": "postgresql://dormouse:secret@database.example/dormouse",
        "REDIS_URL": "rediss://:secret@broker.example:6379/0",
        "SNAPSHOT_STORE": "s3://dormouse-snapshots",
        "SNAPSHOT_S3_ENDPOINT": "https://account.r2.example",
        "SNAPSHOT_S3_ACCESS_KEY_ID": "id",
        "SNAPSHOT_S3_SECRET_ACCESS_KEY": "secret",
        "LOG_FORMAT": "json",
    }


def _on_postgres(
    report: Report, environ: Mapping[str, str], env: Mapping[str, str], arguments: Sequence[str]
) -> None:
    """The tests that touch the database, on DATABASE_URL or on a server of our own; said, where there is neither."""
    from tests.servers import postgres

    name = "Tests of the database, on PostgreSQL"
    words = ["--database-only", *arguments]
    if environ.get("DATABASE_URL"):
        report.tests(
            f"{name} (DATABASE_URL)",
            words,
            {**env, "DATABASE_URL": environ["DATABASE_URL"]},
            none_is_fine=True,
        )
        return
    server = postgres.start()
    if server is None:
        print(
            f"\n{name}: skipped, no server here (apt-get install postgresql, or set DATABASE_URL)", flush=True
        )
        return
    try:
        report.tests(
            f"{name} ({postgres.binaries()})", words, {**env, "DATABASE_URL": server.url}, none_is_fine=True
        )
    finally:
        server.stop()
