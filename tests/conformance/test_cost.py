"""What one head may cost: no shape of it takes the event loop much longer than a plain one of as many bytes.

Both are played without sockets, one after the other in one run: what is compared is the sidecar's own work.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from time import thread_time

import pytest

from tests.conformance.memory import ROUTE, Memory, make
from tests.conformance.play import ANSWER

SIZE = 62_000
"""Bytes of header lines: with the rest of a head just under `limits.head`."""
LINES = 180
"""Of 200, `limits.headers`."""
TIMES = 5.0
"""As much as any shape may cost, against a plain one. None is above three on a quiet machine; what was not bounded took
from eight (`Connection`, `Upgrade`) and fourteen (a cookie's paths) to eighty times."""
RUNS = 7

PREFIX = "\n".join([ROUTE.rstrip().rstrip("}") + ", path_prefix: /billing}", ""])


def whole(name: str, part: str, ends: str = "") -> list[str]:
    """One line of SIZE bytes."""
    return [f"{name}: {part * ((SIZE - len(name) - len(ends)) // len(part))}{ends}"]


def many(name: str, part: str, value: str = "") -> list[str]:
    """LINES lines of the same name, SIZE bytes together."""
    size = SIZE // LINES - len(name) - len(value)
    return [f"{name}: {value}{part * (size // len(part))}" for _ in range(LINES)]


def names(name: str) -> list[str]:
    """A list of names that are all different."""
    found = ",".join(f"x{number}" for number in range(SIZE // 5))
    return [f"{name}: {found[:SIZE]}"]


PLAIN = [f"X-Pad-{number}: {'a' * (SIZE // LINES - 12)}" for number in range(LINES)]

SHAPES = [
    pytest.param(names("Connection"), id="connection-of-names"),
    pytest.param(whole("Connection", "a,"), id="connection-of-one-name"),
    pytest.param(whole("Connection", ","), id="connection-of-commas"),
    pytest.param(many("Connection", "ab,"), id="connection-lines"),
    pytest.param(whole("Connection", "-"), id="connection-of-dashes"),
    pytest.param(whole("Proxy-Status", "a,", "a"), id="proxy-status"),
    pytest.param(whole("Proxy-Status", "idtoken-sidecar,", "a"), id="proxy-status-in-our-name"),
    pytest.param(whole("Proxy-Status", "a;b,", "idtoken-sidecar"), id="proxy-status-once-in-our-name"),
    pytest.param(whole("Proxy-Status", "\\", '";idtoken-sidecar'), id="proxy-status-of-escapes"),
    pytest.param(whole("Proxy-Status", "%69", ";idtoken-sidecar"), id="proxy-status-of-percents"),
    pytest.param(many("Proxy-Status", "a;b,", "idtoken-sidecar,"), id="proxy-status-lines"),
    pytest.param(many("Via", "1.1 a,"), id="via"),
    pytest.param(many("Upgrade", "a,"), id="upgrade"),
    pytest.param(many("Trailer", "a,"), id="trailer"),
    pytest.param(many("TE", "a,"), id="te"),
    pytest.param(many("Keep-Alive", "a,"), id="keep-alive"),
    pytest.param(many("WWW-Authenticate", "a,"), id="www-authenticate"),
    pytest.param(whole("Location", "/"), id="location"),
    pytest.param(many("Location", "/"), id="location-lines"),
    pytest.param(many("Set-Cookie", "a"), id="set-cookie"),
    pytest.param(whole("Set-Cookie", ";path=/"), id="set-cookie-paths"),
    pytest.param(whole("Set-Cookie", ";"), id="set-cookie-semicolons"),
    pytest.param(whole("Set-Cookie", "; path "), id="set-cookie-almost-paths"),
    pytest.param(whole("Set-Cookie", ";" + " " * 600), id="set-cookie-blanks"),
    pytest.param(many("Set-Cookie", ";path=/"), id="set-cookie-paths-in-lines"),
    pytest.param(
        [f"Set-Cookie: a{';path=/' * 4}{'a' * 300}"] * LINES, id="set-cookie-as-many-paths-as-are-mapped"
    ),
    pytest.param([f"Set-Cookie: a{';path=/' * 32}"] * LINES, id="set-cookie-more-paths-than-are-mapped"),
    pytest.param([f"Set-Cookie: a{';' * 32}"] * LINES, id="set-cookie-as-many-attributes-as-are-read"),
    pytest.param(
        whole("Proxy-Status", "a" * 900 + ",", "idtoken-sidecar"), id="proxy-status-as-many-as-are-read"
    ),
    pytest.param(whole("Connection", "a" * 980 + ","), id="connection-of-as-many-as-are-read"),
    pytest.param(many("X_Y", "a"), id="underscores"),
    pytest.param([f"{'X_' * 160}{number}: a" for number in range(LINES)], id="underscores-in-long-names"),
    pytest.param([f"{'x-' * 160}{number}: a" for number in range(LINES)], id="long-names"),
    pytest.param(many("Sec-Fetch-Site", "a,"), id="sec-fetch-site"),
    pytest.param(many("Origin", "a,"), id="origin"),
]


def cost(play: Callable[[], object]) -> float:
    """Seconds of CPU, the least of several runs."""
    taken = []
    for _ in range(RUNS):
        began = thread_time()
        play()
        taken.append(thread_time() - began)
    return min(taken)


def request(*lines: str) -> bytes:
    return "\r\n".join(["GET /billing/x HTTP/1.1", "Host: localhost", *lines, "", ""]).encode()


def whole_answer(lines: list[str]) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n%b\r\nok" % joined(lines)


def interim_answer(lines: list[str]) -> bytes:
    return b"HTTP/1.1 103 X\r\n%b\r\n%b" % (joined(lines), ANSWER)


def trailers(lines: list[str]) -> bytes:
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n%b\r\n" % joined(lines)


def joined(lines: list[str]) -> bytes:
    return "".join(f"{line}\r\n" for line in lines).encode()


def answered(memory: Memory, data: bytes) -> list[int]:
    """A request that is answered so; the statuses that the app gets."""
    memory.upstream.answer = data
    return memory.play(request()).statuses


@pytest.mark.parametrize("made", [whole_answer, interim_answer, trailers])
@pytest.mark.parametrize("lines", SHAPES)
async def test_an_answers_lines(lines: list[str], made: Callable[[list[str]], bytes]) -> None:
    """Of an upstream, to an app that came by a prefix: paths are mapped too."""
    memory = await make(PREFIX)
    assert answered(memory, made(PLAIN)) == [200]
    plain = cost(partial(answered, memory, made(PLAIN)))
    assert cost(partial(answered, memory, made(lines))) < TIMES * plain


@pytest.mark.parametrize(
    "lines",
    [
        *SHAPES,
        pytest.param(["Connection: upgrade", *whole("Upgrade", "a,", "a")], id="upgrade-asked-for"),
        pytest.param(["Connection: upgrade", *whole("Upgrade", "h2c,", "a")], id="h2c"),
        pytest.param([*whole("Connection", "a,", "upgrade"), "Upgrade: h2c"], id="h2c-and-names"),
    ],
)
async def test_a_requests_lines(lines: list[str]) -> None:
    """Of an app, or of a caller that puts headers into its requests."""
    memory = await make(PREFIX)
    plain = cost(lambda: memory.play(request(*PLAIN)))
    assert cost(lambda: memory.play(request(*lines))) < TIMES * plain
