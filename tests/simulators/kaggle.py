"""Kaggle's API for notebooks, as the official client speaks it: a real HTTP server with people, quotas and faults.

What it answers, and what it refuses, is taken from the official client's own definitions (kagglesdk 0.1.37); a test
drives it with that client, whole, so that the two agree. Sessions do not run by themselves: a test says when one is
running, done or broken; or `on_push` runs the notebook for real.
"""

from __future__ import annotations

import base64
import json
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

GPU_SESSIONS_AT_ONCE = 2
WEEK_S = 30 * 3600
SAVE_FIELDS = {
    "id", "slug", "newTitle", "text", "language", "kernelType", "datasetDataSources", "kernelDataSources",
    "competitionDataSources", "categoryIds", "isPrivate", "enableGpu", "enableInternet", "dockerImagePinningType",
    "modelDataSources", "enableTpu", "sessionTimeoutSeconds", "priority", "dockerImage", "kernelExecutionType",
    "machineShape",
}  # fmt: skip
NAMED_FIELDS = {"userName", "kernelSlug", "versionLabel"}


@dataclass
class Person:
    """seconds of GPU time. key: of the older kind of credentials, which go with the name."""

    name: str
    token: str
    key: str
    used_s: float = 0.0
    total_s: float = WEEK_S
    refresh_at: str = "2026-11-28T00:00:00Z"


@dataclass
class Version:
    """One run of a notebook."""

    number: int
    request: dict[str, Any]
    status: str = "QUEUED"
    failure: str = ""
    log: list[dict[str, Any]] = field(default_factory=list)

    @property
    def notebook(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.request["text"])
        return found

    @property
    def source(self) -> str:
        return "\n".join(cell["source"] for cell in self.notebook["cells"])

    def says(self, text: str) -> None:
        self.log.append({"stream_name": "stdout", "time": float(len(self.log)), "data": text})


@dataclass
class Fault:
    """What becomes of the next calls of a method. lost: it is done, and the answer never arrives."""

    method: str
    status: int = 0
    body: bytes = b""
    lost: bool = False
    times: int = 1
    headers: dict[str, str] = field(default_factory=dict)


