"""What is wrong although the sidecar is ready: the line of /healthz/ready."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from sidecar.admin.shortfall import RouteTrouble, shortfall
from sidecar.errors import Reason
from sidecar.proxy.refusals.diagnosis import Cause, Diagnosis
from sidecar.proxy.refusals.outages import Refusing
from sidecar.proxy.refusals.refusals import LastRefusal
from sidecar.tokens.entry import LastError, TokenState, TokenStatus
from tests.unit.admin.test_status import NOW, TOKEN

AT = "2023-11-14T23:13:18.000Z"
"""Two seconds before `NOW`."""
FAILED = LastError(Reason.TOKEN_DENIED, "Not allowed.", NOW)


@pytest.mark.parametrize(
    ("tokens", "said"),
    [
        pytest.param([], "", id="no-tokens"),
        pytest.param([TOKEN], "", id="one-that-is-served-though-its-renewal-failed"),
        pytest.param([TOKEN._replace(state=TokenState.MISSING, last_error=None)], "", id="never-asked-for"),
        pytest.param([TOKEN._replace(state=TokenState.FETCHING, last_error=None)], "", id="on-its-way"),
        pytest.param(
            [TOKEN._replace(state=TokenState.FAILING, last_error=FAILED)] * 3,
            "3 of 3 tokens missing: token_denied: Not allowed.",
            id="all-for-one-reason",
        ),
        pytest.param(
            [
                TOKEN,
                TOKEN._replace(state=TokenState.FETCHING),
                TOKEN._replace(state=TokenState.FAILING, last_error=FAILED),
            ],
            "2 of 3 tokens missing: token_timeout: The metadata server did not answer in 5 s.; "
            "token_denied: Not allowed.",
            id="some-for-two",
        ),
    ],
)
def test_what_is_missing_is_said_in_a_line(tokens: Sequence[TokenStatus], said: str) -> None:
    """Those that have no token to serve and whose last fetch failed; each reason once."""
    assert shortfall(tokens) == said


def test_a_configuration_that_cannot_be_used_is_said_too() -> None:
    """Behind the tokens, with the first of its problems."""
    why = "config.yaml:3:5: routes[0]: wrong\nconfig.yaml:9:1: more"
    changed = "the configuration file was changed and can't be used"
    told = f"{changed}, so the old one stays in force: config.yaml:3:5: routes[0]: wrong (and 1 more)"
    assert shortfall([TOKEN], reload_error=why) == told
    failing = TOKEN._replace(state=TokenState.FAILING, last_error=FAILED)
    assert (
        shortfall([failing], reload_error=why) == f"1 of 1 tokens missing: token_denied: Not allowed.; {told}"
    )


def test_missing_tokens_name_their_routes() -> None:
    """All that use it, each once."""
    failing = TOKEN._replace(state=TokenState.FAILING, last_error=FAILED)
    told = shortfall([failing], users={failing.key: ["billing"]})
    assert told == "1 of 1 tokens missing (route `billing`): token_denied: Not allowed."
    told = shortfall([failing, failing], users={failing.key: ["billing", "reports"]})
    assert told == "2 of 2 tokens missing (routes `billing`, `reports`): token_denied: Not allowed."


def refusing(name: str, reason: Reason, detail: str) -> RouteTrouble:
    return RouteTrouble(name, Refusing(reason, detail, "", NOW - 60.0, NOW - 1.0, 240), None)


def refused(name: str, cause: Cause, good_since: int = 0) -> RouteTrouble:
    return RouteTrouble(
        name, None, LastRefusal(Diagnosis(cause, f"It is {cause}."), 401, NOW - 2.0, good_since)
    )


@pytest.mark.parametrize(
    ("routes", "said"),
    [
        pytest.param([RouteTrouble("a", None, None)], "", id="a-route-that-is-well"),
        pytest.param(
            [refusing("a", Reason.TLS_WRONG_NAME, "Not for `x`.")],
            "route `a` refuses requests: tls_wrong_name: Not for `x`.",
            id="one-that-refuses",
        ),
        pytest.param(
            [refusing("a", Reason.TOKEN_DENIED, "Not allowed.")], "", id="one-without-a-token-as-said-before"
        ),
        pytest.param(
            [refusing(name, Reason.DNS_FAILED, f"No {name}.") for name in "abcde"],
            "routes `a`, `b`, `c` and 2 more refuse requests: dns_failed: No a.",
            id="many-for-one-reason",
        ),
        pytest.param(
            [refused("a", Cause.TOKEN_TOO_OLD)],
            f"the target of route `a` refused the last request at {AT}: token_too_old: It is token_too_old.",
            id="a-target-that-refuses",
        ),
        pytest.param(
            [refused("a", Cause.TOKEN_TOO_OLD), refused("b", Cause.TOKEN_TOO_OLD)],
            f"the targets of routes `a`, `b` refused the last request at {AT}: token_too_old: It is token_too_old.",
            id="two-targets-that-refuse",
        ),
        pytest.param([refused("a", Cause.TOKEN_TOO_OLD, good_since=1)], "", id="a-target-that-answers-again"),
        pytest.param([refused("a", Cause.UNEXPLAINED)], "", id="an-app-s-own-403"),
    ],
)
def test_routes_in_trouble_are_named(routes: Sequence[RouteTrouble], said: str) -> None:
    """Each cause once, with the first detail."""
    assert shortfall([], routes) == said
