"""sidecar.grammar.contents: what can be no path and no URL, and how a place is quoted"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.grammar.contents import HIDDEN, heard, kind_of, masked, place, quoted
from tests.support.secret_shapes import SHAPES, shown_of

MARKS = st.text("abcdefghijkmnpqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ23456789", min_size=24, max_size=60)


@pytest.mark.parametrize("shape", SHAPES)
@given(mark=MARKS)
def test_secrets_are_known_by_their_form(shape: str, mark: str) -> None:
    """Whatever its letters; and nothing of one is quoted."""
    secret = SHAPES[shape](mark)
    assert kind_of(secret) is not None
    assert shown_of(secret, f"{place(secret)} {quoted(secret)}") is None


@pytest.mark.parametrize(
    "text",
    [
        "/var/run/secrets/tokens/gcp-ksa/token",
        "key.json",
        "../keys/billing-1234567890ab.json",
        r"C:\keys\key.json",
        "/data/" + "a" * 250 + "/" + "b" * 250,
        "exports2exports2exports2/Ww00",
        "/home/me/.config/gcloud/application_default_credentials.json",
        "https://billing-abc123-uc.a.run.app",
        "https://{host}",
        "{host}",
        "[::1]:8787",
        "[fe80::1%eth0]:80",
        "::1",
        "eyewitness.example.com",
        "ewokplanet.example.com.example",
        "unix:/run/idtoken-sidecar/proxy.sock",
        "1234567890-abcdefghijklmnopqrstuvwxyz012345.apps.googleusercontent.com",
        "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p/providers/q",
        "billing@project.iam.gserviceaccount.com",
        "5f2b6c1d9e8a7b6c5d4e3f2a1b0c9d8e7f6a5b4c3d2e1f0a9b8c7d6e5f4a3b2c",
        "",
    ],
)
def test_places_are_places(text: str) -> None:
    """And they are quoted as they are, if they are short."""
    assert kind_of(text) is None
    if len(text) <= 200:
        assert (place(text), quoted(text)) == (text, f"`{text}`")


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        pytest.param(
            "https://me:s3cret@h.example/x?key=s3cret", f"https://{HIDDEN}@h.example/x?{HIDDEN}", id="url"
        ),
        pytest.param(
            "https://h.example/?key=a s3cret", f"https://h.example/?{HIDDEN}", id="query-with-a-space"
        ),
        pytest.param("/run/ya29.c0ffee-c0ffee-c0ffee/x", f"/run/{HIDDEN}/x", id="token-in-a-path"),
        pytest.param("/run/\x1b[2Jx", "/run/\ufffd[2Jx", id="escape"),
        pytest.param({"a": "secret"}, "a mapping", id="mapping"),
        pytest.param(["secret"], "a list", id="list"),
        pytest.param(7, "7", id="number"),
    ],
)
def test_what_is_quoted_is_masked(value: object, shown: str) -> None:
    """Passwords, queries, tokens, control characters, and whatever is no single word."""
    assert place(value) == shown


@given(st.text(max_size=5000))
def test_what_is_quoted_is_bounded_and_on_one_line(text: str) -> None:
    """Whatever it is; nothing else comes out."""
    found = place(text)
    assert len(found) <= 200
    assert found.isprintable()


def test_both_ends_of_a_long_path_are_shown() -> None:
    """They say more than its middle."""
    found = place("/begin/" + "x" * 240 + "/" + "y" * 240 + "/end.json")
    assert found.startswith("/begin/xxx")
    assert found.endswith("yyy/end.json")


def test_a_message_is_masked_in_linear_time() -> None:
    """It may have a whole document in it."""
    assert masked("://" * 100_000).count(HIDDEN) == 0
    assert kind_of("[" * 100_000) == "JSON"
    assert kind_of("A" * 1_000_000) is not None


@pytest.mark.parametrize("shape", sorted(set(SHAPES) - {"lines", "too-long"}))
def test_a_secret_in_the_place_of_a_host_is_known_too(shape: str) -> None:
    """Behind a scheme that someone wrote before `${…}`."""
    secret = SHAPES[shape]("k7Qw9ZtR2mXc4VbN8sLp3YhD6fGj")
    assert kind_of(f"https://{secret}") is not None


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        pytest.param("Caller not authorized.", "Caller not authorized.", id="words"),
        pytest.param(
            "AADSTS70043: no /var/run/x.json", "AADSTS70043: no /var/run/x.json", id="code-and-path"
        ),
        pytest.param("password is hunter2 there", "password is ******** there", id="password"),
        pytest.param("Authorization: Bearer abc", "Authorization: Bearer ********", id="header"),
        pytest.param("client_secret=a&b=c", "client_secret=********&b=c", id="form"),
        pytest.param("got 0a1b2c3d4e5f6a7b8c9d", "got ********", id="hexadecimal"),
        pytest.param(f"got {'a' * 50}", "got ********", id="long"),
        pytest.param("the known one: sesame", "the known one: ********", id="known"),
        pytest.param("x" * 9 + " " + "y " * 5000, None, id="bounded"),
    ],
)
def test_what_another_program_says_is_shown_without_secrets(text: str, shown: str | None) -> None:
    """Words stay; what is known as a secret, named as one or like one does not."""
    heard_of = heard(text, ["sesame", "on", "/var/run/x.json"])
    assert heard_of == shown if shown is not None else len(heard_of) <= 2000