class KaggleRefusal(Exception):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class KaggleDouble:
    """with KaggleDouble() as kaggle: … kaggle.base_url … kaggle.person("ana")"""

    def __init__(self) -> None:
        self.people: dict[str, Person] = {}
        self.kernels: dict[str, list[Version]] = {}
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.faults: list[Fault] = []
        self.on_push: Callable[[Version], None] | None = None
        self._lock = threading.Lock()
        double = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                double._serve(self)

            def do_GET(self) -> None:
                double._stream(self)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.origin = f"http://127.0.0.1:{self._server.server_address[1]}"
        self.base_url = f"{self.origin}/v1"

    def __enter__(self) -> KaggleDouble:
        threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, name="kaggle", daemon=True
        ).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    # -- for tests ----------------------------------------------------------------------------------

    def person(self, name: str = "ana") -> Person:
        made = Person(name=name, token=f"KGAT_{name}_0123456789", key=f"key-of-{name}")
        self.people[name] = made
        return made

    def latest(self, ref: str) -> Version:
        """The newest version of owner/slug."""
        return self.kernels[ref][-1]

    def fail(self, method: str, status: int = 0, **more: Any) -> None:
        """The next call of that method is answered so."""
        self.faults.append(Fault(method, status=status, **more))

    def called(self, method: str) -> list[dict[str, Any]]:
        return [body for name, body in self.calls if name == method]

    # -- HTTP ---------------------------------------------------------------------------------------

    def _serve(self, request: BaseHTTPRequestHandler) -> None:
        raw = request.rfile.read(int(request.headers.get("Content-Length", 0)))
        method = request.path.rpartition("/")[2]
        with self._lock:
            fault = next((one for one in self.faults if one.method == method and one.times > 0), None)
            if fault is not None:
                fault.times -= 1
        if fault is not None and fault.status:
            body = (
                fault.body or json.dumps({"code": fault.status, "message": "an error was asked for"}).encode()
            )
            _answer(request, fault.status, body, headers=fault.headers)
            return
        try:
            answer = self._do(request.path, request.headers.get("Authorization", ""), raw)
            status, said = 200, json.dumps(answer).encode()
        except KaggleRefusal as error:
            status, said = error.status, json.dumps({"code": error.status, "message": error.message}).encode()
        if fault is not None and fault.lost:
            request.close_connection = True
            request.connection.close()
            return
        _answer(request, status, fault.body if fault is not None and fault.body else said)

    def _do(self, path: str, authorization: str, raw: bytes) -> dict[str, Any]:
        found = re.fullmatch(r"/v1/(kernels\.KernelsApiService|security\.OAuthService)/(\w+)", path)
        if found is None:
            raise KaggleRefusal(404, f"Not found: {path}")
        try:
            body = json.loads(raw or b"{}")
        except ValueError:
            raise KaggleRefusal(400, "Invalid JSON payload") from None
        if not isinstance(body, dict):
            raise KaggleRefusal(400, "Invalid JSON payload")
        with self._lock:
            self.calls.append((found[2], body))
            if found[2] == "IntrospectToken":
                return self._introspect(body)
            person = self._who(authorization)
            handlers: dict[str, Callable[[Person, dict[str, Any]], dict[str, Any]]] = {
                "SaveKernel": self._save,
                "GetKernel": self._get,
                "GetKernelSessionStatus": self._status,
                "ListKernelSessionOutput": self._output,
                "GetAcceleratorQuotaStatistics": self._quota,
            }
            if found[2] not in handlers:
                raise KaggleRefusal(404, f"Not found: {path}")
            return handlers[found[2]](person, body)

    def _stream(self, request: BaseHTTPRequestHandler) -> None:
        """A session's log: as events while it runs, whole once it is over."""
        found = re.fullmatch(r"/v1/kernels/logs/stream/([^/]+)/([^/]+)", request.path)
        try:
            if found is None:
                raise KaggleRefusal(404, "Not found")
            person = self._who(request.headers.get("Authorization", ""))
            version = self._find(person, {"userName": found[1], "kernelSlug": found[2]})
        except KaggleRefusal as error:
            _answer(
                request, error.status, json.dumps({"code": error.status, "message": error.message}).encode()
            )
            return
        if version.status not in ("QUEUED", "RUNNING"):
            _answer(request, 200, json.dumps(version.log).encode())
            return
        request.send_response(200)
        request.send_header("Content-Type", "text/event-stream")
        request.send_header("Connection", "close")
        request.end_headers()
        sent = 0
        while version.status in ("QUEUED", "RUNNING") or sent < len(version.log):
            for entry in version.log[sent:]:
                request.wfile.write(f"data: {json.dumps(entry)}\n\n".encode())
                sent += 1
            request.wfile.flush()
            time.sleep(0.02)
        request.wfile.write(b"data: END_OF_LOG\n\n")
        request.close_connection = True

    # -- what it knows ------------------------------------------------------------------------------

    def _who(self, authorization: str) -> Person:
        scheme, _, value = authorization.partition(" ")
        if scheme == "Basic":
            name, _, key = base64.b64decode(value).decode().partition(":")
            person = self.people.get(name)
            if person is not None and person.key == key:
                return person
        found = next((one for one in self.people.values() if scheme == "Bearer" and one.token == value), None)
        if found is None:
            raise KaggleRefusal(401, "Unauthenticated")
        return found

    def _introspect(self, body: dict[str, Any]) -> dict[str, Any]:
        _only(body, {"token"})
        found = next((one for one in self.people.values() if one.token == body.get("token")), None)
        return {"active": True, "username": found.name} if found else {"active": False}

    def _save(self, person: Person, body: dict[str, Any]) -> dict[str, Any]:
        _only(body, SAVE_FIELDS)
        owner, _, slug = str(body.get("slug", "")).partition("/")
        if owner != person.name or not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", slug):
            raise KaggleRefusal(403, "Permission 'kernels.update' was denied")
        error = self._why_not(person, body, slug)
        if error:
            return {"error": error, "ref": "", "url": ""}
        ref = f"{owner}/{slug}"
        versions = self.kernels.setdefault(ref, [])
        version = Version(number=len(versions) + 1, request=body)
        versions.append(version)
        if self.on_push is not None:
            self.on_push(version)
        return {
            "ref": f"/code/{ref}",
            "url": f"https://www.kaggle.com/code/{ref}",
            "versionNumber": version.number,
            "kernelId": 1000 + len(self.kernels),
            "invalidTags": [],
        }

    def _why_not(self, person: Person, body: dict[str, Any], slug: str) -> str:
        """Errors that Kaggle puts into an answer of 200."""
        title = str(body.get("newTitle") or "")
        if len(title) < 5 or re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-") != slug:
            return "The requested title does not match the slug"
        if body.get("language") != "python" or body.get("kernelType") not in ("notebook", "script"):
            return "Invalid language or kernel type"
        if body["kernelType"] == "notebook" and not _is_notebook(body.get("text")):
            return "The notebook is not valid"
        running = [one for versions in self.kernels.values() for one in versions if _lives(one)]
        if body.get("enableGpu") or body.get("machineShape"):
            if person.used_s >= person.total_s:
                return f"Maximum weekly GPU quota of {person.total_s / 3600:.2f} hours reached."
            if len(running) >= GPU_SESSIONS_AT_ONCE:
                return f"Maximum batch GPU session count of {GPU_SESSIONS_AT_ONCE} reached."
        return ""

    def _find(self, person: Person, body: dict[str, Any]) -> Version:
        versions = self.kernels.get(f"{body.get('userName')}/{body.get('kernelSlug')}")
        # A private notebook of somebody else's looks like none.
        if not versions or body.get("userName") != person.name:
            raise KaggleRefusal(403, "Permission 'kernels.get' was denied")
        return versions[-1]

    def _get(self, person: Person, body: dict[str, Any]) -> dict[str, Any]:
        _only(body, NAMED_FIELDS)
        version = self._find(person, body)
        slug = str(body["kernelSlug"])
        return {
            "metadata": {
                "id": 1, "ref": f"{person.name}/{slug}", "title": version.request["newTitle"], "author": person.name,
                "slug": slug, "language": "python", "kernelType": "notebook",
                "isPrivate": version.request.get("isPrivate"), "currentVersionNumber": version.number,
            },
            "blob": {"source": version.request["text"], "language": "python", "kernelType": "notebook", "slug": slug},
        }  # fmt: skip

    def _status(self, person: Person, body: dict[str, Any]) -> dict[str, Any]:
        _only(body, NAMED_FIELDS)
        version = self._find(person, body)
        # Null and absent both happen: what is not there is left out.
        return {"status": version.status, **({"failureMessage": version.failure} if version.failure else {})}

    def _output(self, person: Person, body: dict[str, Any]) -> dict[str, Any]:
        _only(body, {*NAMED_FIELDS, "pageSize", "pageToken"})
        version = self._find(person, body)
        return {
            "files": [],
            "log": "" if _lives(version) else json.dumps([*version.log, *_converted(version)]),
        }

    def _quota(self, person: Person, body: dict[str, Any]) -> dict[str, Any]:
        _only(body, set())
        reserved = sum(
            float(one.request.get("sessionTimeoutSeconds") or 0)
            for ref, versions in self.kernels.items()
            for one in versions
            if ref.startswith(f"{person.name}/") and _lives(one)
        )
        gpu = {
            "timeUsed": _duration(person.used_s),
            "timeReserved": _duration(reserved),
            "totalTimeAllowed": _duration(person.total_s),
            "minimumTimeAllowed": "0s",
            "isPayToScaleEnabled": False,
            "hasEverRun": person.used_s > 0,
        }
        tpu = {"timeUsed": "0s", "timeReserved": "0s", "totalTimeAllowed": _duration(20 * 3600)}
        return {"quotaRefreshTime": person.refresh_at, "gpuQuota": gpu, "tpuQuota": tpu}


