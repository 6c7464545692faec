"""The box that this agent lives in, seen from its provider: only for the day on which nobody else can end it."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import requests

from agent.client import BearerToken
from agent.redact import redact

log = logging.getLogger("agent.own_box")

VAST_URL = "https://console.vast.ai"
KEY_VARIABLE = "CONTAINER_API_KEY"
TIMEOUT_S = (10.0, 30.0)


@dataclass(frozen=True, kw_only=True)
class OwnBox:
    """A container of vast.ai with the key that vast.ai put into it: it opens this container and nothing else."""

    url: str
    ref: str
    key: str = field(repr=False)

    def destroy(self) -> bool:
        """Ask for this box to go, with every byte on it. False where that was not taken; true is no proof."""
        try:
            answer = requests.delete(
                f"{self.url}/api/v0/instances/{self.ref}/",
                json={},
                auth=BearerToken(self.key),
                timeout=TIMEOUT_S,
                allow_redirects=False,
            )
            body = answer.json()
        except (requests.RequestException, OSError, ValueError) as error:
            log.error("box=%s cannot be destroyed from inside yet: %s", self.ref, redact(str(error)))
            return False
        taken = answer.status_code == 200 and isinstance(body, dict) and body.get("success") is True
        if not taken:
            log.error("box=%s is not destroyed: %d %s", self.ref, answer.status_code, redact(str(body))[:300])
        return taken


def own_box(environ: Mapping[str, str], *, provider: str) -> OwnBox | None:
    """None where this machine is not a box that could end itself."""
    ref, key = environ.get("CONTAINER_ID", ""), environ.get(KEY_VARIABLE, "")
    if provider != "vast" or not key or not re.fullmatch(r"[0-9]{1,20}", ref):
        return None
    url = environ.get("DORMOUSE_VAST_URL") or VAST_URL
    return OwnBox(url=url.rstrip("/"), ref=ref, key=key)
