"""sidecar.proxy.admission.allowed: what a route lets through, and that nobody walks around it"""

from __future__ import annotations

import ntpath
import posixpath
import re
import unicodedata
from collections.abc import Callable
from urllib.parse import unquote, unquote_to_bytes

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sidecar.config.allow import METHODS, Allow
from sidecar.errors import Reason, SidecarError
from sidecar.proxy.admission.allowed import Allowed
from tests.support.sampling import examples

BILLING = Allowed(
    "billing", Allow(methods=("GET", "HEAD"), paths=("/v1/invoices", "/v1/public/*", "/caf%C3%A9"))
)
PUBLIC = Allowed("billing", Allow(paths=("/public/*",)))


def judge(allowed: Allowed, method: str, target: str, *names: str) -> tuple[Reason, str] | None:
    try:
        allowed.check(method.encode(), target.encode(), [(name.encode(), b"x") for name in names])
    except SidecarError as error:
        return error.reason, error.detail
    return None


def test_a_prefix_ends_with_its_slash() -> None:
    """`/public/*` is neither `/public` nor what only begins like it."""
    public = Allowed("billing", Allow(paths=("/public/*",)))
    paths = ("/public/", "/public/a", "/public", "/publicity", "/public.a")
    assert [judge(public, "GET", path) is None for path in paths] == [True, True, False, False, False]


@pytest.mark.parametrize(
    ("method", "target"),
    [
        pytest.param("GET", "/v1/invoices", id="exact"),
        pytest.param("HEAD", "/v1/invoices?month=5&x=/../%2f", id="any-query"),
        pytest.param("GET", "/v1/%69nvoices", id="unreserved-escaped"),
        pytest.param("GET", "/v1/public/", id="the-prefix-itself"),
        pytest.param("GET", "/v1/public/a/b", id="below"),
        pytest.param("GET", "/caf%c3%a9", id="escapes-in-small-letters"),
    ],
)
def test_what_is_let_through(method: str, target: str) -> None:
    """Compared in the normal form, without the query."""
    assert judge(BILLING, method, target) is None


@pytest.mark.parametrize(
    ("method", "target", "reason", "says"),
    [
        pytest.param("POST", "/v1/invoices", Reason.NOT_ALLOWED, "`allow.methods`", id="method"),
        pytest.param(
            "POST", "/v1/public/../x", Reason.NOT_ALLOWED, "`allow.methods`", id="method-before-path"
        ),
        pytest.param("GET", "/v1/invoices/", Reason.NOT_ALLOWED, "`allow.paths`", id="slash-at-the-end"),
        pytest.param(
            "GET", "/v1/invoices/5", Reason.NOT_ALLOWED, "`/v1/invoices/5`", id="below-an-exact-one"
        ),
        pytest.param("GET", "/v1/invoicesx", Reason.NOT_ALLOWED, "`allow.paths`", id="longer"),
        pytest.param("GET", "/v1/Invoices", Reason.NOT_ALLOWED, "`allow.paths`", id="capitals-count"),
        pytest.param("GET", "/v1/public", Reason.NOT_ALLOWED, "`allow.paths`", id="prefix-without-its-slash"),
        pytest.param("GET", "/v1/publicx/", Reason.NOT_ALLOWED, "`allow.paths`", id="longer-segment"),
        pytest.param("GET", "/v1/invoices;x", Reason.NOT_ALLOWED, "`allow.paths`", id="parameters"),
        pytest.param("GET", "*", Reason.NOT_ALLOWED, "`allow.paths`", id="no-path"),
        pytest.param(
            "GET", "/v1/public/../invoices", Reason.PATH_AMBIGUOUS, "segment of dots", id="ambiguous"
        ),
        pytest.param(
            "GET", "/v1/public/%2e%2e/x?a", Reason.PATH_AMBIGUOUS, "`billing`", id="ambiguous-names-the-route"
        ),
    ],
)
def test_what_is_not(method: str, target: str, reason: Reason, says: str) -> None:
    """With the route, what it was and the key."""
    found = judge(BILLING, method, target)
    assert found is not None
    assert found[0] is reason
    assert says in found[1]
    assert "`billing`" in found[1]


