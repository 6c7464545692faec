"""The first administrator, and a token of hers in a file for the command line on this machine."""

from __future__ import annotations

import json
import os
import secrets
import tempfile
from datetime import timedelta
from pathlib import Path
from typing import Any

from django.conf import settings
from django.contrib.auth import get_user_model
from django.contrib.auth.models import AbstractUser
from django.core.management.base import BaseCommand, CommandParser
from django.utils import timezone

from config.demo_login import DEMO_PASSWORD, demo_admins
from core.tokens import token_find, token_issue

NAME = "admin"
TOKEN_FILE = "admin-token"
RENEW_BEFORE = timedelta(days=7)


class Command(BaseCommand):
    help = (
        "Makes the user admin where there is no administrator yet, and prints her password once (admin in a demo); "
        "keeps a valid API token in DORMOUSE_DATA_DIR/admin-token, mode 0600. Safe to repeat."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--json", action="store_true", help="answer with one JSON object")

    def handle(self, *args: Any, **options: Any) -> None:
        user, password = admin_ensure()
        path = token_file_ensure(user)
        if options["json"]:
            answer = {"username": user.get_username(), "password": password, "token_file": str(path)}
            self.stdout.write(json.dumps(answer))
            return
        shown = f"password {password} (shown this once)" if password else "password unchanged"
        self.stdout.write(f"{user.get_username()}: {shown}; API token in {path}")


def admin_ensure() -> tuple[AbstractUser, str | None]:
    """An active superuser, and her password where it was set just now.

    A demo's password does not outlive the demo: started without DORMOUSE_DEMO, it is replaced.
    """
    users = get_user_model()
    if not settings.DEMO:
        for user in demo_admins():
            password = secrets.token_urlsafe(12)
            user.set_password(password)
            user.save(update_fields=["password"])
            return user, password
    existing = users.objects.filter(is_superuser=True, is_active=True)
    user = existing.filter(username=NAME).first() or existing.order_by("pk").first()
    if user is not None:
        return user, DEMO_PASSWORD if settings.DEMO and user.check_password(DEMO_PASSWORD) else None
    password = DEMO_PASSWORD if settings.DEMO else secrets.token_urlsafe(12)
    return users.objects.create_superuser(NAME, "", password), password


def token_file_ensure(user: AbstractUser) -> Path:
    """The file with a token of this user that is valid for a week or more; a new token where it is not."""
    path = Path(settings.DATA_DIR) / TOKEN_FILE
    now = timezone.now()
    if path.exists():
        row = token_find(path.read_text().strip(), now=now)
        if row is not None and row.user_id == user.pk and row.expires_at - now > RENEW_BEFORE:
            return path
    _, plain = token_issue(user=user, name="admin-token file", scopes=("read", "operate", "admin"))
    handle, scratch = tempfile.mkstemp(dir=path.parent, prefix=f".{TOKEN_FILE}.")  # mode 0600
    with os.fdopen(handle, "w") as file:
        file.write(plain + "\n")
    os.replace(scratch, path)
    return path
