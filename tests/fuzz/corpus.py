"""Where the fuzzers begin: the inputs that are kept, and those that the tables give.

A target's kept inputs are one file of text, `corpus/TARGET.txt`: a line is the inside of a bytes literal. `make fuzz`
unpacks it into files for libFuzzer, and `KEEP=1` packs what is worth keeping again, the smallest inputs that reach
all that was reached. What was a finding once stays, in `corpus/TARGET.found.txt`.
"""

from __future__ import annotations

import ast
import base64
import hashlib
import json
import random
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Final

from tests.conformance.http2.answers import ANSWERS
from tests.conformance.http2.heads import HEADS
from tests.conformance.requests import REQUESTS
from tests.conformance.responses import RESPONSES

TARGETS: Final = ("token", "answer", "request", "config", "http2", "http2_answer")
LONGEST: Final = {
    "token": 2048,
    "answer": 2048,
    "request": 3072,
    "config": 512,
    "http2": 2048,
    "http2_answer": 2048,
}
"""Bytes of an input. The limits of the stage are within reach; a configuration that is longer says nothing new."""

_HERE: Final = Path(__file__).parent
_CASES: Final = _HERE.parent / "cases" / "config"


def kept(target: str) -> list[bytes]:
    """The inputs of `corpus/TARGET.txt`, and those that were findings."""
    paths = (_HERE / "corpus" / f"{target}.txt", _HERE / "corpus" / f"{target}.found.txt")
    lines = [line for path in paths if path.exists() for line in path.read_text("ascii").splitlines()]
    return [ast.literal_eval(f'b"{line}"') for line in lines]


def keep(target: str, inputs: Iterable[bytes]) -> None:
    """Write them to `corpus/TARGET.txt`."""
    lines = sorted({_spelled(data) for data in inputs}, key=lambda line: (len(line), line))
    (_HERE / "corpus" / f"{target}.txt").write_text("".join(f"{line}\n" for line in lines), "ascii")


def _spelled(data: bytes) -> str:
    return "".join(
        {34: '\\"', 92: "\\\\", 13: "\\r", 10: "\\n", 9: "\\t"}.get(byte)
        or (chr(byte) if 32 <= byte < 127 else f"\\x{byte:02x}")
        for byte in data
    )


def unpack(inputs: Iterable[bytes], folder: Path) -> None:
    """Write each to a file of its own, as libFuzzer names them."""
    folder.mkdir(parents=True, exist_ok=True)
    for data in inputs:
        (folder / hashlib.sha1(data, usedforsecurity=False).hexdigest()).write_bytes(data)


def mutated_by(choose: random.Random, data: bytes, others: Sequence[bytes], changes: int) -> bytes:
    """`data` with so many changes: a byte, a piece cut out, doubled, or put in from one of the others."""
    made = bytearray(data)
    for _ in range(changes):
        start = choose.randrange(len(made) + 1)
        end = min(len(made), start + choose.randint(1, 16))
        other = choose.choice(others)
        at = choose.randrange(len(other) + 1)
        match choose.randrange(4):
            case 0:
                made[start : start + 1] = bytes([choose.randrange(256)])
            case 1:
                del made[start:end]
            case 2:
                made[start:start] = made[start:end]
            case 3:
                made[start:start] = other[at : at + choose.randint(1, 64)]
    return bytes(made)


def seeds(target: str) -> list[bytes]:
    """What the tables and examples give for a target."""
    return [data for data in _SEEDS[target]() if len(data) <= LONGEST[target]]


def _requests() -> list[bytes]:
    return [
        *(bytes(4) + case.data for case in REQUESTS),
        *(b"\0\x15\0\x40" + case.data.replace(b"billing.internal", b"both.internal") for case in REQUESTS),
        *(b"\0\1\0\1" + one.data + other.data for one, other in pairwise(REQUESTS) if one.requests),
    ]


