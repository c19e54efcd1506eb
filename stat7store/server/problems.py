"""Every error as a problem document (RFC 9457): the one table from error to HTTP status."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

import msgspec
from aiohttp import web

from stat7store.errors import (
    Conflict,
    Damaged,
    DigestMismatch,
    Malformed,
    NoSpace,
    NotAccepted,
    NotAllowed,
    NotFound,
    PreconditionFailed,
    Stat7Error,
    TooLarge,
    TooSlow,
    Unavailable,
)
from stat7store.server.ranges import Unsatisfiable

# protection: no-room-is-507
STATUS: dict[type[Stat7Error], HTTPStatus] = {
    Malformed: HTTPStatus.BAD_REQUEST,
    NotAllowed: HTTPStatus.FORBIDDEN,
    NotFound: HTTPStatus.NOT_FOUND,
    TooSlow: HTTPStatus.REQUEST_TIMEOUT,
    Conflict: HTTPStatus.CONFLICT,
    PreconditionFailed: HTTPStatus.PRECONDITION_FAILED,
    TooLarge: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    NotAccepted: HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    Unsatisfiable: HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE,
    DigestMismatch: HTTPStatus.UNPROCESSABLE_ENTITY,
    Damaged: HTTPStatus.INTERNAL_SERVER_ERROR,
    Unavailable: HTTPStatus.SERVICE_UNAVAILABLE,
    NoSpace: HTTPStatus.INSUFFICIENT_STORAGE,
}
RETRY_AFTER_S = 1


def problem(status: int, slug: str, title: str, detail: str, **facts: Any) -> web.Response:
    """Return a problem document. ``facts`` are the fields that help beside the detail."""
    document = {"type": f"/problems/{slug}", "title": title, "status": status, "detail": detail, **facts}
    response = web.Response(
        status=status, body=msgspec.json.encode(document), headers={"Content-Type": "application/problem+json"}
    )
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        response.headers["Retry-After"] = str(RETRY_AFTER_S)
    return response


def problem_of(error: Stat7Error) -> web.Response:
    """Return the problem document of one of the project's errors."""
    return problem(STATUS[type(error)], error.slug, error.title, str(error), **error.facts)


def problem_of_http(error: web.HTTPException) -> web.Response:
    """Return the problem document of a refusal by the framework, such as an unknown route."""
    status = HTTPStatus(error.status)
    details = {
        HTTPStatus.NOT_FOUND: "there is nothing at this path; the API is under /v1",
        HTTPStatus.METHOD_NOT_ALLOWED: f"this path does not take that method; allowed: {error.headers.get('Allow')}",
    }
    response = problem(
        status, status.phrase.lower().replace(" ", "-"), status.phrase, details.get(status, error.text or status.phrase)
    )
    if "Allow" in error.headers:
        response.headers["Allow"] = error.headers["Allow"]
    return response


def problem_of_bug() -> web.Response:
    """Return the problem document of an error that should not be: without details, which the log has."""
    return problem(
        500,
        "internal",
        "Internal error",
        "something went wrong in the server; its log has the details under the request id",
    )
