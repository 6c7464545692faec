"""What the providers of notebooks forbid, in plain words, each text with its version.

A worker of such an account is enrolled only after its owner, or an operator for her, has acknowledged the text that is
current (`pool.services.terms`). A text that changes in meaning gets a new version, and is asked for again. The
notebooks carry the same sentences; a test keeps the two together.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Terms:
    """version: the day on which the text was written. text: one sentence a line. source: where the provider says it."""

    version: str
    text: str
    source: str

    @property
    def sentences(self) -> list[str]:
        return self.text.splitlines()


COLAB = Terms(
    version="2026-11-21",
    text="""\
One account for one person: Google forbids using several accounts to get round its limits.
No tunnels and no remote proxies, on free and on paid runtimes; Dormouse opens none.
Free runtimes are not for this: without paid compute units Google forbids distributed computing workers and remote \
control, and may end the runtime or block the account at any time. Use paid compute units.
Google publishes no quota and guarantees none: the hours that Dormouse counts are its own.""",
    source="https://research.google.com/colaboratory/faq.html",
)

KAGGLE = Terms(
    version="2026-11-21",
    text="""\
One account for one person: Kaggle forbids a second one.
Kaggle's machines are for your own use: read its terms before you work for others or for money with them.
Dormouse opens no tunnel into a session: do not open one yourself.
Kaggle has blocked people who ran distributed computing programs: what your jobs do there is your decision and your \
account's risk.""",
    source="https://www.kaggle.com/terms",
)

TERMS = {"colab": COLAB, "kaggle": KAGGLE}
"""By kind of account. Other kinds have none: their machines are one's own, or rented for such use."""
