"""sidecar.proxy.admission.admission: a token that is worth nothing, where a route puts its own"""

from __future__ import annotations

import itertools

import pytest

from sidecar.config.load import load
from sidecar.errors import Reason, SidecarError
from sidecar.proxy.admission.admission import Admission, HeaderPlan
from sidecar.proxy.fields import headers
from sidecar.routing.routes import RouteTable
from sidecar.tokens import placeholder
from tests.unit.proxy.admission.test_admission import OPTIONS, USUAL, usual

OF_ID = placeholder.id_token(
    "https://svc-abc-uc.a.run.app", now_at=1_700_000_000, expires_at=1_700_003_600
).encode()
OF_ACCESS = placeholder.access_token("a b").encode()
BEARER = b"Bearer " + OF_ID
RULES = ("auto", "replace", "keep", "reject")


def admit(
    fields: list[tuple[bytes, bytes]],
    header: str = "auto",
    target: str = "cloud_run",
    rule: str = "auto",
    *,
    path: bytes = b"/",
    placeholders: bool = True,
) -> HeaderPlan:
    config = load(
        f"routes: [{{name: r, host: r.internal, {OPTIONS[target]}, header: {header}, on_conflict: {rule}}}]",
        environ={},
    ).config
    return Admission(RouteTable.compile(config), pseudonym=None, placeholders=placeholders).admit(
        fields,
        headers.survey(fields),
        method=b"GET",
        authority=b"r.internal",
        path=path,
        absolute=False,
        own=None,
        local_socket=False,
    )[3]


@pytest.mark.parametrize(("header", "target", "rule"), list(itertools.product(USUAL, OPTIONS, RULES)))
@pytest.mark.parametrize("value", [BEARER, b"Bearer " + OF_ACCESS], ids=["id", "access"])
def test_it_is_no_conflict_with_any_rule(header: str, target: str, rule: str, value: bytes) -> None:
    """The route's own token is set where it always is, and the placeholder does not pass."""
    for name in usual(header, target):
        plan = admit([(name, value)], header, target, rule)
        assert plan.names == usual(header, target)
        assert name.lower() in plan.dropped


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        pytest.param([(b"X-Other", BEARER)], b"/", id="another-header"),
        pytest.param([(b"Cookie", b"a=b; token=" + OF_ID)], b"/", id="in-a-cookie"),
        pytest.param([], b"/x?access_token=" + OF_ACCESS, id="query"),
        pytest.param([], b"/" + OF_ID, id="path"),
        pytest.param(
            [(b"Authorization", BEARER)], b"/x?access_token=" + OF_ACCESS, id="in-its-place-and-in-the-query"
        ),
        pytest.param(
            [(b"Authorization", BEARER), (b"X-Other", OF_ID)], b"/", id="in-its-place-and-elsewhere"
        ),
        pytest.param(
            [(b"Authorization", BEARER), (b"authorization", b"Basic eA==")], b"/", id="beside-another-value"
        ),
        pytest.param([(b"X-Serverless-Authorization", BEARER)], b"/", id="where-this-route-puts-none"),
    ],
)
def test_any_other_place_refuses_it(fields: list[tuple[bytes, bytes]], path: bytes) -> None:
    """What the target would see of it is nothing that the app can have meant."""
    with pytest.raises(SidecarError) as refused:
        admit(fields, path=path)
    assert refused.value.reason is Reason.HEADER_CONFLICT
    assert "`Authorization`, where route `r` puts the token" in refused.value.detail
    assert OF_ID.decode() not in refused.value.detail


@pytest.mark.parametrize("rule", RULES)
def test_the_apps_own_is_judged_as_ever(rule: str) -> None:
    """Looking for placeholders changes nothing for requests that have none."""
    own = [(b"Authorization", b"Basic eA==")]

    def outcome(*, placeholders: bool) -> object:
        try:
            return admit(own, rule=rule, placeholders=placeholders)
        except SidecarError as error:
            return error.reason

    assert outcome(placeholders=True) == outcome(placeholders=False)


def test_without_the_switch_nobody_looks() -> None:
    """A sidecar that gives none takes it for a header of the app's own."""
    assert admit([(b"Authorization", BEARER)], placeholders=False).names == (b"X-Serverless-Authorization",)