def _answers() -> list[bytes]:
    found = []
    for number, case in enumerate(RESPONSES):
        asked = 1 if case.method == b"HEAD" else number % 8
        found.append(
            bytes([asked | (8 if case.end else 0) | (number % 3 == 0) << 4, 0, 20, 0, 40]) + case.data
        )
    challenge = (
        b'HTTP/1.1 401 No\r\nWWW-Authenticate: Bearer error="invalid_token"\r\nContent-Length: 0\r\n\r\n'
    )
    switched = b"HTTP/1.1 101 S\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nbytes"
    return [*found, bytes(5) + challenge, b"\x10" + bytes(4) + challenge, b"\3" + bytes(4) + switched]


def _configs() -> list[bytes]:
    return [
        *(path.read_bytes() for path in sorted(_CASES.glob("*.yaml"))),
        b"routes:\n- {name: a, upstream: 'https://a.example'}\0limits={head: 1KiB}\0b=https://b.example\0NAME=x",
        b"credentials: {c: {type: static, token: '${SECRET}'}}\nroutes: [{name: a, upstream: '${URL}'}]",
    ]


def _tokens() -> list[bytes]:
    def part(claims: object) -> bytes:
        return base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=")

    now = 1_800_000_000
    claims = [
        {"aud": "https://billing.example", "exp": now + 3600, "iat": now},
        {"aud": ["https://billing.example"], "exp": now + 3600.5},
        {"aud": "32555940559.apps.googleusercontent.com", "exp": now + 60},
        {"aud": "https://other.example", "exp": 1e308, "iat": -1},
        {"aud": 5, "exp": "x"},
        {"aud": "https://billing.example/", "exp": now - 60},
        {"aud": "https://billing.example", "exp": True},
    ]
    jwts = [b".".join([part({"alg": "RS256"}), part(one), b"c2lnbmF0dXJl"]) for one in claims]
    bodies = [
        *jwts,
        *(json.dumps({"id_token": jwt.decode()}).encode() for jwt in jwts[:3]),
        *(json.dumps({"token": jwt.decode()}).encode() for jwt in jwts[:3]),
        *(json.dumps({"signedJwt": jwt.decode()}).encode() for jwt in jwts[:3]),
        b'{"access_token": "ya29.abc", "expires_in": 3599, "token_type": "Bearer"}',
        b'{"accessToken": "ya29.abc", "expireTime": "2027-01-15T09:00:00Z"}',
        b'{"error": "invalid_grant", "error_description": "Bad Request", "error_subtype": "invalid_rapt"}',
        b'{"error": {"code": 403, "message": "Permission iam.serviceAccounts.getOpenIdToken denied", "status": '
        b'"PERMISSION_DENIED", "details": [{"reason": "SERVICE_DISABLED", "metadata": {"consumer": "projects/1"}}]}}',
        b"billing@p.iam.gserviceaccount.com",
        b'{"type": "service_account", "token_uri": "https://oauth2.googleapis.com/token"}',
        b"<html>Sign in to Wi-Fi</html>",
    ]
    heads = [
        b"content-type: application/json\nretry-after: 7\n\n",
        b"date: Fri, 15 Jan 2027 08:00:00 GMT\n\n",
        b"",
    ]
    return [
        *(
            bytes([who, status]) + head + body
            for who in range(14)
            for status, head in zip((0, 5, 9), heads, strict=True)
            for body in bodies
        ),
        *(
            bytes([0x80 | who, 0]) + json.dumps(one).encode() + end
            for who in range(14)
            for one in claims
            for end in (b"", b" ")
        ),
    ]


def _frames() -> list[bytes]:
    return [bytes((0, number % 90, 0, number % 70)) + case.data for number, case in enumerate(HEADS)]


def _answer_frames() -> list[bytes]:
    return [
        bytes((number % 4 | (number % 3 == 0) << 3, 0, number % 90, 0, number % 70)) + case.reply(1)
        for number, case in enumerate(ANSWERS)
    ]


_SEEDS: Final = {
    "http2_answer": _answer_frames,
    "http2": _frames,
    "request": _requests,
    "answer": _answers,
    "config": _configs,
    "token": _tokens,
}
