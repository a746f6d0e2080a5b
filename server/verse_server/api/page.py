"""The page at `/`, and its files below `/page/`: as they are, with no build step.

Everybody may load them, since there is nothing in them; what the page then asks for wants the key.
"""

import hashlib
from importlib.resources import files
from typing import Any, NamedTuple

from litestar import Controller, Request, Response, route
from litestar.exceptions import NotFoundException
from litestar.params import FromPath

from verse_server.api.openapi import READ

_INDEX = "index.html"
_MEDIA_TYPES = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}
_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        # No text can become markup, whatever a model writes.
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
_HEADERS = {
    "content-security-policy": _POLICY,
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    # Asked for again each time, so that a page never outlives its server's version.
    "cache-control": "no-cache",
}


class _File(NamedTuple):
    content: bytes
    media_type: str
    tag: str


def _read_all() -> dict[str, _File]:
    """All files of the page, small enough to be kept."""
    found: dict[str, _File] = {}
    for entry in files("verse_server").joinpath("page").iterdir():
        media_type = _MEDIA_TYPES.get("." + entry.name.rpartition(".")[2])
        if media_type is not None:
            content = entry.read_bytes()
            tag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
            found[entry.name] = _File(content, media_type, tag)
    return found


_FILES = _read_all()


async def _as_it_is(response: Response[Any]) -> Response[Any]:
    """In place of the app's own, which lets no HTML through; a coroutine as that one is."""
    return response


class PageController(Controller):
    """The page and its files."""

    include_in_schema = False
    after_request = _as_it_is

    @route("/", http_method=READ, sync_to_thread=False)
    def page(self, request: Request[Any, Any, Any]) -> Response[bytes]:
        """The page."""
        return _answer(request, _INDEX)

    @route("/page/{name:str}", http_method=READ, sync_to_thread=False)
    def file(self, request: Request[Any, Any, Any], name: FromPath[str]) -> Response[bytes]:
        """One of its files, by name."""
        return _answer(request, name)


def _answer(request: Request[Any, Any, Any], name: str) -> Response[bytes]:
    file = _FILES.get(name)
    if file is None:
        raise NotFoundException
    headers = {**_HEADERS, "etag": file.tag}
    if file.tag in request.headers.get("if-none-match", ""):
        return Response(b"", status_code=304, headers=headers, media_type=file.media_type)
    return Response(file.content, headers=headers, media_type=file.media_type)
