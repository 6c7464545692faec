"""`manage.py state_tables`: the states document, made from the edge tables. A test checks that it is up to date."""

from __future__ import annotations

from typing import Any

from django.apps import apps
from django.core.management.base import BaseCommand

from core.models import Stateful
from core.states import StateTable

INTRODUCTION = """\
# States

Made by `./run manage state_tables` from the edge tables in `core/chain_states.py`, `core/alerts/states.py`, `pool/states.py`,
`snapshots/states.py` and `hibernation/states.py`; a test keeps it so. `core.transitions.advance` is the only way a
state changes: one guarded UPDATE (primary key, state, and the epoch or attempt where the row has one) with its event
row in the same transaction, or `TransitionRefused`. Every state is stable, final, or has a time limit and a way out.
"""


def tables() -> list[StateTable]:
    """The edge table of every kind of row that has one, by app and name."""
    models = [model for model in apps.get_models() if issubclass(model, Stateful)]
    order = {label: index for index, label in enumerate(("core", "pool", "snapshots", "hibernation"))}
    return [model.TABLE for model in sorted(models, key=lambda m: (order[m._meta.app_label], m.TABLE.name))]


def document() -> str:
    """docs/design/states.md, whole."""
    parts = [INTRODUCTION]
    for table in tables():
        parts.append(
            f"## {table.name.capitalize()}\n\n```mermaid\n{table.mermaid()}\n```\n\n{table.limits_table()}\n"
        )
    return "\n".join(parts)


class Command(BaseCommand):
    help = "Print the states document (docs/design/states.md) as the edge tables say it."

    def handle(self, *args: Any, **options: Any) -> None:
        self.stdout.write(document(), ending="")
