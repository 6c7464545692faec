"""Is it alive, is it ready, and where is the agent: three answers that need no sign-in."""

from __future__ import annotations

from html import escape

from django.http import FileResponse, Http404, HttpRequest, HttpResponse, JsonResponse
from django.utils import timezone
from django.views import defaults
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from config.readiness import missing
from config.wheel import wheel_ensure


@never_cache
@require_safe
def healthz(request: HttpRequest) -> HttpResponse:
    """This process answers; nothing else is asked."""
    return HttpResponse("ok\n", content_type="text/plain")


@never_cache
@require_safe
def readyz(request: HttpRequest) -> JsonResponse:
    """200 when everything works, else 503 with a sentence for each part that does not."""
    found = missing(now=timezone.now())
    if not found:
        return JsonResponse({"ready": True, "missing": []})
    return JsonResponse({"ready": False, "missing": found}, status=503, headers={"Retry-After": "2"})


@require_safe
def agent_index(request: HttpRequest) -> HttpResponse:
    """The agent's wheel as `pip install --find-links` reads it: one link, with the hash that pip then insists on."""
    wheel = wheel_ensure()
    link = f'<a href="{escape(wheel.path.name)}#sha256={wheel.sha256}">{escape(wheel.path.name)}</a>'
    page = f"<!DOCTYPE html>\n<html><head><title>Dormouse agent</title></head><body>{link}</body></html>\n"
    return HttpResponse(page, headers={"Cache-Control": "no-cache"})


@require_safe
def agent_wheel(request: HttpRequest, name: str) -> FileResponse:
    """The wheel itself. Public: it holds code and no secret."""
    wheel = wheel_ensure()
    if name != wheel.path.name:
        raise Http404(f"this control plane serves {wheel.path.name}")
    headers = {"Cache-Control": "no-cache", "ETag": f'"{wheel.sha256}"'}
    return FileResponse(wheel.path.open("rb"), content_type="application/octet-stream", headers=headers)


def not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    """An address that is not there: for a program in the API's form, for a person as a page."""
    if not request.path.startswith("/api/"):
        return defaults.page_not_found(request, exception)
    body = {"code": "not_found", "message": f"there is no {request.path}", "hint": "see /api/docs/"}
    return JsonResponse(body, status=404)


def server_error(request: HttpRequest) -> HttpResponse:
    """A fault of ours; the log has it."""
    if not request.path.startswith("/api/"):
        return defaults.server_error(request)
    body = {
        "code": "server_error",
        "message": "something went wrong here, and was logged",
        "hint": "try again later",
    }
    return JsonResponse(body, status=500)