@pytest.mark.parametrize(
    "name",
    [
        *("X-HTTP-Method-Override", "x-http-method", "X-Method-Override", "X-Original-URL", "x-rewrite-url"),
        *("X_HTTP_Method_Override", "x-original_url"),
    ],
)
def test_no_header_may_say_that_it_is_another_request(name: str) -> None:
    """Google's APIs and many frameworks would believe it."""
    found = judge(BILLING, "GET", "/v1/invoices", "Accept", name)
    assert found is not None
    assert found[0] is Reason.NOT_ALLOWED
    assert f"`{name}`" in found[1]
    assert judge(BILLING, "GET", "/v1/invoices", "Accept", "X-Request-Id") is None


def test_one_of_the_two_is_enough() -> None:
    """What is left out allows all; `/*` is every path that is not ambiguous."""
    methods = Allowed("a", Allow(methods=("OPTIONS",)))
    assert judge(methods, "OPTIONS", "*") is None
    assert judge(methods, "OPTIONS", "/a/../b") is None
    assert all(judge(PUBLIC, method, "/public/x") is None for method in METHODS)
    everything = Allowed("a", Allow(paths=("/*",)))
    assert judge(everything, "GET", "/") is None
    assert judge(everything, "GET", "//x") is not None


# how others read a path


def resolved(path: str) -> str:
    """Dot segments taken out, slashes merged."""
    return posixpath.normpath("/" + path.lstrip("/"))


def whatwg(path: str) -> str:
    """The URL standard: backslashes are slashes, `%2e` is a dot in dot segments only; empty segments stay."""
    out: list[str] = []
    for segment in re.split(r"[/\\]", path)[1:]:
        plain = re.sub("%2e", ".", segment, flags=re.IGNORECASE)
        if plain == "..":
            del out[-1:]
        elif plain != ".":
            out.append(segment)
    return "/" + "/".join(out)


def servlet(path: str) -> str:
    """Parameters dropped from each segment, then decoded."""
    return resolved(unquote("/".join(segment.partition(";")[0] for segment in path.split("/"))))


def decoding_servlet(path: str) -> str:
    """The other way round."""
    return resolved("/".join(segment.partition(";")[0] for segment in unquote(path).split("/")))


def windows(path: str) -> str:
    """Backslashes, and dots and spaces at the end of a name."""
    plain = unquote(path).split("\0")[0].replace("\\", "/")
    names = [name if name in ("", ".", "..") else name.rstrip(". ") or ".." for name in plain.split("/")]
    return ntpath.normpath("/".join(names)).replace("\\", "/")


def iis(path: str) -> str:
    """`%uXXXX`, too."""
    return resolved(re.sub("%u([0-9a-fA-F]{4})", lambda m: chr(int(m[1], 16)), unquote(path)))


def lenient_utf8(path: str) -> str:
    """Overlong forms are decoded."""
    octets = re.sub(
        rb"[\xc0\xc1]([\x80-\xbf])",
        lambda m: bytes((((m[0][0] & 1) << 6) | (m[0][1] & 0x3F),)),
        unquote_to_bytes(path),
    )
    return resolved(octets.decode("latin-1"))


def without_what_cannot_be_seen(path: str) -> str:
    """Format characters, marks and the like are dropped, as by a filter for text."""
    return resolved(
        "".join(it for it in unquote(path) if unicodedata.category(it) not in ("Cf", "Cc", "Mn", "Me"))
    )


def trimming(path: str) -> str:
    """Every segment loses the white space around it."""
    return resolved("/".join(segment.strip() for segment in unquote(path).split("/")))


def best_fit(path: str) -> str:
    """As a code page of Windows folds it."""
    folded = str.maketrans("\u2044\u2215\u2216\xa5\u20a9\u2024\xb7\uff0f\uff3c\uff0e", "//\\\\\\../\\.")
    return windows(unquote(path).translate(folded))


def idna_dots(path: str) -> str:
    """With the full stops of UTS 46."""
    return resolved(re.sub("[\u3002\uff0e\uff61]", ".", unquote(path)))


