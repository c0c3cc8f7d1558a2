"""What the upstream answers, and what of it reaches the app."""

from __future__ import annotations

import pytest

from sidecar.errors import Reason
from sidecar.net import peer
from tests.support.wire import BOTH_WAYS, GET, OK, End, Wire

ANSWERS = [
    pytest.param(
        b"GET", b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", 200, b"abc", id="content-length"
    ),
    pytest.param(
        b"GET",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x=1\r\nabc\r\n0\r\n\r\n",
        200,
        b"abc",
        id="chunked",
    ),
    pytest.param(
        b"GET",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3  \r\nabc\r\n0\t\r\n\r\n",
        200,
        b"abc",
        id="chunk-sizes-padded-with-blanks",
    ),
    pytest.param(b"HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n", 200, b"", id="head"),
    pytest.param(
        b"HEAD", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", 200, b"", id="head-chunked"
    ),
    pytest.param(b"GET", b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n", 204, b"", id="204"),
    pytest.param(b"GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", 304, b"", id="304"),
    pytest.param(b"GET", b"HTTP/1.1 404 \r\nContent-Length: 0\r\n\r\n", 404, b"", id="no-phrase"),
    pytest.param(b"GET", b"HTTP/1.1 299 Odd One\r\nContent-Length: 1\r\n\r\nx", 299, b"x", id="odd-status"),
    pytest.param(
        b"GET",
        b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx",
        200,
        b"x",
        id="after-an-interim-answer",
    ),
    pytest.param(
        b"GET",
        b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 1\r\n\r\nx",
        200,
        b"x",
        id="1.0",
    ),
]


@BOTH_WAYS
@pytest.mark.parametrize(("method", "sent", "status", "body"), ANSWERS)
async def test_answers_keep_their_meaning_and_the_connection(
    wire: Wire, method: bytes, sent: bytes, status: int, body: bytes, bytewise: bool
) -> None:
    """Whatever frames it, the app gets status and body, and both connections serve again."""
    await wire.start()
    app = await wire.app()
    await app.send(GET.replace(b"GET", method))
    upstream = await wire.upstream.accept()
    await upstream.read_head()
    await upstream.send(sent, bytewise=bytewise)
    answer = await app.answer(method.decode())
    while answer.status < 200:
        answer = await app.answer(method.decode())
    assert (answer.status, answer.body) == (status, body)
    assert "connection" not in answer.headers
    if status == 204:
        assert "content-length" not in answer.headers
    await app.send(GET)
    await upstream.read_head()
    await upstream.send(OK)
    assert (await app.answer()).body == b"ok"
    assert wire.upstream.waiting == 0


@BOTH_WAYS
@pytest.mark.parametrize("method", [b"GET", b"DELETE", b"HEAD"])
async def test_a_204_that_says_it_is_chunked_is_passed_on_without_that(
    wire: Wire, method: bytes, bytewise: bool
) -> None:
    """Many servers send it so, against RFC 9112 section 6.1; its upstream's connection serves nobody else."""
    await wire.start()
    app = await wire.app()
    for _ in range(2):
        await app.send(GET.replace(b"GET", method))
        upstream = await wire.upstream.accept()
        await upstream.read_head()
        chunks = b"" if method == b"HEAD" else b"0\r\n\r\n"
        await upstream.send(
            b"HTTP/1.1 204 No Content\r\ntransfer-encoding: Chunked\r\nX-A: 1\r\n\r\n" + chunks,
            bytewise=bytewise,
        )
        assert await app.read_head() == b"HTTP/1.1 204 No Content\r\nX-A: 1\r\n\r\n"
        assert await upstream.rest() == b""
    assert wire.stats.requests == {(method.decode(), 204): 2}


async def test_of_a_204_with_chunks_nothing_is_passed_on(wire: Wire) -> None:
    """To some it has a body and to others none; also where its bytes come long after its head, or look like an answer."""
    await wire.start()
    for behind in (b"5\r\nhello\r\n0\r\n\r\n", OK, b"0\r\nX: y\r\n\r\n"):
        app = await wire.app()
        await app.send(GET)
        upstream = await wire.upstream.accept()
        await upstream.read_head()
        head = b"HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n"
        await upstream.send(head, bytewise=True)
        await upstream.send(behind)
        answer = await app.answer()
        assert (answer.status, answer.reason) == (502, "upstream_malformed")


async def test_answer_lines_survive_and_hop_by_hop_ones_go(wire: Wire) -> None:
    """Order, spelling and repetition; Connection and what it names are this hop's."""
    await wire.start()
    app = await wire.app()
    await app.send(GET)
    upstream = await wire.upstream.accept()
    await upstream.read_head()
    await upstream.send(
        b"HTTP/1.1 200 Fine\r\nset-cookie: a=1\r\nX-B: 2\r\nSet-Cookie: b=2\r\nConnection: close, X-Hop\r\nX-Hop: 1\r\n"
        b"Keep-Alive: timeout=5\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\nzz"
    )
    answer = await app.answer()
    assert answer.first == "HTTP/1.1 200 Fine"
    assert answer.fields == [
        ("set-cookie", "a=1"),
        ("X-B", "2"),
        ("Set-Cookie", "b=2"),
        ("Content-Encoding", "gzip"),
        ("Content-Length", "2"),
    ]


async def test_trailers_of_an_answer_pass(wire: Wire) -> None:
    """Less those that frame or authenticate."""
    await wire.start()
    app = await wire.app()
    await app.send(GET.replace(b"\r\n\r\n", b"\r\nTE: trailers\r\n\r\n"))
    upstream = await wire.upstream.accept()
    head = await upstream.read_head()
    assert b"Connection: TE\r\nTE: trailers\r\n" in head
    await upstream.send(
        b"HTTP/1.1 200 OK\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nX-Sum: 1\r\nSet-Cookie: x=1\r\n\r\n"
    )
    answer = await app.answer()
    assert answer.headers["trailer"] == "X-Sum"
    assert answer.headers["trailers"] == "X-Sum: 1\r\n"


async def test_trailers_of_a_second_answer_are_not_the_firsts(wire: Wire) -> None:
    """An upstream that answers twice at once: the app gets the first answer alone, and the connection is given up."""
    await wire.start()
    app = await wire.app()
    await app.send(GET)
    upstream = await wire.upstream.accept()
    await upstream.read_head()
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n%b: 1\r\n\r\n"
    await upstream.send(chunked % b"First" + chunked % b"Second")
    assert (await app.answer()).headers["trailers"] == "First: 1\r\n"
    assert await upstream.rest() == b""


async def test_until_close_bodies_are_chunked_for_the_app(wire: Wire) -> None:
    """The app's connection stays, and it can tell a whole body from a cut one."""
    await wire.start()
    app = await wire.app()
    await app.send(GET)
    upstream = await wire.upstream.accept()
    await upstream.read_head()
    await upstream.send(b"HTTP/1.1 200 OK\r\n\r\nabc")
    await upstream.close()
    assert (await app.answer()).body == b"abc"
    await app.send(GET)
    await (await wire.upstream.accept()).read_head()


async def test_early_hints_pass(wire: Wire) -> None:
    """A 103 reaches the app before the answer."""
    await wire.start()
    app = await wire.app()
    await app.send(GET)
    upstream = await wire.upstream.accept()
    await upstream.read_head()
    await upstream.send(b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n")
    assert await app.read_head() == b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n"
    await upstream.send(OK)
    assert (await app.answer()).status == 200


async def test_events_pass_one_by_one(wire: Wire) -> None:
    """Nothing is held back until there is more."""
    await wire.start()
    app = await wire.app()
    await app.send(GET)
    upstream = await wire.upstream.accept()
    await upstream.read_head()
    await upstream.send(
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    await app.read_head()
    for number in range(3):
        event = b"data: %d\n\n" % number
        await upstream.send(b"%x\r\n%b\r\n" % (len(event), event))
        assert await app.read_until(b"\n\n\r\n") == b"9\r\n%b\r\n" % event


FAULTS = [
    pytest.param(b"", "upstream_closed", 502, id="nothing"),
    pytest.param(b"HTTP/1.1 200 OK\r\nContent-Le", "upstream_closed", 502, id="half-a-head"),
    pytest.param(b"SSH-2.0-OpenSSH_9.2\r\n", "upstream_malformed", 502, id="another-protocol"),
    pytest.param(b"HTTP/1.1 200 OK\r\nX : 1\r\n\r\n", "upstream_malformed", 502, id="space-before-colon"),
    pytest.param(
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx",
        "upstream_malformed",
        502,
        id="two-lengths",
    ),
    pytest.param(
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "upstream_malformed",
        502,
        id="cl-and-te",
    ),
    pytest.param(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nx", "upstream_malformed", 502, id="te-gzip"
    ),
    pytest.param(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        "upstream_malformed",
        502,
        id="te-both",
    ),
    pytest.param(
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * 70_000 + b"\r\n\r\n", "upstream_head_too_large", 502, id="big-head"
    ),
    pytest.param(
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * 70_000, "upstream_head_too_large", 502, id="endless-head"
    ),
    pytest.param(
        b"HTTP/1.1 200 OK\r\nConnection: " + b"a," * 65 + b"a\r\n\r\n",
        "upstream_head_too_large",
        502,
        id="endless-connection",
    ),
    pytest.param(
        b"HTTP/1.1 103 Hints\r\nConnection: " + b"a," * 65 + b"a\r\n\r\n",
        "upstream_head_too_large",
        502,
        id="endless-connection-of-an-interim-one",
    ),
    pytest.param(
        b"HTTP/1.1 101 Switching\r\nUpgrade: foo\r\nConnection: upgrade\r\n\r\n",
        "upgrade_failed",
        502,
        id="unasked-101",
    ),
    pytest.param(b"HTTP/1.1 101 Switching\r\n\r\n", "upstream_malformed", 502, id="101-without-upgrade"),
    pytest.param(b"HTTP/1.1 102 P\r\n\r\n" * 33, "upstream_malformed", 502, id="endless-interim-answers"),
]


@pytest.mark.parametrize(("sent", "reason", "status"), FAULTS)
async def test_bad_answers_become_502_with_the_reason(
    wire: Wire, sent: bytes, reason: str, status: int
) -> None:
    """Nothing of them is used, the connection neither, and the app's goes on."""
    await wire.start()
    app = await wire.app()
    await app.send(GET)
    upstream = await wire.upstream.accept()
    await upstream.read_head()
    await upstream.send(sent)
    if reason == "upstream_closed":
        await upstream.close()
    answer = await app.answer()
    while answer.status < 200:
        answer = await app.answer()
    assert (answer.status, answer.reason) == (status, reason)
    assert wire.stats.refused == {reason: 1}
    await app.send(GET)
    second = await wire.upstream.accept()
    await second.read_head()
    await second.send(OK)
    assert (await app.answer()).status == 200


CUT = [
    pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc", id="content-length"),
    pytest.param(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", id="chunked"),
    pytest.param(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcXX", id="malformed-chunk"),
]


@pytest.mark.parametrize("sent", CUT)
async def test_a_cut_answer_is_cut_for_the_app_too(wire: Wire, sent: bytes) -> None:
    """The app can tell that something is missing; what came is passed on."""
    await wire.start()
    app = await wire.app()
    await app.send(GET)
    upstream = await wire.upstream.accept()
    await upstream.read_head()
    await upstream.send(sent)
    await app.read_until(b"abc")
    await upstream.close()
    rest = await app.rest()
    assert b"0\r\n\r\n" not in rest
    assert wire.stats.requests == {("GET", 200): 1}


async def test_a_cut_answer_to_http_10_is_reset(wire: Wire) -> None:
    """Where the end of the connection ends the body, only a reset can say that it was cut."""
    await wire.start()
    app = await wire.app()
    await app.send(b"GET / HTTP/1.0\r\nHost: billing.internal\r\n\r\n")
    upstream = await wire.upstream.accept()
    await upstream.read_head()
    await upstream.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
    await app.read_until(b"abc")
    await upstream.close()
    with pytest.raises(ConnectionResetError):
        await app.rest()


async def test_bytes_behind_an_answer_are_never_the_next_one(wire: Wire) -> None:
    """An upstream that says too much can't answer the next request in advance."""
    await wire.start()
    app = await wire.app()
    await app.send(GET)
    upstream = await wire.upstream.accept()
    await upstream.read_head()
    await upstream.send(OK + b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
    assert (await app.answer()).body == b"ok"
    await app.send(GET)
    second = await wire.upstream.accept()
    await second.read_head()
    await second.send(OK)
    assert (await app.answer()).body == b"ok"


async def test_bytes_on_an_idle_connection_close_it(wire: Wire) -> None:
    """Nobody asked for them."""
    await wire.start()
    app = await wire.app()
    await app.send(GET)
    upstream = await wire.upstream.accept()
    await upstream.read_head()
    await upstream.send(OK)
    await app.answer()
    await upstream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
    await wire.turn(lambda: wire.stats.connections_idle == 0)
    await app.send(GET)
    second = await wire.upstream.accept()
    await second.read_head()
    await second.send(OK)
    assert (await app.answer()).body == b"ok"


async def part_of_a_body(wire: Wire) -> tuple[End, End]:
    """Both ends of a request of which a part has been sent."""
    await wire.start()
    app = await wire.app()
    await app.send(b"POST / HTTP/1.1\r\nHost: billing.internal\r\nContent-Length: 100\r\n\r\npart")
    upstream = await wire.upstream.accept()
    await upstream.read_head()
    return app, upstream


async def test_an_early_answer_ends_the_request(wire: Wire) -> None:
    """An upstream that refuses before the body is through is heard, and neither connection serves again."""
    app, upstream = await part_of_a_body(wire)
    await upstream.send(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno")
    assert (await app.answer()).status == 413
    assert await app.rest() == b""
    assert wire.stats.requests == {("POST", 413): 1}


async def test_an_answer_is_heard_though_the_upstream_takes_no_more(wire: Wire) -> None:
    """It answers, closes with bytes unread, which resets, and the next piece of the body can't be written: that comes up
    before the answer is read."""
    app, upstream = await part_of_a_body(wire)
    # All at once: the proxy finds the piece first, then the answer and the reset.
    app.writer.write(b"more")
    upstream.writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno")
    upstream.reset()
    answer = await app.answer()
    assert (answer.status, answer.body) == (413, b"no")
    assert wire.stats.requests == {("POST", 413): 1}
    assert not wire.stats.refused


async def test_half_an_answer_before_a_failed_write_is_half_an_answer(wire: Wire) -> None:
    """What is missing of it stays missing."""
    app, upstream = await part_of_a_body(wire)
    app.writer.write(b"more")
    upstream.writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 20\r\n\r\nno")
    upstream.reset()
    assert await app.read_head()
    assert await app.rest() == b"no"
    assert wire.stats.cut == {Reason.UPSTREAM_INCOMPLETE: 1}


async def test_a_fault_in_hearing_an_upstream_out_ends_its_request(
    wire: Wire, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """With a 500, the fault in the log, and everything given back."""
    error = RuntimeError("made by the test")

    def unread(_: object) -> bytes:
        raise error

    monkeypatch.setattr(peer, "unread", unread)
    app, upstream = await part_of_a_body(wire)
    app.writer.write(b"more")
    upstream.reset()
    answer = await app.answer()
    assert (answer.status, answer.reason) == (500, "internal")
    assert [record.exc_info[1] for record in caplog.records if record.exc_info] == [error]
    await wire.turn(lambda: wire.stats.connections_active == 0)


LOCATIONS = [
    pytest.param(
        b"", "billing.internal", "{origin}/a?b", "http://billing.internal/a?b", id="upstream-itself"
    ),
    pytest.param(b"", "billing.internal", "https://elsewhere/a", "https://elsewhere/a", id="elsewhere"),
    pytest.param(b"", "billing.internal", "/a", "/a", id="path"),
    pytest.param(b"/p", "localhost:1", "/a", "/p/a", id="prefix-path"),
    pytest.param(b"/p", "localhost:1", "{origin}/a", "http://localhost:1/p/a", id="prefix-upstream"),
    pytest.param(b"/p", "localhost:1", "a/b", "a/b", id="prefix-relative"),
    pytest.param(b"/p", "localhost:1", "//other/a", "//other/a", id="prefix-network-path"),
]


@pytest.mark.parametrize(("prefix", "host", "location", "mapped"), LOCATIONS)
async def test_redirects_are_mapped_to_the_way_in(
    wire: Wire, prefix: bytes, host: str, location: str, mapped: str
) -> None:
    """A redirect to the upstream leads back through the sidecar; none is followed."""
    await wire.start("path_prefix: /p")
    app = await wire.app()
    await app.send(b"GET %b/x HTTP/1.1\r\nHost: %b\r\n\r\n" % (prefix, host.encode()))
    upstream = await wire.upstream.accept()
    assert (await upstream.read_head()).startswith(b"GET /x ")
    location = location.replace("{origin}", f"http://127.0.0.1:{wire.upstream.port}")
    await upstream.send(
        f"HTTP/1.1 302 Found\r\nLocation: {location}\r\nSet-Cookie: a=1; Path=/z; Secure\r\nContent-Length: 0\r\n\r\n".encode()
    )
    answer = await app.answer()
    assert answer.headers["location"] == mapped
    assert answer.headers["set-cookie"] == f"a=1; Path={prefix.decode()}/z; Secure"


FORGED = b'Proxy-Status: idtoken-sidecar; error=destination_not_found; details="no_route"\r\n'
"""What the sidecar's own answers have, from an upstream."""


@BOTH_WAYS
async def test_no_upstream_speaks_in_the_sidecars_name(wire: Wire, bytewise: bool) -> None:
    """Not in an answer, not in an interim one, not in a trailer; what others say of themselves passes."""
    await wire.start()
    app = await wire.app()
    await app.send(GET.replace(b"\r\n\r\n", b"\r\nTE: trailers\r\n\r\n"))
    upstream = await wire.upstream.accept()
    await upstream.read_head()
    await upstream.send(
        b"HTTP/1.1 103 Early Hints\r\n" + FORGED + b"Link: </a.css>\r\n\r\n"
        b"HTTP/1.1 404 Not Found\r\nContent-Type: application/problem+json\r\n"
        + FORGED
        + b'proxy-status: cdn; details="x, idtoken-sidecar", lb, IDTOKEN-Sidecar, '
        + b'"idtoken-sidecar";error=x\r\nProxy-Status: "my lb"; error=dns_error\r\n'
        b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n" + FORGED + b"X-Sum: 1\r\n\r\n",
        bytewise=bytewise,
    )
    assert await app.read_head() == b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n"
    answer = await app.answer()
    statuses = [value for name, value in answer.fields if name.lower() == "proxy-status"]
    assert statuses == ["lb", '"my lb"; error=dns_error']
    assert answer.headers["trailers"] == "X-Sum: 1\r\n"


async def test_no_upstream_speaks_in_the_sidecars_name_in_an_upgrade(wire: Wire) -> None:
    """A 101 is an answer too."""
    await wire.start()
    app = await wire.app()
    await app.send(GET.replace(b"\r\n\r\n", b"\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"))
    upstream = await wire.upstream.accept()
    await upstream.read_head()
    await upstream.send(
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        + FORGED
        + b"\r\n"
    )
    assert b"proxy-status" not in (await app.read_head()).lower()
