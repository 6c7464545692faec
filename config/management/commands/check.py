"""Django's check, with --probe for the checks that touch the world."""

from __future__ import annotations

from typing import Any

from django.core import checks
from django.core.management.base import CommandParser
from django.core.management.commands.check import Command as DjangoCheck

from config.probes import probe_all


class Command(DjangoCheck):
    help = "Checks the project and its settings; --probe also the database, Redis, the store and the secrets."

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.add_argument(
            "--probe", action="store_true", help="ask the database, Redis and the store as well"
        )

    def handle(self, *app_labels: str, **options: Any) -> None:
        if not options["probe"]:
            return super().handle(*app_labels, **options)
        checks.register(_probe, "probe")
        try:
            return super().handle(*app_labels, **options)
        finally:
            checks.registry.registry.registered_checks.discard(_probe)


def _probe(**_: Any) -> list[checks.CheckMessage]:
    return probe_all()
