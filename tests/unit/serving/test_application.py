"""sidecar.serving.application: whatever a handler does, there is an answer."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sidecar.serving.application import Application, Paths
from sidecar.serving.problems import RefusedError
from sidecar.serving.request import WholeRequest
from sidecar.serving.response import Response


def named(name: str) -> Any:
    """A handler that says its name."""

    async def handler(request: WholeRequest) -> Response:
        return Response.of_text(name)

    return handler


PATHS = Paths(
    [
        ("GET", "/", named("index")),
        ("GET", "/a", named("get")),
        ("POST", "/a", named("post")),
        ("POST", "/quit", named("quit")),
    ],
    "Nothing here.",
)


@pytest.mark.parametrize(
    ("method", "path", "name"),
    [
        ("GET", "/", "index"),
        ("HEAD", "/", "index"),
        ("GET", "/a", "get"),
        ("HEAD", "/a", "get"),
        ("POST", "/a", "post"),
        ("POST", "/quit", "quit"),
    ],
)
async def test_a_path_and_a_method_have_a_handler(method: str, path: str, name: str) -> None:
    """HEAD has that of GET."""
    assert (await PATHS.answer(WholeRequest(method, path))).body == name.encode()


@pytest.mark.parametrize(
    ("method", "path", "status", "detail", "allow"),
    [
        pytest.param("GET", "/b", 404, "Nothing here.", None, id="unknown"),
        pytest.param("GET", "/a/", 404, "Nothing here.", None, id="longer"),
        pytest.param("GET", "//a", 404, "Nothing here.", None, id="two-slashes"),
        pytest.param("GET", "", 404, "Nothing here.", None, id="empty"),
        pytest.param("OPTIONS", "*", 404, "Nothing here.", None, id="asterisk"),
        pytest.param("POST", "/", 405, "/ takes GET, HEAD.", "GET, HEAD", id="reads-only"),
        pytest.param("PUT", "/a", 405, "/a takes GET, HEAD, POST.", "GET, HEAD, POST", id="another"),
        pytest.param("HEAD", "/quit", 405, "/quit takes POST.", "POST", id="head-of-post"),
    ],
)
async def test_anything_else_is_refused(
    method: str, path: str, status: int, detail: str, allow: str | None
) -> None:
    """405 says which methods the path has (RFC 9110 section 15.5.6)."""
    response = await Application("server", PATHS.answer).answer(WholeRequest(method, path))
    assert response.status == status
    assert json.loads(response.body)["detail"] == detail
    assert response.headers.get("Allow") == allow


async def test_a_refusal_has_its_own_headers_and_every_answers() -> None:
    """The handler's win."""

    async def handler(request: WholeRequest) -> Response:
        if request.path == "/":
            return Response(headers={"Server": "its own"})
        raise RefusedError(429, "Later.", {"Retry-After": "4"})

    app = Application("server", handler, headers={"Server": "usual", "X": "y"})
    assert (await app.answer(WholeRequest("GET", "/"))).headers == {"Server": "its own", "X": "y"}
    refused = await app.answer(WholeRequest("GET", "/a"))
    assert (refused.status, refused.headers["Retry-After"]) == (429, "4")
    assert (refused.headers["Server"], refused.headers["X"]) == ("usual", "y")


@pytest.mark.parametrize(
    "fault", [KeyError("SECRET"), TimeoutError("SECRET"), ConnectionResetError("SECRET")]
)
async def test_a_fault_is_logged_and_tells_nothing(
    caplog: pytest.LogCaptureFixture, fault: Exception
) -> None:
    """Whatever was raised."""

    async def handler(request: WholeRequest) -> Response:
        raise fault

    response = await Application("admin server", handler).answer(WholeRequest("GET", "/"))
    assert response.status == 500
    assert b"SECRET" not in response.body
    assert response.headers["Cache-Control"] == "no-store"
    (record,) = caplog.records
    assert (record.getMessage(), record.levelname) == ("fault in the admin server", "ERROR")
    assert record.exc_info is not None
    assert record.exc_info[1] is fault
