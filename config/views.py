"""Is it alive, is it ready, and where is the agent: three answers that need no sign-in."""

from __future__ import annotations

from html import escape

from django.http import FileResponse, Http404, HttpRequest, HttpResponse, JsonResponse
from django.utils import timezone
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
