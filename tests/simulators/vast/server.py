"""The HTTP side: vast.ai's routes, keys, limits and answers; and /simulator/…, where tests order and look things up."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import Any

from aiohttp import web

from tests.simulators.vast import search
from tests.simulators.vast.contracts import Contract
from tests.simulators.vast.faults import Fault, FaultKind, K
from tests.simulators.vast.market import Market, Refusal, no_such_instance
from tests.simulators.vast.rows import NULLABLE

log = logging.getLogger("vast-simulator")

PAGE_ROWS_AT_MOST = 25
CREDIT_USD = 100.0
KEY_PREFIX = "sim-"
"""Every key that begins so is an account of its own."""

THRESHOLDS: dict[str, tuple[int, float]] = {
    "create": (1, 4.5), "destroy": (1, 3.0), "read": (1, 2.0), "list": (1, 1.0), "change": (1, 1.0), "charges": (1, 1.0),
    "search": (10, 60.0),
}  # fmt: skip
"""Endpoint -> calls, in so many seconds, of one key."""

TOO_OFTEN: tuple[Any, ...] = (
    "API requests too frequent",
    {"detail": "API requests too frequent endpoint threshold={threshold}"},
    {"success": False, "error": "rate_limit_exceeded", "msg": "Too many requests."},
)
"""The three bodies of a 429 that have been seen, in turn."""

Handler = Callable[[web.Request, str], Awaitable[web.StreamResponse]]


class Server:
    """pace: the share of vast.ai's own thresholds that holds here; 0: none."""

    def __init__(self, market: Market, *, pace: float) -> None:
        self.market = market
        self.pace = pace
        self.calls: list[dict[str, Any]] = []
        self._times: dict[tuple[str, str], deque[float]] = {}
        self._refused = 0

    def app(self) -> web.Application:
        app = web.Application()
        routes = app.router
        routes.add_get("/api/v0/gpu_names/unique/", self.gpu_names)
        routes.add_get("/api/v0/instances/filters/", self._of("filters", self.filters))
        routes.add_get("/api/v0/users/current", self._of("account", self.account))
        routes.add_get("/api/v0/users/current/", self._of("account", self.account))
        routes.add_post("/api/v0/bundles/", self._of("search", self.search))
        routes.add_put("/api/v0/search/asks/", self._of("search", self.search))
        routes.add_put("/api/v0/asks/{offer}/", self._of("create", self.create))
        routes.add_get("/api/v1/instances/", self._of("list", self.listing))
        routes.add_get("/api/v0/instances/", self._of("list", self.dead_listing))
        routes.add_get("/api/v0/instances/{id}/", self._of("read", self.read))
        routes.add_put("/api/v0/instances/{id}/", self._of("change", self.change))
        routes.add_delete("/api/v0/instances/{id}/", self._of("destroy", self.destroy))
        routes.add_get("/api/v0/charges/", self._of("charges", self.charges))
        routes.add_post("/simulator/faults", self.fault_add)
        routes.add_delete("/simulator/faults", self.faults_clear)
        routes.add_get("/simulator/books", self.books)
        routes.add_post("/simulator/forward", self.forward)
        routes.add_post("/simulator/traffic", self.traffic)
        return app

    # -- before every answer ------------------------------------------------------------------------------------

    def _of(self, endpoint: str, handler: Handler) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def answer(request: web.Request) -> web.StreamResponse:
            self.market.turn()
            called: dict[str, Any] = {"endpoint": endpoint, "path": request.path, "at": self.market.now()}
            self.calls.append(called)
            try:
                key = self._key(request)
                tenant = self._tenant(key, request)
                called["tenant"] = tenant
                refused = self._too_often(endpoint, key) or self._broken(endpoint, request)
                response = refused if refused is not None else await handler(request, tenant)
            except Refusal as refusal:
                response = _json(refusal.body, status=refusal.status)
            called["status"] = response.status
            return response

        return answer

    def _key(self, request: web.Request) -> str:
        header = request.headers.get("Authorization", "")
        key = header.removeprefix("Bearer ").strip() or request.query.get("api_key", "")
        if not key:
            raise Refusal(403, "auth_error", "This action requires login.")
        return key

    def _tenant(self, key: str, request: web.Request) -> str:
        """The account of the key. A container's own key opens that container and nothing else."""
        if key.startswith(KEY_PREFIX):
            return key
        for contract in self.market.living():
            if contract.container_key == key:
                if request.match_info.get("id") == str(contract.id) and request.method in ("PUT", "DELETE"):
                    return contract.tenant
                raise Refusal(403, "auth_error", "This key is not permitted to do that.")
        raise Refusal(404, "auth_error", "Invalid user key")

    def _too_often(self, endpoint: str, key: str) -> web.Response | None:
        fault = self.market.faults.take(K.RATE_LIMITED, endpoint=endpoint)
        if fault is not None:
            return self._later(endpoint, retry_after_s=fault.seconds)
        count, seconds = THRESHOLDS.get(endpoint, (1, 0.0))
        if not seconds or not self.pace:
            return None
        now, times = time.monotonic(), self._times.setdefault((key, endpoint), deque(maxlen=count))
        if len(times) == count and now - times[0] < seconds * self.pace:
            return self._later(endpoint, retry_after_s=0)
        times.append(now)
        return None

    def _later(self, endpoint: str, *, retry_after_s: float) -> web.Response:
        body = TOO_OFTEN[self._refused % len(TOO_OFTEN)]
        self._refused += 1
        headers = {"Retry-After": f"{retry_after_s:g}"} if retry_after_s else {}
        if isinstance(body, str):
            return web.Response(text=body, status=429, headers=headers)
        threshold = str(THRESHOLDS.get(endpoint, (1, 1.0))[1])
        text = json.dumps(body).replace("{threshold}", threshold)
        return web.Response(
            body=text.encode(), status=429, headers={**headers, "Content-Type": "application/json"}
        )

    def _broken(self, endpoint: str, request: web.Request) -> web.StreamResponse | None:
        kinds = (K.SUCCESS_FALSE, K.SERVER_ERROR, K.SILENCE, K.GARBLED)
        fault = self.market.faults.take_any(kinds, endpoint=endpoint)
        match fault and fault.kind:
            case K.SUCCESS_FALSE:
                return _json({"success": False, "msg": "Something did not work."})
            case K.SERVER_ERROR:
                return _json(
                    {"success": False, "error": "server_error", "msg": "Internal error."}, status=500
                )
            case K.GARBLED:
                return web.Response(text="<html>We will be back soon.</html>", content_type="text/html")
            case K.SILENCE:
                return _cut(request)
            case _:
                return None

    # -- vast.ai's routes ---------------------------------------------------------------------------------------

    async def gpu_names(self, _request: web.Request) -> web.Response:
        return _json({"gpu_names": sorted({machine.gpu_name for machine in self.market.machines.values()})})

    async def filters(self, _request: web.Request, tenant: str) -> web.Response:
        return _json(
            {"success": True, "filters": {}, "labels": [c.label for c in self.market.living(tenant)]}
        )

    async def account(self, _request: web.Request, tenant: str) -> web.Response:
        spent = sum(sum(c.invoice().values()) for c in self.market.contracts.values() if c.tenant == tenant)
        credit = self.market.credit.setdefault(tenant, CREDIT_USD) - spent
        return _json({"id": 1, "email": f"{tenant}@example.org", "credit": credit, "balance": 0, "ssh_key": None,
                      "host_agreement_accepted": False, "fullname": "", "username": tenant})  # fmt: skip

    async def search(self, request: web.Request, _tenant: str) -> web.Response:
        body = await request.json()
        asked = body.get("q", body)
        rows = self.market.offers(disk_gb=float(asked.get("allocated_storage") or 5))
        try:
            return _json({"offers": search.searched(rows, asked)})
        except search.UnknownKey as error:
            raise Refusal(400, "invalid_request", str(error)) from error

    async def create(self, request: web.Request, tenant: str) -> web.StreamResponse:
        body = await request.json()
        contract = self.market.rent(request.match_info["offer"], body, tenant=tenant)
        where = {"label": contract.label or "", "machine": str(contract.machine.machine_id)}
        if self.market.faults.take(K.CREATE_TIMES_OUT, **where):
            return _cut(request)
        lie = self.market.faults.take(K.CREATE_FALSE_BUT_RENTS, **where)
        if lie is not None:
            said = {"success": False, "msg": "Something did not work."}
            return _json(said if lie.seconds else said | {"new_contract": contract.id})
        return _json(
            {"success": True, "new_contract": contract.id, "instance_api_key": contract.container_key}
        )

    async def dead_listing(self, _request: web.Request, _tenant: str) -> web.Response:
        raise Refusal(410, "deprecated_endpoint", "This endpoint is gone. Use /api/v1/instances/ instead.")

    async def listing(self, request: web.Request, tenant: str) -> web.Response:
        faults = self.market.faults
        if faults.take(K.LISTING_GONE):
            raise Refusal(410, "deprecated_endpoint", "This endpoint is gone. Use another one instead.")
        if faults.take(K.LISTING_EMPTY):
            return _json(_page([], total=0, token=None))
        after = _token_read(request.query.get("after_token", ""))
        shown = _filtered(self.market.listed(tenant), request.query.get("select_filters", ""))
        limit = max(1, min(PAGE_ROWS_AT_MOST, int(request.query.get("limit") or PAGE_ROWS_AT_MOST)))
        if faults.find(K.LISTING_PAGED_OFF):
            limit = 1
        rows = [contract for contract in shown if contract.id > after]
        page, more = rows[:limit], len(rows) > limit
        token = _token(page[-1].id) if page and more else None
        if more and faults.take(K.LISTING_PAGED_OFF):
            token = None
        total, told = len(shown), [self.market.row(contract) for contract in page]
        if faults.take(K.LISTING_SHORT):
            told, total = told[:-1], max(total, 1)
        return _json(_page(told, total=total, token=token))

    async def read(self, request: web.Request, tenant: str) -> web.Response:
        contract = self.market.one(request.match_info["id"], tenant=tenant)
        return _json({"instances": None if contract is None else self.market.row(contract)})

    async def change(self, request: web.Request, tenant: str) -> web.Response:
        contract, body = self._one(request, tenant), await request.json()
        if "label" in body:
            if len(str(body["label"])) > 1024:
                raise Refusal(400, "label_too_long", "The label is longer than 1024 characters.")
            contract.label = str(body["label"])
        match body.get("state"):
            case "stopped":
                self.market.stop(contract)
            case "running":
                self.market.start(contract)
        return _json({"success": True, "new_contract": contract.id})

    async def destroy(self, request: web.Request, tenant: str) -> web.Response:
        self.market.destroy(self._one(request, tenant))
        return _json({"success": True})

    async def charges(self, _request: web.Request, tenant: str) -> web.Response:
        self.market.turn()
        found = [
            {"source": f"instance-{c.id}", "amount": sum(c.invoice().values()), "metadata": {"label": c.label},
             "items": [{"type": kind, "amount": usd} for kind, usd in c.invoice().items()]}
            for c in self.market.contracts.values() if c.tenant == tenant
        ]  # fmt: skip
        return _json({"success": True, "results": found, "count": len(found), "next_token": None})

    def _one(self, request: web.Request, tenant: str) -> Contract:
        contract = self.market.one(request.match_info["id"], tenant=tenant)
        if contract is None:
            raise no_such_instance(request.match_info["id"])
        return contract

    # -- what vast.ai lacks -------------------------------------------------------------------------------------

    async def fault_add(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.market.faults.add(Fault(**{**body, "kind": FaultKind(body["kind"])}))
        return _json({})

    async def faults_clear(self, _request: web.Request) -> web.Response:
        self.market.faults.clear()
        return _json({})

    async def forward(self, request: web.Request) -> web.Response:
        self.market.skipped_s += float((await request.json())["seconds"])
        self.market.turn()
        return _json({"now": self.market.now()})

    async def traffic(self, request: web.Request) -> web.Response:
        body = await request.json()
        bill = self.market.contracts[int(body["id"])].bill
        bill.upload_bytes += int(body.get("upload_bytes", 0))
        bill.download_bytes += int(body.get("download_bytes", 0))
        return _json({})

    async def books(self, _request: web.Request) -> web.Response:
        """Everything, the gone ones too: contracts, calls, and how often each fault has struck."""
        self.market.turn()
        now = self.market.now()
        contracts = [
            {**asdict(c), "ref": str(c.id), "machine_id": str(c.machine.machine_id), "status": c.shown_status(now),
             "works": c.works(now), "lives": c.lives, "usd": c.invoice(),
             "folder": str(self.market.box_folder(c.id)), "folder_is_there": self.market.box_folder(c.id).exists()}
            for c in self.market.contracts.values()
        ]  # fmt: skip
        return _json({"contracts": contracts, "calls": self.calls, "struck": self.market.faults.struck,
                      "nullable": NULLABLE, "now": now})  # fmt: skip


def _page(rows: list[dict[str, Any]], *, total: int, token: str | None) -> dict[str, Any]:
    labels: dict[str, int] = {}
    for row in rows:
        labels[str(row["label"])] = labels.get(str(row["label"]), 0) + 1
    return {"success": True, "instances_found": len(rows), "total_instances": total, "label_counts": labels,
            "next_token": token, "instances": rows}  # fmt: skip


def _filtered(contracts: list[Contract], select: str) -> list[Contract]:
    wanted = (json.loads(select) if select else {}).get("label", {}).get("eq")
    return contracts if wanted is None else [c for c in contracts if c.label == wanted]


def _token(contract_id: int) -> str:
    return base64.urlsafe_b64encode(json.dumps({"id": contract_id}).encode()).decode()


def _token_read(token: str) -> int:
    return int(json.loads(base64.urlsafe_b64decode(token))["id"]) if token else 0


def _cut(request: web.Request) -> web.StreamResponse:
    if request.transport is not None:
        request.transport.abort()
    return web.Response(status=499)


def _json(body: Any, *, status: int = 200) -> web.Response:
    # Exactly this content type: with a charset the official command line refuses the answer.
    return web.Response(
        body=json.dumps(body).encode(), status=status, headers={"Content-Type": "application/json"}
    )


async def serve(market: Market, server: Server, *, port: int, follow: Callable[[], bool], stop: asyncio.Event,
                ready: Callable[[int], None]) -> None:  # fmt: skip
    """Until `stop`. follow: makes the boxes' processes follow the market; true while something is in motion."""
    runner = web.AppRunner(server.app(), access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port)
    await site.start()
    ready(runner.addresses[0][1])
    while not stop.is_set():
        market.turn()
        in_motion = follow()
        try:
            async with asyncio.timeout(0.02 if in_motion else 0.05):
                await stop.wait()
        except TimeoutError:
            continue
    await runner.cleanup()
