"""The provider `vast`: boxes on machines of vast.ai, through its HTTP API.

Held to what is known of the service (docs/providers.md), above all: a create is never repeated, because one that timed
out may have rented; an answer that cannot be told is CreateUnknown, and the label decides; a listing counts only if it
is whole; a destroy is believed when the box is no longer there.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote, urlencode

from core.errors import Busy, Invalid
from core.http import HttpError
from hibernation.providers.base import (
    BoxFacts,
    BoxSpec,
    CreateUnknown,
    ListingIncomplete,
    Offer,
    OfferGone,
    OfferQuery,
    Provider,
    ProviderBusy,
    ProviderRefused,
    StartQueued,
)
from hibernation.providers.registry import AgentWheel, ProviderAccount, ProviderSettings
from hibernation.providers.vast_api import (
    CONNECT_TIMEOUT_S,
    READ_TIMEOUT_S,
    BoxNotThere,
    Said,
    VastApi,
    meaning,
    out_of_reach,
)
from hibernation.providers.vast_pace import Pace
from hibernation.providers.vast_rows import Demands, facts_of, gpu_names_for, offer_of, search
from hibernation.providers.vast_start import create_body

URL = "https://console.vast.ai"
IMAGE = "pytorch/pytorch:2.7.1-cuda12.8-cudnn9-runtime"

OFFERS_LIFE_S = 60.0
GPU_NAMES_LIFE_S = 24 * 3600.0
SETTLES_S = CONNECT_TIMEOUT_S + READ_TIMEOUT_S + 60.0
"""A create may hang for as long as its time limits, and its label may be listed a minute later."""

PAGE_ROWS = 25
PAGES_AT_MOST = 400


def vast_provider(account: ProviderAccount, settings: ProviderSettings) -> VastProvider:
    """The registry's factory. Credentials: {"api_key": "…"}."""
    api_key = account.credentials.get("api_key")
    if not isinstance(api_key, str) or not api_key.strip() or not api_key.strip().isascii():
        raise ProviderRefused(
            "the vast.ai account has no API key",
            hint='enter its credentials as {"api_key": "…"}; docs/providers.md says which permissions the key needs',
        )
    ours = settings.options.get("vast", {})
    return VastProvider(
        api_key.strip(),
        url=ours.get("url") or URL,
        image=ours.get("image") or IMAGE,
        agent_wheel=settings.agent_wheel,
    )


