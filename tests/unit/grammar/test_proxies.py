"""sidecar.grammar.proxies: URLs of proxies, and what goes past them"""

from __future__ import annotations

import base64
import string
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.grammar.proxies import ProxyUrl, is_excepted, parse_exception, parse_proxy

SECRET = "s3cretWord"


@pytest.mark.parametrize(
    ("text", "proxy"),
    [
        ("http://proxy:3128", ProxyUrl(False, "proxy", 3128, "")),
        ("HTTP://Proxy.Example.:3128/", ProxyUrl(False, "proxy.example", 3128, "")),
        (" http://proxy:3128\n", ProxyUrl(False, "proxy", 3128, "")),
        ("proxy:3128", ProxyUrl(False, "proxy", 3128, "")),
        ("http://proxy", ProxyUrl(False, "proxy", 80, "")),
        ("https://proxy", ProxyUrl(True, "proxy", 443, "")),
        ("http://[fd00::1]:3128", ProxyUrl(False, "fd00::1", 3128, "")),
        ("http://me:pa%23ss@proxy:3128", ProxyUrl(False, "proxy", 3128, "me:pa%23ss")),
        ("me:pass@proxy:3128", ProxyUrl(False, "proxy", 3128, "me:pass")),
        ("http://me@proxy:3128", ProxyUrl(False, "proxy", 3128, "me")),
    ],
)
def test_what_is_read(text: str, proxy: ProxyUrl) -> None:
    """One reading for each, with the port that the scheme has."""
    assert parse_proxy(text) == proxy


@pytest.mark.parametrize(
    ("text", "says"),
    [
        pytest.param("socks5://me:{secret}@proxy:1080", "SOCKS is not supported", id="socks5"),
        pytest.param("socks5h://proxy:1080", "SOCKS is not supported", id="socks5h"),
        pytest.param("ftp://me:{secret}@proxy", "not with another scheme", id="ftp"),
        pytest.param("http://", "not a proxy's URL", id="nothing"),
        pytest.param("http://:3128", "not a proxy's URL", id="no-host"),
        pytest.param("http://proxy:0", "not a proxy's URL", id="port-0"),
        pytest.param("http://proxy:port", "not a proxy's URL", id="no-port"),
        pytest.param("http://me:{secret}", "not a proxy's URL", id="no-host-behind-a-password"),
        pytest.param("http://proxy:3128/path", "not a proxy's URL", id="path"),
        pytest.param("http://@proxy:3128", "not a proxy's URL", id="empty-user"),
        pytest.param("http://:{secret}@proxy:3128", "not a proxy's URL", id="password-without-user"),
        pytest.param("http:/proxy:3128", "not a proxy's URL", id="one-slash"),
        pytest.param("http://a b:3128", "not a proxy's URL", id="blank-in-the-host"),
        pytest.param("http://me:{secret} x@proxy:3128", "a blank", id="blank-in-the-password"),
        *(
            pytest.param(
                f"http://me:{{secret}}{character}x@proxy:3128", "has a character that ends one", id=name
            )
            for character, name in (("#", "hash"), ("/", "slash"), ("?", "question"), ("@", "at"))
        ),
        pytest.param('{{"type": "{secret}"}}', "not a proxy's URL", id="json"),
    ],
)
def test_what_is_none_says_why_and_not_the_password(text: str, says: str) -> None:
    """Neither whole nor in part."""
    with pytest.raises(ValueError, match=r"\w") as caught:
        parse_proxy(text.format(secret=SECRET))
    assert says in str(caught.value)
    assert SECRET[:4] not in str(caught.value)


@given(st.text(string.printable, min_size=1), st.text(min_size=1).filter(lambda text: "\0" not in text))
def test_credentials_come_through_their_escapes(user: str, password: str) -> None:
    """Whatever is in them; and no text form shows them."""
    user = user.replace(":", "")
    if not user.strip():
        return
    try:
        escaped = f"{quote(user, safe='')}:{quote(password, safe='')}"
    except UnicodeEncodeError:  # half a surrogate pair, which nobody can type
        return
    found = parse_proxy(f"http://{escaped}@proxy:3128")
    assert found.authorization == b"Basic " + base64.b64encode(f"{user}:{password}".encode())
    for text in (str(found), repr(found), f"{found}"):
        assert text.removeprefix("<ProxyUrl ").removesuffix(">") == "http://********@proxy:3128"


def test_without_credentials_there_is_no_header() -> None:
    """And nothing is hidden."""
    found = parse_proxy("http://proxy:3128")
    assert found.authorization is None
    assert str(found) == "http://proxy:3128"


@pytest.mark.parametrize(
    ("entry", "host", "port", "covered"),
    [
        ("internal.example", "internal.example", 443, True),
        ("internal.example", "a.internal.example", 443, True),
        ("internal.example", "xinternal.example", 443, False),
        (".internal.example", "a.internal.example", 443, True),
        (".internal.example", "internal.example", 443, True),
        ("*.internal.example", "a.internal.example", 443, True),
        ("Internal.Example.", "internal.example", 443, True),
        ("internal.example:8443", "internal.example", 8443, True),
        ("internal.example:8443", "internal.example", 443, False),
        ("10.0.0.0/8", "10.1.2.3", 443, True),
        ("10.0.0.1/8", "10.1.2.3", 443, True),
        ("10.0.0.0/8", "11.1.2.3", 443, False),
        ("10.0.0.0/8", "ten.example", 443, False),
        ("10.1.2.3", "10.1.2.3", 443, True),
        ("10.1.2.3:80", "10.1.2.3", 443, False),
        ("2.3", "10.1.2.3", 443, False),
        ("fd00::/8", "fd00::1", 443, True),
        ("fd00::1", "fd00::1", 443, True),
        ("[fd00::1]:443", "fd00::1", 443, True),
        ("*", "anything.example", 443, True),
        ("", "anything.example", 443, False),
        ("no host", "anything.example", 443, False),
    ],
)
def test_exceptions(entry: str, host: str, port: int, covered: bool) -> None:
    """A name covers all below it; addresses are compared with addresses only; a normal form means the same."""
    assert is_excepted([entry], host, port) is covered
    if covered:
        assert is_excepted([parse_exception(entry)], host, port)


@pytest.mark.parametrize("entry", ["", "a b", "10.0.0.0/99", "http://x", "me:secret@x"])
def test_what_is_no_exception(entry: str) -> None:
    """It is an error in a configuration, where a list of the environment's goes on without it."""
    with pytest.raises(ValueError, match="not a host, address or network"):
        parse_exception(entry)
