"""The local host's ear: one request on each connection, answered between two turns of the event loop.

Nothing else runs while a request is answered, so two callers can never get the last place of a machine.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from decimal import Decimal, InvalidOperation
from typing import Any

from core.errors import DomainError, Invalid
from hibernation.providers.base import OfferQuery, ProviderError
from hibernation.providers.local_faults import fault_from_json
from hibernation.providers.local_rentals import Rentals, Silence
from hibernation.providers.local_wire import (
    answer_error,
    answer_refused,
    facts_to_json,
    offer_to_json,
)

log = logging.getLogger("local_host")

REQUEST_LIMIT_BYTES = 256 * 1024
REQUEST_TIME_S = 10.0


class Server:
    """changed: called after every answer, because the boxes or the faults may be others now."""

    def __init__(self, rentals: Rentals, *, changed: Callable[[], None]) -> None:
        self.rentals = rentals
        self.changed = changed
        self._ops: dict[str, Callable[[Mapping[str, Any]], Any]] = {
            "offers": self._offers,
            "create": self._create,
            "read": self._read,
            "destroy": self._destroy,
            "listing": self._listing,
            "fault_add": self._fault_add,
            "fault_list": self._fault_list,
            "fault_clear": self._fault_clear,
        }

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, from its request to its end. A request without its final newline was never asked."""
        try:
            async with asyncio.timeout(REQUEST_TIME_S):
                answer = self.answer(await reader.readuntil(b"\n"))
                if answer is not None:
                    writer.write(json.dumps(answer).encode() + b"\n")
                    await writer.drain()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
            log.info("a caller went away: %s", error)
        finally:
            writer.close()

    def answer(self, line: bytes) -> dict[str, Any] | None:
        """The answer to one request; None: break off without one."""
        try:
            op, arguments = self._request(line)
            return {"result": op(arguments)}
        except Silence:
            return None
        except ProviderError as error:
            return answer_error(error)
        except DomainError as error:
            return answer_refused(error)
        finally:
            self.changed()

    def _request(self, line: bytes) -> tuple[Callable[[Mapping[str, Any]], Any], Mapping[str, Any]]:
        try:
            request = json.loads(line)
            op, arguments = self._ops[request["op"]], request["arguments"]
            too_late = time.monotonic() > request["gives_up_at"]
        except (ValueError, KeyError, TypeError) as error:
            raise Invalid(f"the local host does not understand the request: {error!r}") from error
        if too_late:
            raise Silence
        return op, arguments

    def _offers(self, arguments: Mapping[str, Any]) -> list[dict[str, Any]]:
        found = dict(_of(arguments, "query", dict))
        cap = found.pop("price_cap_usd_per_h", None)
        try:
            query = OfferQuery(
                price_cap_usd_per_h=None if cap is None else Decimal(cap),
                exclude_machines=frozenset(found.pop("exclude_machines", ())),
                **found,
            )
        except (TypeError, InvalidOperation) as error:
            raise Invalid(f"the query for offers cannot be read: {error!r}") from error
        return [offer_to_json(offer) for offer in self.rentals.offers(query)]

    def _create(self, arguments: Mapping[str, Any]) -> str:
        box = _of(arguments, "box", dict)
        environment = _of(box, "environment", dict)
        if not all(isinstance(text, str) for pair in environment.items() for text in pair):
            raise Invalid("the environment of a box is text by name")
        return self.rentals.create(
            _of(arguments, "offer_id", str),
            label=_of(box, "label", str),
            disk_bytes=_of(box, "disk_bytes", int),
            environment=environment,
            tenant=_of(arguments, "tenant", str),
        )

    def _read(self, arguments: Mapping[str, Any]) -> dict[str, Any] | None:
        facts = self.rentals.read(_of(arguments, "ref", str), tenant=_of(arguments, "tenant", str))
        return None if facts is None else facts_to_json(facts)

    def _destroy(self, arguments: Mapping[str, Any]) -> None:
        self.rentals.destroy(_of(arguments, "ref", str), tenant=_of(arguments, "tenant", str))

    def _listing(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        boxes, total = self.rentals.listing(tenant=_of(arguments, "tenant", str))
        return {"boxes": [facts_to_json(facts) for facts in boxes], "total": total}

    def _fault_add(self, arguments: Mapping[str, Any]) -> None:
        fault = replace(fault_from_json(arguments), since=self.rentals.clock())
        self.rentals.faults.add(fault)
        log.info("fault ordered: %s", fault)

    def _fault_list(self, arguments: Mapping[str, Any]) -> list[dict[str, Any]]:
        return [asdict(fault) for fault in self.rentals.faults.standing]

    def _fault_clear(self, arguments: Mapping[str, Any]) -> None:
        self.rentals.faults.clear()


def _of(found: Mapping[str, Any], name: str, kind: type) -> Any:
    value = found.get(name)
    if not isinstance(value, kind):
        raise Invalid(f"{name} is {value!r}, which is no {kind.__name__}")
    return value