READERS: dict[str, Callable[[str], str]] = {
    "as it is": lambda path: path,
    "resolved": resolved,
    "decoded": lambda path: resolved(unquote(path)),
    "decoded twice": lambda path: resolved(unquote(unquote(path))),
    "decoded three times": lambda path: resolved(unquote(unquote(unquote(path)))),
    "decoded as latin-1": lambda path: resolved(unquote(path, "latin-1")),
    "cut at NUL": lambda path: resolved(unquote(path).split("\0")[0]),
    "folded": lambda path: resolved(unicodedata.normalize("NFKC", unquote(path))),
    "folded after parameters": lambda path: decoding_servlet(unicodedata.normalize("NFKC", unquote(path))),
    "whatwg": whatwg,
    "servlet": servlet,
    "decoding servlet": decoding_servlet,
    "windows": windows,
    "iis": iis,
    "iis twice": lambda path: iis(unquote(path)),
    "lenient UTF-8": lenient_utf8,
    "without what cannot be seen": without_what_cannot_be_seen,
    "the same, decoded twice": lambda path: resolved(unquote(without_what_cannot_be_seen(path))),
    "trimming": trimming,
    "best fit": best_fit,
    "IDNA dots": idna_dots,
}
PIECES = st.sampled_from(
    [
        *("/", "/", "..", ".", "public", "admin", "a", ";", "x=1", "\\", "%2e", "%2E", "%2f", "%5c", "%5C"),
        *("%252e", "%252f", "%25", "2e", "2f", "%32", "%65", "%3b", "%00", "%0a", "%20", "%c0%ae", "%c0%af"),
        *(
            "%EF%BC%8E",
            "%EF%BC%8F",
            "%E2%80%A5",
            "%CD%BE",
            *("%E2%88%95", "%E2%81%84", "%E2%88%96", "%C2%A5", "%C2%B7", "%E3%80%82"),
            *("%C2%AD", "%E2%80%8B", "%EF%BB%BF", "%CC%B8", "%C2%A0", "%E3%80%80", "%D8%9B"),
            "%u002e",
            "%25u002f",
            "%",
            "%70",
            "+",
            "~",
            "%7e",
            ":",
        ),
    ]
)


@settings(max_examples=examples(1000))
@given(pieces=st.lists(PIECES, max_size=10))
@example(pieces=["..", "/", "admin"])
@example(pieces=["%2e%2e%2fadmin"])
@example(pieces=["..;", "/", "admin"])
@example(pieces=["%252e%252e", "/", "admin"])
@example(pieces=["...", "/", "admin"])
def test_no_reader_ends_outside_of_what_is_allowed(pieces: list[str]) -> None:
    """Whatever passes `/public/*` is below `/public/` to everybody who may read it."""
    path = "/public/" + "".join(pieces)
    if judge(PUBLIC, "GET", path) is None:
        for name, read in READERS.items():
            assert (read(path) + "/").startswith("/public/"), name


@given(pieces=st.lists(PIECES, max_size=10))
def test_nothing_from_elsewhere_gets_in(pieces: list[str]) -> None:
    """What passes begins with the allowed path for every reader that decodes it once."""
    path = "/" + "".join(pieces)
    if judge(PUBLIC, "GET", path) is None:
        assert (resolved(unquote(path)) + "/").startswith("/public/")


@pytest.mark.parametrize("reader", [name for name in READERS if name != "as it is"])
def test_each_reader_would_be_led_astray(reader: str) -> None:
    """Without the refusals, that is: a reader that can't fail would show nothing."""
    attacks = [
        *("/public/../admin", "/public/%2e%2e/admin", "/public/%252e%252e/admin", "/public/..;x/admin"),
        *("/public/%25252e%25252e/admin", "/public/%EF%BC%8E%EF%BC%8E/admin", "/public/%c0%ae%c0%ae/admin"),
        *(
            "/public/..%00/admin",
            "/public/.../admin",
            "/public/%u002e%u002e/admin",
            "/public/%25u002e./admin",
        ),
        *("/public/.%C2%AD./admin", "/public/%25%E2%80%8B2e./admin", "/public/..%C2%A0/admin"),
        *("/public/..%E2%88%95admin", "/public/%E3%80%82%E3%80%82/admin"),
    ]
    assert any(not (READERS[reader](attack) + "/").startswith("/public/") for attack in attacks)
    assert all(judge(PUBLIC, "GET", attack) is not None for attack in attacks)
