"""The page at ``/`` and its parts, from the package's own folder."""

from __future__ import annotations

from importlib import resources

from aiohttp import web

# The page loads nothing but its own parts and the store's files, and runs nothing but its own modules.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; media-src 'self' blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


def add_page(app: web.Application) -> None:
    """Add ``/`` and ``/static/…`` to the routes; the parts are read once, here."""
    folder = resources.files("stat7store.server") / "static"
    parts = {part.name: part.read_bytes() for part in folder.iterdir() if _suffix(part.name) in _TYPES}

    async def page(request: web.Request) -> web.Response:
        return _part("index.html")

    async def static(request: web.Request) -> web.Response:
        return _part(request.match_info["name"])

    def _part(name: str) -> web.Response:
        if name not in parts:
            raise web.HTTPNotFound
        head = {"Content-Type": _TYPES[_suffix(name)], "Cache-Control": "no-cache", "Content-Security-Policy": _POLICY}
        return web.Response(body=parts[name], headers=head)

    app.router.add_get("/", page)
    app.router.add_get("/static/{name}", static)


def _suffix(name: str) -> str:
    return name[name.rfind(".") :]
