"""sidecar.tokens.fetch.source and metadata: a whole fetch through google-auth, on exact bytes."""

from __future__ import annotations

import asyncio
import json
import traceback

import pytest

from sidecar.errors import Reason, SidecarError
from sidecar.runtime.clock import SystemClock
from sidecar.tokens.fetch.flight import Flight
from sidecar.tokens.fetch.grant import Fetched, Grant
from sidecar.tokens.fetch.source import GoogleSource
from sidecar.tokens.fetch.threads import FetchThreads
from sidecar.tokens.grants.metadata import MetadataGrant, metadata_host
from sidecar.tokens.token import TokenKey
from tests.support.eventually import eventually
from tests.support.named_source import NamedSource
from tests.support.raw_endpoint import Behaviour, RawEndpoint, answer, drip, hang, http, jwt, reset

AUDIENCE = "https://svc-abc-uc.a.run.app"
KEY = TokenKey(NamedSource("default"), AUDIENCE)
PARTICULAR = "other@p.iam.gserviceaccount.com"
DEFAULT_PATH = "/computeMetadata/v1/instance/service-accounts/default/identity"
PARTICULAR_PATH = f"/computeMetadata/v1/instance/service-accounts/{PARTICULAR}/identity"

accounts = pytest.mark.parametrize(
    ("account", "path"),
    [
        pytest.param("default", DEFAULT_PATH, id="default"),
        pytest.param(PARTICULAR, PARTICULAR_PATH, id="particular"),
    ],
)


def source(
    raw: RawEndpoint, *, account: str = "default", seconds: float = 60.0, limit: int = 8
) -> GoogleSource:
    grant = MetadataGrant({"GCE_METADATA_HOST": raw.origin}, account=account)
    clock = SystemClock(asyncio.get_running_loop())
    return GoogleSource("test", grant, clock, FetchThreads("default", limit=limit), seconds=seconds)


@accounts
async def test_a_token_from_the_metadata_server(raw: RawEndpoint, account: str, path: str) -> None:
    """One GET of the identity endpoint with format=full and the flavour header; the token as it came."""
    value = jwt(AUDIENCE, issued=0, expires=3600)
    raw.behaviour = http(200, value.encode() + b"\n")
    token = await source(raw, account=account).mint(KEY)
    assert token.bearer == b"Bearer " + value.encode()
    assert token.expires_at - token.issued_at == 3600
    assert len(raw.requests) == 1
    line, _, head = raw.requests[0].partition("\r\n")
    assert line == f"GET {path}?audience=https%3A%2F%2Fsvc-abc-uc.a.run.app&format=full HTTP/1.1"
    assert "metadata-flavor: Google\r\n" in head


async def test_licence_codes_are_asked_for_on_request(raw: RawEndpoint) -> None:
    """Compute Engine puts them in the token where the query says so."""
    raw.behaviour = http(200, jwt(AUDIENCE, issued=0, expires=3600).encode())
    grant = MetadataGrant({}, address=raw.origin, licenses=True)
    await GoogleSource("test", grant, SystemClock(asyncio.get_running_loop()), FetchThreads("x")).mint(KEY)
    assert "&format=full&licenses=TRUE HTTP/1.1" in raw.requests[0]


async def test_an_answer_without_a_content_type_is_no_mystery(raw: RawEndpoint) -> None:
    """A token in an answer that google-auth can't read for its missing Content-Type is used all the same."""
    value = jwt(AUDIENCE, issued=0, expires=3600).encode()
    raw.behaviour = answer(
        b"HTTP/1.1 200 OK\r\nMetadata-Flavor: Google\r\nContent-Length: %d\r\n\r\n%s" % (len(value), value)
    )
    assert (await source(raw).mint(KEY)).bearer == b"Bearer " + value


SECRET = "eyJzZWNyZXQiOiAxfQ"


