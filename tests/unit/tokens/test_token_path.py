"""The token path whole: store, source, google-auth and transport against the stand-in for Google."""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from google.auth.transport.requests import Request
from google.oauth2 import id_token

from sidecar.config.credentials import Adc, Credential, Metadata, ServiceAccountKey
from sidecar.emulator.app import Emulator
from sidecar.emulator.faults import Fault
from sidecar.emulator.metadata import EMAIL
from sidecar.emulator.oauth import KEY_EMAIL
from sidecar.errors import Reason, SidecarError
from sidecar.observe.metrics import TokenStatsTable
from sidecar.runtime.clock import SystemClock
from sidecar.runtime.tasks import Tasks
from sidecar.tokens.sources import build_sources
from sidecar.tokens.store import TokenStore
from sidecar.tokens.token import TokenKey
from tests.support.google import google

__all__ = ["google"]

AUDIENCE = "https://svc-abc-uc.a.run.app"
LIMIT = 30.0
"""Seconds that a fetch may take before the test fails."""


class TokenPath:
    """A store over real sources, with what it counts."""

    def __init__(self, google: Emulator, credential: Credential, folder: Path, *, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        environ = {**google.environment(), "CLOUDSDK_CONFIG": str(folder)}
        clock = SystemClock(loop)
        self.google = google
        self.jitter = 0.0
        self.tasks = Tasks(loop)
        self.stats = TokenStatsTable(10)
        sources = build_sources({"default": credential}, clock=clock, environ=environ, seconds=seconds)
        self.key = TokenKey(sources["default"], AUDIENCE)
        self.store = TokenStore(
            sources.values(),
            clock,
            self.tasks,
            self.stats.record,
            jitter=lambda: self.jitter,
            wait=10.0,
            size=10,
        )

    async def get(self, audience: str = AUDIENCE) -> bytes:
        """What one request gets; raises what it is told."""
        key = self.key._replace(audience=audience)
        told: asyncio.Future[SidecarError | None] = asyncio.get_running_loop().create_future()
        self.store.join(key, told.set_result)
        error = await asyncio.wait_for(told, LIMIT)
        if error is not None:
            raise error
        bearer = self.store.bearer(key)
        assert bearer is not None
        return bearer


Make = Callable[..., TokenPath]


@pytest.fixture
async def make(google: Emulator, tmp_path: Path) -> AsyncIterator[Make]:
    """Makes a token path for a credential."""
    made: list[TokenPath] = []

    def build(credential: Credential, *, seconds: float = LIMIT) -> TokenPath:
        made.append(TokenPath(google, credential, tmp_path, seconds=seconds))
        return made[-1]

    yield build
    for path in made:
        await path.store.close()
        assert len(path.tasks) == 0


METADATA = Metadata(type="metadata")


def key(google: Emulator, folder: Path) -> ServiceAccountKey:
    return ServiceAccountKey(type="service_account_key", file=str(google.write_key(folder / "key.json")))


async def test_every_credential_gets_a_token_that_verifies(
    google: Emulator, make: Make, tmp_path: Path
) -> None:
    """Metadata server (default and named account), key, and ADC with and without a file: google-auth
    verifies each token."""
    adc = Adc(type="adc")
    bearers = [
        await make(METADATA).get(),
        await make(Metadata(type="metadata", account=EMAIL)).get(),
        await make(adc).get(),
        await make(key(google, tmp_path)).get(),
    ]
    google.write_key(tmp_path / "application_default_credentials.json")
    bearers.append(await make(adc).get())
    assert [(asked.account, asked.format) for asked in google.metadata.asked] == [
        ("default", "full"),
        (EMAIL, "full"),
        ("default", "full"),
    ]
    assert list(google.oauth.asked) == [AUDIENCE, AUDIENCE]
    emails = []
    for bearer in bearers:
        value = bearer.removeprefix(b"Bearer ").decode()
        claims = await asyncio.to_thread(
            id_token.verify_token, value, Request(), AUDIENCE, certs_url=google.certs_url
        )
        emails.append(claims["email"])
    assert emails == [EMAIL, EMAIL, EMAIL, KEY_EMAIL, KEY_EMAIL]


async def test_a_thousand_first_requests_ask_the_metadata_server_once(google: Emulator, make: Make) -> None:
    """1,000 first requests at once for one audience make one call to the metadata server."""
    path = make(METADATA)
    google.metadata.endpoint.hold()
    requests = [asyncio.ensure_future(path.get()) for _ in range(1000)]  # noqa: TID251 - a test owns them
    await google.metadata.endpoint.wait_for(1)
    google.metadata.endpoint.release()
    assert len(set(await asyncio.gather(*requests))) == 1
    assert len(google.metadata.asked) == 1


faults = pytest.mark.parametrize(
    ("fault", "reason", "says"),
    [
        pytest.param(Fault("hang"), Reason.TOKEN_TIMEOUT, "no complete answer within", id="hang"),
        pytest.param(Fault("reset"), Reason.TOKEN_ENDPOINT_UNREACHABLE, "closed the connection", id="reset"),
        pytest.param(Fault("html"), Reason.TOKEN_MALFORMED, "200 with text/html", id="html"),
        pytest.param(Fault("garbage"), Reason.TOKEN_MALFORMED, "not with a token", id="garbage"),
        pytest.param(Fault("huge"), Reason.TOKEN_MALFORMED, "more than 65536 bytes", id="huge"),
        pytest.param(Fault("wrong_audience"), Reason.TOKEN_WRONG_AUDIENCE, "somebody-else", id="audience"),
        pytest.param(Fault("no_exp"), Reason.TOKEN_NO_EXPIRY, "no `exp`", id="no-exp"),
        pytest.param(Fault("expired"), Reason.TOKEN_EXPIRED, "s ago", id="expired"),
        pytest.param(
            Fault("status", 429, {"Retry-After": "17"}), Reason.TOKEN_RATE_LIMITED, "answered 429", id="429"
        ),
        pytest.param(Fault("status", 500), Reason.TOKEN_ENDPOINT_FAILED, "answered 500", id="500"),
        pytest.param(Fault("status", 502), Reason.TOKEN_ENDPOINT_FAILED, "answered 502", id="502"),
        pytest.param(Fault("status", 503), Reason.TOKEN_ENDPOINT_FAILED, "answered 503", id="503"),
        pytest.param(Fault("status", 504), Reason.TOKEN_ENDPOINT_FAILED, "answered 504", id="504"),
        pytest.param(Fault("status", 403), Reason.TOKEN_DENIED, "answered 403", id="403"),
    ],
)


@faults
@pytest.mark.parametrize("kind", ["metadata", "key"])
async def test_each_fault_has_its_reason_in_error_log_and_metric(
    google: Emulator,
    make: Make,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    kind: str,
    fault: Fault,
    reason: Reason,
    says: str,
) -> None:
    """One call, then the reason: to the caller, in the log and in the counter; a fault that ends is got
    over."""
    caplog.set_level(logging.INFO, "sidecar.tokens")
    endpoint = google.metadata.endpoint if kind == "metadata" else google.oauth.endpoint
    path = make(
        METADATA if kind == "metadata" else key(google, tmp_path),
        seconds=0.3 if fault.kind == "hang" else LIMIT,
    )
    endpoint.fail(fault)
    path.jitter = 10.0  # seconds, after one failure: none is to pass before the next look
    with pytest.raises(SidecarError) as caught:
        await path.get()
    assert caught.value.reason is reason
    assert says in caught.value.detail
    # On a busy machine the deadline may pass before anything is sent.
    asked = endpoint.arrived
    assert asked == 1 or (fault.kind == "hang" and not asked)
    assert path.stats.record("default", AUDIENCE).fetches == {("error", reason.value): 1}
    (record,) = caplog.records
    assert record.__dict__["fields"]["reason"] == reason.value
    assert record.__dict__["fields"]["detail"] == caught.value.detail
    assert "eyJ" not in caplog.text + "".join(traceback.format_exception(caught.value))
    with pytest.raises(SidecarError) as again:
        path.store.join(path.key, lambda _error: None)
    assert again.value.reason is reason
    assert again.value.retry_after is not None
    assert (again.value.retry_after > 12) is (reason is Reason.TOKEN_RATE_LIMITED)
    assert endpoint.arrived == asked


async def test_a_slow_metadata_server_is_waited_for(google: Emulator, make: Make) -> None:
    """An answer that takes its time, within the deadline, serves every caller."""
    path = make(METADATA)
    google.metadata.endpoint.hold()
    requests = [asyncio.ensure_future(path.get()) for _ in range(5)]  # noqa: TID251 - a test owns them
    await google.metadata.endpoint.wait_for(1)
    assert path.store.status()[0].state == "fetching"
    assert not any(request.done() for request in requests)
    google.metadata.endpoint.release()
    assert len(set(await asyncio.gather(*requests))) == 1


async def test_no_service_account(google: Emulator, make: Make) -> None:
    """A machine without a service account, and one without the account that is named, say so."""
    google.metadata.email = None
    with pytest.raises(SidecarError, match=r"no_service_account: .*attach a service account"):
        await make(METADATA).get()
    with pytest.raises(SidecarError, match=r"no_service_account: .*service account other@p\.example"):
        await make(Metadata(type="metadata", account="other@p.example")).get()


async def test_errors_of_a_key(google: Emulator, make: Make, tmp_path: Path) -> None:
    """A key of another account and a deleted account are told apart."""
    credential = key(google, tmp_path)
    google.oauth.delete_account()
    with pytest.raises(SidecarError, match=r"token_denied: .*There is no service account key-holder@"):
        await make(credential).get()
    google.principals.add(KEY_EMAIL)
    google.oauth.revoke_key()
    with pytest.raises(SidecarError, match=r"token_denied: .*The key of service account key-holder@"):
        await make(credential).get()


async def test_a_metadata_server_that_is_not_there_and_then_is(google: Emulator, make: Make) -> None:
    """Nobody listening is `unreachable` with what to do; when somebody does, the store gets over it by
    itself."""
    path = make(METADATA)
    wanted = path.key
    await google.stop(google.metadata.app)
    with pytest.raises(SidecarError, match=r"refused the connection\. Not on Google Cloud\?"):
        await path.get()
    await google.start(google.metadata.app)
    path.store.prefetch([wanted])
    await google.metadata.endpoint.wait_for(1)
    assert await path.get() == path.store.bearer(wanted)


async def test_a_source_that_hangs_leaves_the_others_alone(google: Emulator, tmp_path: Path) -> None:
    """However many fetches of one credential hang, another credential gets its tokens."""
    clock = SystemClock(asyncio.get_running_loop())
    sources = build_sources(
        {"m": METADATA, "k": key(google, tmp_path)},
        clock=clock,
        environ=google.environment(),
        seconds=LIMIT,
        threads=2,
    )
    google.metadata.endpoint.fail(Fault("hang"))
    keys = [TokenKey(sources["m"], f"https://{number}") for number in range(20)]
    hanging = [asyncio.ensure_future(key.source.mint(key)) for key in keys]  # noqa: TID251
    await google.metadata.endpoint.wait_for(2)
    assert (await sources["k"].mint(TokenKey(sources["k"], AUDIENCE))).audience == AUDIENCE
    assert google.metadata.endpoint.arrived == 2
    for fetch in hanging:
        fetch.cancel()
    await asyncio.gather(*hanging, return_exceptions=True)
