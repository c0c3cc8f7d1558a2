"""sidecar.proxy.admission.admission: which header gets the token"""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from sidecar.config.load import load
from sidecar.errors import Reason, SidecarError
from sidecar.proxy.admission.admission import Admission, HeaderPlan
from sidecar.proxy.fields import headers
from sidecar.routing.routes import RouteTable

A, S, P, X = b"Authorization", b"X-Serverless-Authorization", b"Proxy-Authorization", b"X-Own"
REFUSED = "refused"

USUAL = {
    "auto": (A,),
    "both": (A, S),
    "authorization": (A,),
    "x-serverless-authorization": (S,),
    "proxy-authorization": (P,),
    "X-Own": (X,),
}

OPTIONS = {
    "cloud_run": "upstream: 'https://svc-abc-uc.a.run.app'",
    "cloud_functions": "upstream: 'https://r-p.cloudfunctions.net', audience: 'https://r-p.cloudfunctions.net/f'",
    "iap": "upstream: 'https://reports.example', target: iap, audience: 1-a.apps.googleusercontent.com",
    "other": "upstream: 'https://api.example'",
}
BESIDE = {"cloud_run": S, "cloud_functions": S, "iap": P}
"""Where a target takes the token beside the app's own Authorization."""


def usual(header: str, target: str) -> tuple[bytes, ...]:
    return (A, BESIDE.get(target, S)) if header == "both" else USUAL[header]


def conflict(header: str, target: str, rule: str) -> Any:
    """What is set where the app sends that header itself."""
    own = usual(header, target)
    beside = (BESIDE[target],) if target in BESIDE and header in ("auto", "both") else None
    refused = REFUSED if own[0] == A else own
    return {
        "auto": beside or refused,
        "replace": own,
        "keep": beside or (),
        "reject": REFUSED,
    }[rule]


CASES = list(itertools.product(USUAL, OPTIONS, ("auto", "replace", "keep", "reject"), (False, True)))


def admit(header: str, target: str, rule: str, fields: list[tuple[bytes, bytes]]) -> HeaderPlan:
    config = load(
        f"routes: [{{name: r, host: r.internal, {OPTIONS[target]}, header: {header}, on_conflict: {rule}}}]",
        environ={},
    ).config
    admission = Admission(RouteTable.compile(config), pseudonym=None)
    found = headers.survey(fields)
    return admission.admit(
        fields,
        found,
        method=b"GET",
        authority=b"r.internal",
        path=b"/",
        absolute=False,
        own=None,
        local_socket=False,
    )[3]


@pytest.mark.parametrize(("header", "target", "rule", "sent"), CASES)
def test_the_table_of_docs_headers_md(header: str, target: str, rule: str, sent: bool) -> None:
    """Every header, kind of target and rule, with and without the app's own copy."""
    name = USUAL[header][0]
    fields = [(name.lower(), b"mine")] if sent else [(b"Accept", b"*/*")]
    expected = conflict(header, target, rule) if sent else usual(header, target)
    if expected == REFUSED:
        with pytest.raises(SidecarError) as caught:
            admit(header, target, rule, fields)
        assert caught.value.reason is Reason.HEADER_CONFLICT
        assert "`on_conflict`" in caught.value.detail
        return
    plan = admit(header, target, rule, fields)
    assert plan.names == expected
    kept = sent and (expected == () or name not in expected)
    for lower in {n.lower() for n in (*expected, S)}:
        assert (lower in plan.dropped) == (not (kept and lower == name.lower()))
    assert (name.lower() in plan.dropped) == (not kept)


@pytest.mark.parametrize("sent", [b"X-Own", b"X_Own", b"x_own"])
def test_the_apps_own_copy_passes_in_no_spelling(sent: bytes) -> None:
    """Nor one of a header whose configured name has `_`: many can't tell that from `-`."""
    plan = admit("X_Own", "other", "auto", [(sent, b"mine")])
    out: list[bytes] = []
    headers.write_fields(out, [(sent, b"mine")], plan.table)
    assert (plan.names, out) == ((b"X_Own",), [])
    assert headers.kept_trailers([(sent, b"mine")], plan.dropped) == []


def test_the_apps_serverless_header_never_passes_beside_another() -> None:
    """It would speak for the caller to Google's front ends."""
    plan = admit("auto", "cloud_run", "auto", [(b"x-serverless-authorization", b"mine")])
    assert (plan.names, b"x-serverless-authorization" in plan.dropped) == ((A,), True)


@pytest.mark.parametrize(
    ("path", "absolute", "sent"),
    [
        pytest.param(b"/api/x?y", False, (b"/x?y", b"/api"), id="below"),
        pytest.param(b"/api", False, (b"/", b"/api"), id="the-prefix-itself"),
        pytest.param(b"/api?y", False, (b"/?y", b"/api"), id="a-query-on-it"),
        pytest.param(b"/api/x", True, None, id="a-client-of-an-http-proxy-names-its-host"),
    ],
)
def test_a_routes_prefix_is_taken_off(path: bytes, absolute: bool, sent: tuple[bytes, bytes] | None) -> None:
    """What is left begins with a slash."""
    config = load(
        "routes: [{name: r, path_prefix: /api, upstream: 'https://api.example'}]", environ={}
    ).config
    admission = Admission(RouteTable.compile(config), pseudonym=None)

    def way() -> Any:
        return admission.admit(
            [],
            {},
            method=b"GET",
            authority=b"localhost",
            path=path,
            absolute=absolute,
            own=None,
            local_socket=False,
        )

    if sent is None:
        with pytest.raises(SidecarError) as caught:
            way()
        assert caught.value.reason is Reason.NO_ROUTE
    else:
        assert way()[1:3] == sent


@pytest.mark.parametrize(
    "path",
    [
        b"/api/..",
        b"/api/../x",
        b"/api/..?y",
        b"/api/%2e%2e/x",
        b"/api/.%2E%2fx",
        b"/api/./../x",
        b"/api//../x",
        b"/api/x/../../other/x",
    ],
)
def test_no_path_climbs_out_of_a_prefix(path: bytes) -> None:
    """What is left behind it is judged as a path of its own: it is what the target gets."""
    config = load(
        "routes: [{name: r, path_prefix: /api, upstream: 'https://api.example'}]", environ={}
    ).config
    admission = Admission(RouteTable.compile(config), pseudonym=None)
    with pytest.raises(SidecarError) as caught:
        admission.admit(
            [],
            {},
            method=b"GET",
            authority=b"localhost",
            path=path,
            absolute=False,
            own=None,
            local_socket=False,
        )
    assert caught.value.reason is Reason.MALFORMED_REQUEST
    assert caught.value.detail == (
        "The request's path leads out of the route's `path_prefix`, which is `/api` (`..`)."
    )


def test_a_conflict_names_header_route_and_key() -> None:
    """The whole sentence."""
    with pytest.raises(SidecarError) as caught:
        admit("authorization", "other", "reject", [(b"authorization", b"mine")])
    assert caught.value.detail == (
        "The app sent its own `Authorization`, which is where route `r` puts the token. Set the route's `on_conflict` to "
        "`replace` or `keep`, or its `header` to another one."
    )
