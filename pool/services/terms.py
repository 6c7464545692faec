"""The providers' terms: shown, acknowledged, recorded; and no worker is enrolled where they were not."""

from __future__ import annotations

import logging
from datetime import datetime

from django.utils import timezone

from core.errors import Forbidden, Invalid
from pool.models import Account, TermsAcknowledgement
from pool.terms import TERMS, Terms

log = logging.getLogger(__name__)


class TermsNotAcknowledged(Forbidden):
    """Nobody has said yet that this account's owner knows what her provider forbids."""

    code = "terms_not_acknowledged"


def terms_of(account: Account) -> Terms | None:
    """The text that is current for this kind of account; None where there is none."""
    return TERMS.get(account.kind)


def terms_acknowledge(
    *, account: Account, version: str, by: str, now: datetime | None = None
) -> TermsAcknowledgement:
    """Record who has read which version, and when. Doing it again returns the first record.

    Raises Invalid where the account's kind has no such text, or where another version is the current one.
    """
    terms = terms_of(account)
    if terms is None:
        raise Invalid(f"there is nothing to acknowledge for a {account.kind} account")
    if version != terms.version:
        raise Invalid(
            f"version {version!r} of the {account.kind} terms is not the current one, which is {terms.version}",
            hint="read the account's terms again and acknowledge that version",
            code="terms_version",
        )
    row, made = TermsAcknowledgement.objects.get_or_create(
        account=account,
        owner_id=account.owner_id,
        version=version,
        defaults={"label": str(account), "by": by, "at": now or timezone.now()},
    )
    if made:
        log.info("account=%s terms acknowledged version=%s by=%s", account.pk, version, by)
    return row


def terms_acknowledgement(account: Account) -> TermsAcknowledgement | None:
    """The record for the account's present owner and the current text. Asks for no query where they are prefetched."""
    terms = terms_of(account)
    if terms is None:
        return None
    return next(
        (
            row
            for row in account.acknowledgements.all()
            if row.version == terms.version and row.owner_id == account.owner_id
        ),
        None,
    )


def terms_require(account: Account) -> None:
    """Raises TermsNotAcknowledged where this account may enrol no worker yet."""
    terms = terms_of(account)
    if terms is not None and terms_acknowledgement(account) is None:
        raise TermsNotAcknowledged(
            f"nobody has acknowledged yet what the provider of account {account} forbids"
            f" (text of {terms.version}): {' '.join(terms.sentences).rstrip('.')}",
            hint="read it and tick it on the account's page in the console, or PATCH /api/accounts/"
            f'{account.pk} with {{"acknowledged_terms": "{terms.version}"}}',
        )