@accounts
@pytest.mark.parametrize(
    ("behaviour", "reason", "says"),
    [
        pytest.param(
            http(200, f"<html>{SECRET}".encode()), Reason.TOKEN_MALFORMED, "200 with text/html", id="html"
        ),
        pytest.param(
            http(200, json.dumps({"token": SECRET}).encode(), content_type="application/json"),
            Reason.TOKEN_MALFORMED,
            "200 with application/json",
            id="json",
        ),
        pytest.param(
            http(200, b"{", content_type="application/json"),
            Reason.TOKEN_MALFORMED,
            "200 with",
            id="bad-json",
        ),
        pytest.param(http(200, b"\xff\xfe"), Reason.TOKEN_MALFORMED, "200 with", id="binary"),
        pytest.param(http(200, b""), Reason.TOKEN_MALFORMED, "(0 bytes)", id="empty"),
        pytest.param(
            http(200, f"{SECRET}.{SECRET}.".encode()), Reason.TOKEN_MALFORMED, "200 with", id="half-a-jwt"
        ),
        pytest.param(
            http(200, jwt(AUDIENCE, issued=0).encode()),
            Reason.TOKEN_NO_EXPIRY,
            "no `exp`",
            id="no-exp",
        ),
        pytest.param(
            http(200, jwt(AUDIENCE, issued=-3605, expires=-5).encode()),
            Reason.TOKEN_EXPIRED,
            "s ago",
            id="expired",
        ),
        pytest.param(
            http(200, jwt(AUDIENCE + "/", issued=0, expires=3600).encode()),
            Reason.TOKEN_WRONG_AUDIENCE,
            "a trailing slash only",
            id="trailing-slash",
        ),
        pytest.param(
            http(200, jwt("https://other\nforged", issued=0, expires=3600).encode()),
            Reason.TOKEN_WRONG_AUDIENCE,
            r"is for 'https://other\nforged'",
            id="wrong-audience",
        ),
        pytest.param(
            http(404, SECRET.encode()), Reason.NO_SERVICE_ACCOUNT, "attach a service account", id="404"
        ),
        pytest.param(http(403, SECRET.encode()), Reason.TOKEN_DENIED, "workloadIdentityUser", id="403"),
        pytest.param(http(429, headers={"Retry-After": "30"}), Reason.TOKEN_RATE_LIMITED, "429", id="429"),
        pytest.param(http(503, SECRET.encode()), Reason.TOKEN_ENDPOINT_FAILED, "503", id="503"),
        pytest.param(reset, Reason.TOKEN_ENDPOINT_UNREACHABLE, "Not on Google Cloud?", id="reset"),
        pytest.param(hang, Reason.TOKEN_TIMEOUT, "no complete answer within 0.3 s", id="hang"),
        pytest.param(drip, Reason.TOKEN_TIMEOUT, "no complete answer within 0.3 s", id="drip"),
    ],
)
async def test_faults(
    raw: RawEndpoint, account: str, path: str, behaviour: Behaviour, reason: Reason, says: str
) -> None:
    """Every fault ends the fetch after one request, within its deadline, with its reason and without a
    secret."""
    raw.behaviour = behaviour
    it = source(raw, account=account, seconds=0.3 if reason is Reason.TOKEN_TIMEOUT else 60)
    with pytest.raises(SidecarError) as caught:
        await asyncio.wait_for(it.mint(KEY), 60)
    assert caught.value.reason is reason
    assert says in caught.value.detail
    assert caught.value.retry_after == (30.0 if reason is Reason.TOKEN_RATE_LIMITED else None)
    assert caught.value.__cause__ is None
    assert SECRET not in "".join(traceback.format_exception(caught.value))
    passed = {frame.f_code.co_name for frame, _ in traceback.walk_tb(caught.value.__traceback__)}
    assert not passed & {"refresh", "ask", "id_token", "__call__", "_read"}, (
        "its frames hold what was sent and what came"
    )
    # On a busy machine the deadline may pass before anything is sent.
    assert len(raw.requests) == 1 or (reason is Reason.TOKEN_TIMEOUT and not raw.requests)
    assert all(path in request for request in raw.requests)


async def test_a_fetch_that_was_given_up_frees_its_thread(raw: RawEndpoint) -> None:
    """After the deadline the connection is cut, so the thread ends and its slot is free again."""
    raw.behaviour = drip
    it = source(raw, seconds=0.2, limit=1)
    with pytest.raises(SidecarError, match="token_timeout"):
        await it.mint(KEY)
    await eventually(lambda: not it.threads.running, why="a thread's end is counted, and nothing else")
    raw.behaviour = http(200, jwt(AUDIENCE, issued=0, expires=3600).encode())
    patient = GoogleSource("test", it.grant, SystemClock(asyncio.get_running_loop()), it.threads, seconds=60)
    assert (await patient.mint(KEY)).audience == AUDIENCE
    assert (it.threads.running, it.threads.abandoned) == (0, 0)
    assert it.threads.given_up == 1


async def test_a_cancelled_fetch_frees_its_thread(raw: RawEndpoint) -> None:
    """A fetch that is cancelled from outside cuts its connection."""
    raw.behaviour = hang
    it = source(raw)
    fetch = asyncio.gather(it.mint(KEY))
    await asyncio.wait_for(raw.asked.wait(), 60)
    fetch.cancel()
    with pytest.raises(asyncio.CancelledError):
        await fetch
    await asyncio.wait_for(raw.gone.wait(), 60)


async def test_a_source_whose_threads_all_hang_says_so(raw: RawEndpoint) -> None:
    """A fetch that gets no thread in time is a timeout that tells of the threads."""
    raw.behaviour = hang
    it = source(raw, limit=1)
    first = asyncio.gather(it.mint(KEY))
    await asyncio.wait_for(raw.asked.wait(), 60)
    it.threads.abandoned = 1
    blocked = GoogleSource(
        "test", NeverAsks(), SystemClock(asyncio.get_running_loop()), it.threads, seconds=0.05
    )
    with pytest.raises(SidecarError, match=r"token_timeout: No worker thread .*: 1 are busy, 1 of them"):
        await blocked.mint(KEY)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first


class NeverAsks(Grant):
    """A grant that must not be used."""

    def id_token(self, flight: Flight, audience: str) -> Fetched:
        raise AssertionError

    def describe(self) -> str:
        return ""


async def test_a_fault_of_our_own_is_not_dressed_up(raw: RawEndpoint) -> None:
    """A bug in a grant comes out as it is; the store calls it internal and logs its traceback."""
    it = GoogleSource("test", NeverAsks(), SystemClock(asyncio.get_running_loop()), FetchThreads("x"))
    with pytest.raises(AssertionError):
        await it.mint(KEY)


@pytest.mark.parametrize(
    ("environ", "host"),
    [
        pytest.param({}, "metadata.google.internal", id="default"),
        pytest.param({"GCE_METADATA_HOST": "h:1"}, "h:1", id="host"),
        pytest.param({"GCE_METADATA_ROOT": "r:2"}, "r:2", id="root"),
        pytest.param({"GCE_METADATA_HOST": "h:1", "GCE_METADATA_ROOT": "r:2"}, "h:1", id="host-before-root"),
        pytest.param({"GCE_METADATA_HOST": ""}, "metadata.google.internal", id="empty"),
    ],
)
def test_the_metadata_host(environ: dict[str, str], host: str) -> None:
    """The variables that google-auth honours, in its order, read when they are passed and not at import."""
    assert metadata_host(environ) == host
    assert MetadataGrant(environ).describe() == f"default service account of the metadata server at {host}"
