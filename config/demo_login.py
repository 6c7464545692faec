"""admin / admin: allowed in a demo that only this machine reaches, and nowhere else."""

from __future__ import annotations

from django.contrib.auth import get_user_model
from django.contrib.auth.models import AbstractUser

DEMO_PASSWORD = "admin"


def demo_admins() -> list[AbstractUser]:
    """Active administrators whose password is still the demo's. A hash to compute each, so not for every request."""
    admins = get_user_model().objects.filter(is_superuser=True, is_active=True)
    return [user for user in admins if user.check_password(DEMO_PASSWORD)]
