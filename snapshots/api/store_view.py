"""Signed uploads and downloads of a folder store. A bucket answers its own."""

from __future__ import annotations

import time

from django.http import Http404, HttpRequest, StreamingHttpResponse
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_http_methods

from snapshots.engine.store.folder import FolderStore
from snapshots.engine.store.folder_http import respond
from snapshots.services.store import store

REST_PIECE_BYTES = 1024 * 1024


@csrf_exempt
@require_http_methods(["GET", "HEAD", "PUT"])
def store_object(request: HttpRequest, key: str) -> StreamingHttpResponse:
    """The signature in the query is the only right to anything here; it names method, key, length, hash and expiry."""
    folder = store()
    if not isinstance(folder, FolderStore):
        raise Http404("snapshots are kept in a bucket, which serves its own objects")
    reply = respond(
        folder,
        method=request.method or "GET",
        key=key,
        query=request.GET.dict(),
        headers=dict(request.headers),
        body=request,
        now=time.time(),
    )
    # What a refused upload still sends has to be read, or the connection that the gateway keeps open is out of step.
    while request.method == "PUT" and request.read(REST_PIECE_BYTES):
        pass
    response = StreamingHttpResponse(reply.body, status=reply.status)
    for name, value in reply.headers.items():
        response[name] = value
    return response
