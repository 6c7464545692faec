"""Join tokens from the command line: what a launcher asks for before it starts agents."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from datetime import timedelta
from typing import Any

from django.contrib.auth import get_user_model
from django.core.management.base import BaseCommand, CommandError

from core.errors import DomainError
from pool.models import Account
from pool.quota import DEFAULTS
from pool.services.accounts import account_create
from pool.services.enrollment import enrollment_token_issue
from pool.services.terms import terms_acknowledge


class Command(BaseCommand):
    help = "Print join tokens for an account, one a line. Each token is shown here and never again."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--owner", help="whose account; the first superuser by default")
        parser.add_argument("--kind", default="local", choices=sorted(DEFAULTS))
        parser.add_argument("--label", default="this machine", help="of the account")
        parser.add_argument(
            "--create", action="store_true", help="make the account if there is none of that label"
        )
        parser.add_argument(
            "--acknowledge-terms",
            metavar="VERSION",
            help="say that the account's owner has read that version of what the provider forbids",
        )
        parser.add_argument("--count", type=int, default=1, help="how many tokens")
        parser.add_argument("--uses", type=int, default=1, help="how often each may be used")
        parser.add_argument("--life-minutes", type=float, default=60)
        parser.add_argument("--json", action="store_true", help="as a JSON list")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            account = self._account(**options)
            if options["acknowledge_terms"]:
                terms_acknowledge(account=account, version=options["acknowledge_terms"], by="manage.py")
            tokens = [
                enrollment_token_issue(
                    account=account,
                    uses=options["uses"],
                    life=timedelta(minutes=options["life_minutes"]),
                    by="manage.py",
                )
                for _ in range(options["count"])
            ]
        except DomainError as error:
            raise CommandError(f"{error.message}. {error.hint}".strip()) from error
        self.stdout.write(json.dumps(tokens) if options["json"] else "\n".join(tokens))

    def _account(self, *, owner: str | None, kind: str, label: str, create: bool, **_: Any) -> Account:
        person = self._person(owner)
        account = Account.objects.filter(owner=person, kind=kind, label=label).first()
        if account is not None:
            return account
        # The default label is our own word for this machine: nobody could have made that account beforehand.
        if not create and label != "this machine":
            raise CommandError(f"{person} has no {kind} account {label!r}: add --create to make it")
        return account_create(owner=person, kind=kind, label=label)

    def _person(self, name: str | None) -> Any:
        people = get_user_model().objects
        if name is None:
            person = people.filter(is_superuser=True, is_active=True).order_by("pk").first()
            if person is None:
                raise CommandError("there is no superuser yet: run `manage.py prepare`, or say --owner")
            return person
        person = people.filter(username=name).first()
        if person is None:
            raise CommandError(f"there is no user {name!r}")
        return person
