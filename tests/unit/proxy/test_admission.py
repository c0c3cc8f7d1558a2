"""sidecar.proxy.admission: which header gets the token"""

from __future__ import annotations

import itertools

import pytest

from sidecar.config.load import load
from sidecar.errors import Reason, SidecarError
from sidecar.proxy import headers
from sidecar.proxy.admission import Admission, Plan
from sidecar.routes import RouteTable

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

CONFLICT = {
    # (header, serverless upstream): on_conflict -> what is set
    ("auto", False): {"auto": REFUSED, "replace": (A,), "keep": (), "reject": REFUSED},
    ("auto", True): {"auto": (S,), "replace": (A,), "keep": (S,), "reject": REFUSED},
    ("both", False): {"auto": REFUSED, "replace": (A, S), "keep": (), "reject": REFUSED},
    ("both", True): {"auto": (S,), "replace": (A, S), "keep": (S,), "reject": REFUSED},
    ("authorization", False): {"auto": REFUSED, "replace": (A,), "keep": (), "reject": REFUSED},
    ("authorization", True): {"auto": REFUSED, "replace": (A,), "keep": (), "reject": REFUSED},
    **{
        (header, serverless): {"auto": USUAL[header], "replace": USUAL[header], "keep": (), "reject": REFUSED}
        for header in ("x-serverless-authorization", "proxy-authorization", "X-Own")
        for serverless in (False, True)
    },
}

CASES = [
    pytest.param(
        header, serverless, rule, sent, id=f"{header}-{'serverless' if serverless else 'other'}-{rule}-{sent}"
    )
    for (header, serverless), rule, sent in itertools.product(
        CONFLICT, ("auto", "replace", "keep", "reject"), (False, True)
    )
]


def admit(header: str, serverless: bool, rule: str, fields: list[tuple[bytes, bytes]]) -> Plan:
    upstream = "https://svc-abc-uc.a.run.app" if serverless else "https://api.example"
    config = load(
        f"routes: [{{name: r, host: r.internal, upstream: '{upstream}', header: {header}, on_conflict: {rule}}}]",
        environ={},
    ).config
    admission = Admission(RouteTable.compile(config), pseudonym=None)
    found = headers.survey(fields)
    return admission.admit(
        fields, found, authority=b"r.internal", path=b"/", absolute=False, own=None, local_socket=False
    )[3]


@pytest.mark.parametrize(("header", "serverless", "rule", "sent"), CASES)
def test_the_table_of_docs_headers_md(header: str, serverless: bool, rule: str, sent: bool) -> None:
    """Every header, kind of upstream and rule, with and without the app's own copy."""
    name = USUAL[header][0]
    fields = [(name.lower(), b"mine")] if sent else [(b"Accept", b"*/*")]
    expected = CONFLICT[header, serverless][rule] if sent else USUAL[header]
    if expected == REFUSED:
        with pytest.raises(SidecarError) as caught:
            admit(header, serverless, rule, fields)
        assert caught.value.reason is Reason.HEADER_CONFLICT
        assert "`on_conflict`" in caught.value.detail
        return
    plan = admit(header, serverless, rule, fields)
    assert plan.names == expected
    kept = sent and (expected == () or name not in expected)
    for lower in {n.lower() for n in (*expected, S)}:
        assert (lower in plan.dropped) == (not (kept and lower == name.lower()))
    assert (name.lower() in plan.dropped) == (not kept)


def test_the_apps_serverless_header_never_passes_beside_another() -> None:
    """It would speak for the caller to Google's front ends."""
    plan = admit("auto", True, "auto", [(b"x-serverless-authorization", b"mine")])
    assert (plan.names, b"x-serverless-authorization" in plan.dropped) == ((A,), True)
