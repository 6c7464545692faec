"""GET /health on the loopback: what a tunnel, a notebook cell or a curious person on this machine asks."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from agent.errors import UsageError
from agent.files import write_private

log = logging.getLogger("agent.health")

PORT_FILE = "health.port"


def health(
    *,
    status: str,
    runtime_hours: float,
    max_hours: float | None,
    gpu: str | None,
    provider: str,
    now: datetime,
) -> dict[str, object]:
    """The seven fields. utilizationPercentage is of the session's quota; null where the session has no limit."""
    return {
        "status": status,
        "sessionRuntimeHours": round(runtime_hours, 4),
        "maxSessionHours": max_hours,
        "utilizationPercentage": round(100 * runtime_hours / max_hours, 2) if max_hours else None,
        "gpu": gpu,
        "provider": provider or None,
        "timestamp": now.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
    }


class HealthServer:
    """Answers on 127.0.0.1 only. The port that was taken stands in `health.port`."""

    def __init__(self, *, port: int, state_dir: Path, report: Callable[[], Mapping[str, object]]) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if self.path.split("?")[0] == "/health":
                    self._answer(200, report())
                else:
                    self._answer(
                        404, {"code": "not_found", "message": "there is only /health here", "hint": ""}
                    )

            def _answer(self, status: int, body: Mapping[str, object]) -> None:
                payload = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(payload)))
                self.send_header("Cache-Control", "no-store")
                self.end_headers()
                self.wfile.write(payload)

            def log_message(self, format: str, *arguments: object) -> None:
                log.debug(format, *arguments)

        try:
            self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        except OSError as error:
            raise UsageError(
                f"port {port} for /health is taken: {error}", hint="choose another, or 0 for a free one"
            ) from error
        self._server.daemon_threads = True
        self._port_file = state_dir / PORT_FILE
        self.port = int(self._server.server_address[1])

    def start(self) -> None:
        threading.Thread(target=self._server.serve_forever, name="health", daemon=True).start()
        try:
            write_private(self._port_file, f"{self.port}\n")
        except OSError as error:
            log.error("health.port not written: %s", error)
        log.info("health url=http://127.0.0.1:%d/health", self.port)

    def stop(self) -> None:
        self._port_file.unlink(missing_ok=True)
        self._server.shutdown()
        self._server.server_close()
