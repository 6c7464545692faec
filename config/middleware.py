"""What every request and answer passes."""

from collections.abc import Callable

from django.http import HttpRequest, HttpResponse, JsonResponse

POLICY = "; ".join(
    (
        "default-src 'self'",
        # unfold runs on Alpine, whose expressions need eval; inline scripts stay forbidden (and its author
        # has declined to change that: unfoldadmin/django-unfold#2129).
        "script-src 'self' 'unsafe-eval'",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data:",
        "font-src 'self'",
        "connect-src 'self'",
        "object-src 'none'",
        "base-uri 'self'",
        "form-action 'self'",
        "frame-ancestors 'none'",
    )
)


class ContentSecurityPolicy:
    """Says on every answer that nothing is loaded from elsewhere. A view that sets its own policy keeps it."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        response = self.get_response(request)
        response.headers.setdefault("Content-Security-Policy", POLICY)
        return response


class RefuseNul:
    """400 for an address with a NUL character in it: no row has one, and PostgreSQL cannot be asked for it."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        if "\x00" in request.path_info or "%00" in request.META.get("QUERY_STRING", ""):
            refused = {
                "code": "invalid",
                "message": "the address holds a NUL character",
                "hint": "send it without",
            }
            return JsonResponse(refused, status=400)
        return self.get_response(request)