class VastProvider(Provider):
    """image: the container that boxes run. demands: which machines are good enough."""

    boot_minutes = 15.0
    can_stop = True

    def __init__(
        self,
        api_key: str,
        *,
        url: str,
        image: str,
        agent_wheel: Callable[[], AgentWheel],
        demands: Demands | None = None,
    ) -> None:
        self.create_settles_s = SETTLES_S
        self._api = VastApi(url, api_key, pace=Pace(api_key))
        self._image = image
        self._agent_wheel = agent_wheel
        self._demands = demands or Demands()

    # -- offers -------------------------------------------------------------------------------------------------

    def offers(self, query: OfferQuery) -> list[Offer]:
        names: Sequence[str] = ()
        if query.gpu_type:
            names = gpu_names_for(query.gpu_type, self._gpu_names())
            if not names:
                return []
        body = search(query, self._demands, gpu_names=names)
        found = [offer_of(row, disk_bytes=query.disk_bytes) for row in self._searched(body)]
        return [offer for offer in found if offer is not None and query.admits(offer)]

    def _searched(self, body: dict[str, Any]) -> list[dict[str, Any]]:
        key = json.dumps(body, sort_keys=True)
        rows = self._api.pace.remembered("offers", key)
        if rows is None:
            rows = self._api.ask("search", "POST", "/api/v0/bundles/", body).get("offers")
            # The documentation's example is one object, every answer that was seen is a list.
            rows = [rows] if isinstance(rows, dict) else rows
            if not isinstance(rows, list):
                raise ProviderBusy("vast.ai's search answered no list of offers", retry_after_s=10)
            rows = [row for row in rows if isinstance(row, dict)]
            self._api.pace.remember("offers", key, rows, life_s=OFFERS_LIFE_S)
        return list(rows)

    def _gpu_names(self) -> list[str]:
        names = self._api.pace.remembered("gpu-names", "all")
        if names is None:
            names = self._api.ask("gpu_names", "GET", "/api/v0/gpu_names/unique/").get("gpu_names")
            if not isinstance(names, list):
                raise ProviderBusy("vast.ai's list of GPU names cannot be read", retry_after_s=10)
            self._api.pace.remember("gpu-names", "all", names, life_s=GPU_NAMES_LIFE_S)
        return [str(name) for name in names]

    # -- create -------------------------------------------------------------------------------------------------

    def create(self, offer_id: str, spec: BoxSpec) -> str:
        try:
            own_address = "" if self._api.url == URL else self._api.url
            body = create_body(spec, self._agent_wheel(), image=self._image, api_url=own_address)
        except ProviderBusy:
            raise
        except Busy as error:
            raise ProviderBusy(error.message, hint=error.hint, retry_after_s=error.retry_after_s) from error
        except Invalid as error:
            raise ProviderRefused(error.message, hint=error.hint) from error
        try:
            said = self._api.send("create", "PUT", f"/api/v0/asks/{quote(offer_id, safe='')}/", body)
        except HttpError as error:
            if not error.sent:
                raise out_of_reach(error) from error
            raise _unknown(spec, f"{error}") from error
        self._api.pace.forget("offers")
        return _created(said, spec)

    # -- one box ------------------------------------------------------------------------------------------------

    def read(self, ref: str) -> BoxFacts | None:
        try:
            answer = self._api.ask("read", "GET", f"{_instance(ref)}?owner=me")
        except BoxNotThere:
            return None
        row = answer.get("instances", ())
        if row is None:
            return None
        if not isinstance(row, dict) or str(row.get("id")) != ref:
            raise ProviderBusy(f"vast.ai's answer about box {ref} is about something else", retry_after_s=5)
        return facts_of(row, now=datetime.now(UTC))

    def destroy(self, ref: str) -> None:
        try:
            self._api.ask("destroy", "DELETE", _instance(ref), {})
        except BoxNotThere:
            return

    def stop(self, ref: str) -> None:
        self._api.ask("change", "PUT", _instance(ref), {"state": "stopped"})

    def start(self, ref: str) -> None:
        try:
            said = self._api.send("change", "PUT", _instance(ref), {"state": "running"})
        except HttpError as error:
            raise out_of_reach(error) from error
        if said.says("state change queued", "resources are currently unavailable"):
            raise StartQueued(f"vast.ai: {said.text}", hint="wake it on another machine")
        wrong = meaning(said, "change")
        if wrong is not None:
            raise wrong

    # -- all boxes ----------------------------------------------------------------------------------------------

    def listing(self) -> list[BoxFacts]:
        rows: dict[str, dict[str, Any]] = {}
        token: str | None = None
        for _ in range(PAGES_AT_MOST):
            page = self._page(token)
            for row in page["instances"]:
                if not isinstance(row, dict) or row.get("id") is None:
                    raise ListingIncomplete("vast.ai's listing holds a row without an id", retry_after_s=5)
                if str(row["id"]) in rows:
                    raise ListingIncomplete(
                        "vast.ai's pages overlap: the listing moved meanwhile", retry_after_s=5
                    )
                rows[str(row["id"])] = row
            following = page.get("next_token")
            if following is None:
                break
            if following == token or not page["instances"]:
                raise ListingIncomplete("vast.ai's pages do not come to an end", retry_after_s=5)
            token = str(following)
        total = page["total_instances"]
        if len(rows) != total:
            raise ListingIncomplete(
                f"vast.ai lists {len(rows)} boxes and says that there are {total}",
                hint="nothing is concluded from it; it is asked again by itself",
                retry_after_s=5,
            )
        now = datetime.now(UTC)
        return [facts_of(row, now=now) for row in rows.values()]

    def _page(self, token: str | None) -> dict[str, Any]:
        asked = {
            "limit": PAGE_ROWS,
            "order_by": json.dumps([{"col": "id", "dir": "asc"}]),
            "select_cols": json.dumps(["*"]),
            **({} if token is None else {"after_token": token}),
        }
        page = self._api.ask("list", "GET", f"/api/v1/instances/?{urlencode(asked)}")
        total = page.get("total_instances")
        if (
            not isinstance(page.get("instances"), list)
            or isinstance(total, bool)
            or not isinstance(total, int)
        ):
            raise ListingIncomplete(
                "vast.ai's listing lacks its rows or their number: an empty answer is no empty account",
                hint="nothing is concluded from it; it is asked again by itself",
                retry_after_s=5,
            )
        return page


def _created(said: Said, spec: BoxSpec) -> str:
    """The new box's ref, or what the answer means. Whatever could mean either is CreateUnknown."""
    contract = said.body.get("new_contract")
    if contract is not None:
        if said.failed:
            raise _unknown(spec, f"an error, and box {contract} all the same: {said.text}")
        return str(contract)
    wrong = meaning(said, "create")
    refused = 400 <= said.status < 500 or said.is_understood
    if wrong is None or not refused:
        # It has happened that a failure was answered and the box existed, and was billed.
        raise _unknown(spec, said.text or f"an answer without a box ({said.status})")
    if said.status in (404, 410) and not said.is_understood:
        raise OfferGone(f"vast.ai: {said.text}")
    raise wrong


def _unknown(spec: BoxSpec, why: str) -> CreateUnknown:
    return CreateUnknown(
        f"vast.ai was asked for a box labelled {spec.label}, and it is not clear what became of it: {why}",
        hint="look for the label before anything else",
    )


def _instance(ref: str) -> str:
    return f"/api/v0/instances/{quote(ref, safe='')}/"