def _lives(version: Version) -> bool:
    return version.status in ("QUEUED", "RUNNING", "CANCEL_REQUESTED")


def _converted(version: Version) -> list[dict[str, Any]]:
    """What Kaggle's own tools add to every log when the notebook is over: nbconvert speaks last."""
    lines = (
        "[NbConvertApp] Converting notebook __notebook__.ipynb to notebook",
        "[NbConvertApp] Writing 4711 bytes to __notebook__.ipynb",
        "/usr/local/lib/python3.11/dist-packages/mistune.py:435: SyntaxWarning: invalid escape sequence '\\|'",
        "  cells[i][c] = re.sub('\\\\\\\\\\|', '|', cell)",
        "[NbConvertApp] Converting notebook __notebook__.ipynb to html",
        "[NbConvertApp] Writing 298522 bytes to __results__.html",
    )
    return [
        {"stream_name": "stderr", "time": float(len(version.log) + number), "data": f"{line}\n"}
        for number, line in enumerate(lines)
    ]


def _is_notebook(text: object) -> bool:
    try:
        found = json.loads(str(text))
        return all(isinstance(cell["source"], str) for cell in found["cells"])
    except (ValueError, TypeError, KeyError):
        return False


def _only(body: dict[str, Any], known: set[str]) -> None:
    unknown = sorted(set(body) - known)
    if unknown:
        raise KaggleRefusal(400, f"Invalid JSON payload received. Unknown name {unknown[0]!r}")


def _duration(seconds: float) -> str:
    """As protobuf's JSON: whole seconds, or with milliseconds."""
    return f"{int(seconds)}s" if seconds == int(seconds) else f"{seconds:.3f}s"


def _answer(
    request: BaseHTTPRequestHandler, status: int, body: bytes, *, headers: dict[str, str] | None = None
) -> None:
    request.send_response(status)
    request.send_header("Content-Type", "application/json")
    request.send_header("Content-Length", str(len(body)))
    for name, value in (headers or {}).items():
        request.send_header(name, value)
    request.end_headers()
    request.wfile.write(body)
