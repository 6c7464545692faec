"""Everything between new code and running processes: checks, migrations, beat's table, static files."""

from __future__ import annotations

import hashlib
import importlib.metadata
import io
import json
import shutil
from pathlib import Path
from typing import Any

from django.apps import apps
from django.conf import settings
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandParser

from config.schedule import schedule_upsert


class Command(BaseCommand):
    help = "Checks the settings and the services, migrates, writes beat's table, collects static files. Safe to repeat."
    requires_system_checks = ()  # `check --probe` below runs them

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--first-start",
            action="store_true",
            help="run bootstrap_admin as well, and answer with one JSON object: username, password, token_file, tokens",
        )
        parser.add_argument(
            "--join-tokens",
            type=int,
            default=0,
            help="how many join tokens for workers of this machine to add",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        call_command("check", probe=True, stdout=self.stderr)
        call_command("migrate", verbosity=0, interactive=False, skip_checks=True)
        schedule_upsert()
        self._static()
        if options["first_start"]:
            answer = _answer("bootstrap_admin", json=True)
            count = options["join_tokens"]
            answer["tokens"] = _answer("enrollment_token", count=count, json=True) if count else []
            self.stdout.write(json.dumps(answer))

    def _static(self) -> None:
        """Collect again only where a file or a package that brings some has changed: compressing takes seconds."""
        stamp = Path(settings.STATIC_ROOT) / ".stamp"
        wanted = static_fingerprint()
        if stamp.exists() and stamp.read_text() == wanted:
            return
        shutil.rmtree(settings.STATIC_ROOT, ignore_errors=True)
        call_command("collectstatic", verbosity=0, interactive=False)
        stamp.write_text(wanted)


def _answer(command: str, **options: Any) -> Any:
    """What a command that answers in JSON says."""
    out = io.StringIO()
    call_command(command, stdout=out, **options)
    return json.loads(out.getvalue())


def static_fingerprint() -> str:
    """Changes with every file of ours and with the version of every installed package."""
    digest = hashlib.sha256()
    for line in sorted(f"{dist.name}=={dist.version}" for dist in importlib.metadata.distributions()):
        digest.update(line.encode() + b"\n")
    ours = [
        Path(app.path) / "static"
        for app in apps.get_app_configs()
        if Path(app.path).parent == settings.CHECKOUT
    ]
    for folder in sorted(ours):
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                digest.update(str(path).encode() + path.read_bytes())
    digest.update(settings.STORAGES["staticfiles"]["BACKEND"].encode())
    return digest.hexdigest()
