"""The route table."""

from __future__ import annotations

from aiohttp import web

from stat7store.server import files, metrics, observe, uploads
from stat7store.server.bodies import expect_nothing_yet
from stat7store.server.envelope import add_common_headers, envelope
from stat7store.server.node import NODE, Node
from stat7store.server.page import add_page
from stat7store.server.request_log import REQUEST_LOG, RequestLog
from stat7store.server.retrieval import retrieve


def make_app(node: Node) -> web.Application:
    """Return the application of one worker."""
    app = web.Application(middlewares=[envelope])
    app[NODE] = node
    app[REQUEST_LOG] = RequestLog(node.settings, node.log, node.log_writer, node.board)
    app.on_response_prepare.append(add_common_headers)
    app.router.add_routes(
        [
            web.post("/v1/files", uploads.post_files, expect_handler=expect_nothing_yet),
            web.get("/v1/files", files.list_files),
            web.put("/v1/files/{address}", uploads.put_file, expect_handler=expect_nothing_yet),
            web.get("/v1/files/{address}", retrieve, allow_head=True),
            web.delete("/v1/files/{address}", files.delete_file),
            web.get("/v1/files/{address}/metadata", files.get_metadata),
            web.patch("/v1/files/{address}/metadata", files.patch_metadata),
            web.post("/v1/exists", files.exists),
            web.get("/v1/timings", observe.recent_timings),
            web.get("/v1/timings/{request_id}", observe.one_timing),
            web.get("/v1/stats", observe.stats),
            web.get("/metrics", metrics.metrics),
            web.get("/healthz", observe.healthz),
            web.get("/readyz", observe.readyz),
        ]
    )
    add_page(app)
    return app
