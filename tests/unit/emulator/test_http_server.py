"""What a server of the stand-in answers where aiohttp would answer by itself, byte for byte"""

from __future__ import annotations

import asyncio
from typing import Final, NamedTuple

import pytest

from sidecar.emulator.app import Emulator
from sidecar.emulator.instance import Platform
from sidecar.emulator.pages import plain
from tests.support.clock import FakeClock

NOW: Final = 1_684_778_288  # the moment of the answer that lsquic's issue 465 has
LONG: Final = 200_000
SERVERS: Final = ("metadata", "oauth", "sts", "iam", "control")
TARGETS: Final = ("cloud_run", "cloud_functions", "iap", "api_gateway", "endpoints", "googleapis", "open")
PATHS: Final = {
    "oauth": "/token",
    "sts": "/v1/token",
    "iam": "/v1/projects/-/serviceAccounts/a@b:signBlob",
    "control": "/_emulator/faults",
}
"""Those that read a body."""

HEAD: Final = b"GET / HTTP/1.1\r\nHost: %(host)s\r\n"
UNREADABLE: Final = {
    "tls": (b"\x16\x03\x01\x02\x00\x01\r\n\r\n", 400),
    "no-version": (b"GET /\r\n\r\n", 400),
    "space-in-method": (b"GE T / HTTP/1.1\r\nHost: %(host)s\r\n\r\n", 400),
    "http2-preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    "connect": (b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n", 400),
    "no-host": (b"GET / HTTP/1.1\r\n\r\n", 400),
    "two-hosts": (HEAD + b"Host: b\r\n\r\n", 400),
    "space-in-name": (HEAD + b"X y: 1\r\n\r\n", 400),
    "two-framings": (HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "length-is-no-number": (HEAD + b"Content-Length: 3x\r\n\r\nabc", 400),
    "chunk-is-no-number": (HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n\r\n", 400),
    "long-target": (b"GET /a?" + b"b" * LONG + b" HTTP/1.1\r\nHost: %(host)s\r\n\r\n", 414),
    "long-header": (HEAD + b"X: " + b"b" * LONG + b"\r\n\r\n", 413),
}


class Answer(NamedTuple):
    status_line: str
    headers: dict[str, str]
    body: bytes

    @property
    def status(self) -> int:
        return int(self.status_line.split()[1])


async def ask(port: int, *pieces: bytes) -> Answer:
    """What is answered until the end of the connection; each piece after the first once the one before was read."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for piece in pieces:
            writer.write(piece % {b"host": b"127.0.0.1:%d" % port} if b"%(host)s" in piece else piece)
            await writer.drain()
            await asyncio.sleep(0)
        data = await reader.read()
    finally:
        writer.close()
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    return Answer(first, dict(line.split(": ", 1) for line in lines), body)


async def port_of(google: Emulator, name: str) -> int:
    """The port of a server by its name, or of a new target of that kind."""
    if name in TARGETS:
        return (await google.add_target("t", kind=name)).port  # type: ignore[arg-type]
    addresses = {
        "metadata": google.metadata_address,
        "oauth": google.oauth_url,
        "sts": google.sts_url,
        "iam": google.iam_url,
        "control": google.control_url,
    }
    return int(addresses[name].removeprefix("http://").partition("/")[0].rpartition(":")[2])


@pytest.mark.parametrize("case", UNREADABLE)
@pytest.mark.parametrize("server", [*SERVERS, *TARGETS])
async def test_what_cannot_be_read_is_refused_in_the_servers_own_manner(
    google: Emulator, server: str, case: str
) -> None:
    """Whatever is no HTTP: a status, and neither aiohttp's name nor its words; then the connection ends."""
    sent, status = UNREADABLE[case]
    answer = await ask(await port_of(google, server), sent)
    assert answer.status == status
    assert "Python" not in answer.headers.get("Server", "")
    for words in (b"aiohttp", b"encountered:", b"Got more than", b"Duplicate", b"Missing"):
        assert words not in answer.body
    page = {"open": b"", "control": b"", "metadata": b"malformed", "oauth": b"malformed"}.get(
        server, b"malformed"
    )
    assert status != 400 or page in answer.body


@pytest.mark.parametrize("server", ["oauth", "sts", "iam", "googleapis"])
async def test_the_refusal_of_an_api_is_the_published_one(server: str) -> None:
    """https://github.com/litespeedtech/lsquic/issues/465 has the answer: its headers in order, and its length of 1555;
    https://github.com/Kong/insomnia/issues/1483 has the status line of HTTP/1.1's."""
    async with Emulator(now=FakeClock(wall=NOW).wall) as google:
        answer = await ask(await port_of(google, server), b"GE T / HTTP/1.1\r\n\r\n")
    assert answer.status_line == "HTTP/1.0 400 Bad Request"
    assert list(answer.headers.items()) == [
        ("Content-Type", "text/html; charset=UTF-8"),
        ("Referrer-Policy", "no-referrer"),
        ("Content-Length", "1555"),
        ("Date", "Mon, 22 May 2023 17:58:08 GMT"),
    ]
    assert len(answer.body) == 1555


@pytest.mark.parametrize("server", ["cloud_run", "cloud_functions", "iap", "api_gateway", "endpoints"])
async def test_the_refusal_before_a_service_has_the_published_head(google: Emulator, server: str) -> None:
    """https://github.com/coreruleset/go-ftw/issues/134 has a 411 with its head, and a length of 286."""
    answer = await ask(await port_of(google, server), b"GE T / HTTP/1.1\r\n\r\n")
    assert answer.status_line == "HTTP/1.0 400 Bad Request"
    assert list(answer.headers) == ["Content-Type", "Referrer-Policy", "Content-Length", "Date"]
    assert (
        b"<h1>Error: Bad Request</h1>\n<h2>Your client has issued a malformed or illegal request.</h2>"
        in answer.body
    )
    published = plain(411, "Length Required", "POST requests require a <code>Content-length</code> header.")
    assert isinstance(published.body, bytes)
    assert len(published.body) == 286


async def test_a_target_that_is_too_long_is_named_in_part(google: Emulator) -> None:
    """`/url...`, as in https://github.com/mohamedmansour/extended-share-extension/issues/36."""
    answer = await ask(await port_of(google, "googleapis"), UNREADABLE["long-target"][0])
    assert b"The requested URL <code>/a...</code> is too large to process." in answer.body


@pytest.mark.parametrize(
    ("platform", "status_line", "headers"),
    [
        (
            "compute_engine",
            "HTTP/1.1 400 Bad Request",
            {"Server": "Metadata Server for VM", "Metadata-Flavor": "Google"},
        ),
        ("cloud_run", "HTTP/1.1 400 Bad Request", {"Server": "Metadata Server for Serverless"}),
        ("gke", "HTTP/1.1 400 Bad Request", {"Content-Type": "text/plain; charset=utf-8"}),
    ],
)
async def test_a_metadata_server_refuses_as_its_others_do(
    platform: Platform, status_line: str, headers: dict[str, str]
) -> None:
    """With its name; GKE's as Go's net/http does, which has no name."""
    async with Emulator(platform=platform) as google:
        port = await port_of(google, "metadata")
        answer = await ask(port, b"GE T / HTTP/1.1\r\n\r\n")
        long = await ask(port, UNREADABLE["long-header"][0])
    assert answer.status_line == status_line
    assert headers.items() <= answer.headers.items()
    assert answer.headers["Connection"] == "close"
    if platform == "gke":
        assert ("Server" in answer.headers, answer.body) == (False, b"400 Bad Request")
        assert long.status_line == "HTTP/1.1 431 Request Header Fields Too Large"


@pytest.mark.parametrize("server", [*PATHS, "open"])
async def test_chunks_that_go_wrong_later_end_the_request(google: Emulator, server: str) -> None:
    """Where a handler has begun to read the body, it does not wait for the rest of it."""
    path = PATHS.get(server, "/x").encode()
    head = (
        b"POST " + path + b" HTTP/1.1\r\nHost: %(host)s\r\nTransfer-Encoding: chunked\r\n"
        b"Content-Type: application/"
        + (b"json" if server == "control" else b"x-www-form-urlencoded")
        + b"\r\n\r\n"
    )
    answer = await ask(await port_of(google, server), head, b"3\r\nabc\r\n", b"zz\r\n")
    assert answer.status in (400, 401)
    assert "Python" not in answer.headers.get("Server", "")
    assert b"500" not in answer.body


CLOSE: Final = b"Host: %(host)s\r\nConnection: close\r\n"
FORM: Final = b"Content-Type: application/x-www-form-urlencoded\r\n"
TOO_LARGE: Final = FORM + b"Content-Length: 3000000\r\n\r\n" + b"a" * 3_000_000


@pytest.mark.parametrize(
    ("server", "sent", "status", "words"),
    [
        pytest.param(
            "oauth", b"POST /token HTTP/1.1\r\n" + CLOSE + TOO_LARGE, 413, b"too large", id="large-oauth"
        ),
        pytest.param(
            "sts", b"POST /v1/token HTTP/1.1\r\n" + CLOSE + TOO_LARGE, 413, b"too large", id="large-sts"
        ),
        pytest.param(
            "oauth",
            b"POST /token HTTP/1.1\r\n" + CLOSE + b"Expect: more\r\n\r\n",
            400,
            b"malformed",
            id="expect",
        ),
        pytest.param(
            "oauth",
            b"POST /token HTTP/1.1\r\n"
            + CLOSE
            + b"Content-Type: multipart/form-data; boundary=x\r\nContent-Length: 5\r\n\r\n--y\r\n",
            400,
            b"unsupported_grant_type",
            id="multipart",
        ),
        pytest.param(
            "oauth",
            b"POST /token HTTP/1.1\r\n" + CLOSE + FORM + b"Content-Length: 2\r\n\r\n\xff\xfe",
            400,
            b"unsupported_grant_type",
            id="no-utf-8",
        ),
        pytest.param(
            "metadata",
            b"GET /computeMetadata/v1/instance/zone?wait_for_change=true&timeout_sec=nan HTTP/1.1\r\n"
            + CLOSE
            + b"Metadata-Flavor: Google\r\n\r\n",
            400,
            b"malformed",
            id="timeout-nan",
        ),
        pytest.param(
            "metadata",
            b"GET /computeMetadata/v1/instance/zone?wait_for_change=true&timeout_sec=x HTTP/1.1\r\n"
            + CLOSE
            + b"Metadata-Flavor: Google\r\n\r\n",
            400,
            b"malformed",
            id="seconds",
        ),
        *(
            pytest.param(
                "open",
                b"GET /sse?n=%b HTTP/1.1\r\n" % number + CLOSE + b"\r\n",
                400,
                b"n is a number",
                id=f"sse-{number.decode()}",
            )
            for number in (b"x", b"inf", b"nan")
        ),
        pytest.param("open", b"OPTIONS * HTTP/1.1\r\n" + CLOSE + b"\r\n", 404, b"Not Found", id="star"),
        pytest.param("control", b"GET /x HTTP/1.1\r\n" + CLOSE + b"\r\n", 404, b"Not Found", id="control"),
    ],
)
async def test_what_no_handler_takes(
    google: Emulator, server: str, sent: bytes, status: int, words: bytes
) -> None:
    """A size, an expectation or a body that is not taken, and a path that there is not: never a 500, never aiohttp's."""
    answer = await ask(await port_of(google, server), sent)
    assert answer.status == status
    assert "Python" not in answer.headers.get("Server", "")
    assert words in answer.body


async def test_a_connection_goes_on_after_an_answer_of_a_handlers(google: Emulator) -> None:
    """Two requests on one connection, as before; the second one asks for its end."""
    port = await port_of(google, "open")
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(
        b"GET /status/204 HTTP/1.1\r\nHost: a\r\n\r\nGET /status/204 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    )
    data = await reader.read()
    writer.close()
    assert data.count(b"HTTP/1.1 204 No Content\r\n") == 2
    assert b"Server:" not in data
