"""The provider `local`: boxes are folders and real agent processes on this machine, kept by `local_host`.

This is the caller's side. It holds nothing and decides nothing; each call is one question to the host's socket.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hibernation.providers.base import (
    BoxFacts,
    BoxSpec,
    CreateUnknown,
    ListingIncomplete,
    Offer,
    OfferQuery,
    Provider,
    ProviderBusy,
)
from hibernation.providers.local_wire import (
    TIMEOUT_S,
    NoAnswer,
    NotSent,
    call,
    facts_from_json,
    host_facts,
    offer_from_json,
)
from hibernation.providers.registry import ProviderAccount, ProviderSettings

FOLDER = "local-host"


def local_folder(data_dir: Path) -> Path:
    """Where the host of this installation keeps its boxes: the DIR of `python -m hibernation.providers.local_host DIR`."""
    return data_dir / FOLDER


def local_provider(account: ProviderAccount, settings: ProviderSettings) -> LocalProvider:
    """The registry's factory. There is nothing to log in to, so a box belongs to the account's own id."""
    return LocalProvider(local_folder(settings.data_dir), tenant=account.id)


class LocalProvider(Provider):
    """folder: the host's. tenant: whose boxes are seen and destroyed; the machines' room is shared by all tenants."""

    def __init__(self, folder: Path, *, tenant: str = "", timeout_s: float = TIMEOUT_S) -> None:
        self.folder = folder
        self.tenant = tenant
        self.timeout_s = timeout_s
        self.create_settles_s = timeout_s

    def offers(self, query: OfferQuery) -> list[Offer]:
        cap = query.price_cap_usd_per_h
        arguments = {
            **vars(query),
            "price_cap_usd_per_h": None if cap is None else str(cap),
            "exclude_machines": sorted(query.exclude_machines),
        }
        return [offer_from_json(item) for item in self._ask("offers", {"query": arguments})]

    def create(self, offer_id: str, spec: BoxSpec) -> str:
        box = {
            "label": spec.label,
            "disk_bytes": spec.disk_bytes,
            "environment": spec.agent_environment(),
        }
        try:
            ref: str = self._call("create", {"offer_id": offer_id, "box": box})
        except NoAnswer as error:
            raise CreateUnknown(
                f"the local host was asked to create {spec.label} and gave no answer: {error}",
                hint="look for the label before anything else",
            ) from error
        return ref

    def read(self, ref: str) -> BoxFacts | None:
        found = self._ask("read", {"ref": ref})
        return None if found is None else facts_from_json(found)

    def destroy(self, ref: str) -> None:
        self._ask("destroy", {"ref": ref})

    def listing(self) -> list[BoxFacts]:
        found = self._ask("listing", {})
        if len(found["boxes"]) != found["total"]:
            raise ListingIncomplete(
                f"the local host lists {len(found['boxes'])} boxes and says that there are {found['total']}"
            )
        return [facts_from_json(item) for item in found["boxes"]]

    def _ask(self, op: str, arguments: Mapping[str, Any]) -> Any:
        """A question that may be asked again: no answer is as good as none asked."""
        try:
            return self._call(op, arguments)
        except NoAnswer as error:
            raise ProviderBusy(f"the local host gave no answer: {error}", retry_after_s=2) from error

    def _call(self, op: str, arguments: Mapping[str, Any]) -> Any:
        try:
            return call(self.folder, op, {**arguments, "tenant": self.tenant}, timeout_s=self.timeout_s)
        except NotSent as error:
            seen = host_facts(self.folder).get("at")
            raise ProviderBusy(
                "the local host is not running" + (f" (last seen {seen})" if seen else ""),
                hint=f"start ./run, or: python -m hibernation.providers.local_host {self.folder}",
                retry_after_s=5,
            ) from error
