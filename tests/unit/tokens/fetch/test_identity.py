"""sidecar.tokens.fetch: who a credential is, as files, e-mails and endpoints say"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from sidecar.config.credentials import (
    Adc,
    Credential,
    Endpoints,
    Impersonate,
    Metadata,
    ServiceAccountKey,
    User,
)
from sidecar.emulator.app import Emulator
from sidecar.emulator.instance import PROJECT
from sidecar.emulator.oauth import KEY_EMAIL
from sidecar.errors import Reason, SidecarError
from sidecar.runtime.clock import SystemClock
from sidecar.tokens.fetch.grant import project_of
from sidecar.tokens.fetch.source import Identity
from sidecar.tokens.sources import build_sources


@pytest.mark.parametrize(
    ("email", "project"),
    [
        pytest.param("a@p-1.iam.gserviceaccount.com", "p-1", id="a-project-s"),
        pytest.param("p-1@appspot.gserviceaccount.com", "p-1", id="app-engine-s"),
        pytest.param("123-compute@developer.gserviceaccount.com", None, id="compute-engine-s"),
        pytest.param("a@p.example.com.iam.gserviceaccount.com", None, id="of-a-domain"),
        pytest.param("me@example.com", None, id="a-person-s"),
        pytest.param("", None, id="none"),
    ],
)
def test_the_project_in_an_e_mail(email: str, project: str | None) -> None:
    assert project_of(email) == project


async def identity(google: Emulator, credential: Credential, **more: Credential) -> Identity:
    sources = build_sources(
        {"it": credential, **more},
        clock=SystemClock(asyncio.get_running_loop()),
        environ=google.environment(),
        endpoints=Endpoints(oauth=google.oauth_url, iam_credentials=google.iam_url),
    )
    return await sources["it"].identity()


async def test_who_each_credential_is(google: Emulator, tmp_path: Path) -> None:
    """A person's e-mail is not known; nobody is asked what a file says."""
    key = ServiceAccountKey(type="service_account_key", file=str(google.write_key(tmp_path / "key.json")))
    assert await identity(google, key) == (KEY_EMAIL, PROJECT, "googleapis.com")
    acting = Impersonate(type="impersonate", source="key", service_account="b@q-1.iam.gserviceaccount.com")
    assert (await identity(google, acting, key=key))[:2] == ("b@q-1.iam.gserviceaccount.com", "q-1")
    assert not google.metadata.requests
    login = google.write_login(tmp_path / "login.json", google.oauth.add_user("me@example.com"))
    assert (await identity(google, User(type="user", file=str(login)))).email is None
    for machine in (Metadata(type="metadata"), Adc(type="adc")):
        assert await identity(google, machine) == (google.metadata.email, PROJECT, "googleapis.com")


async def test_one_that_nobody_can_tell(google: Emulator, tmp_path: Path) -> None:
    """The reason, as for a token."""
    with pytest.raises(SidecarError) as error:
        await identity(
            google, ServiceAccountKey(type="service_account_key", file=str(tmp_path / "none.json"))
        )
    assert error.value.reason is Reason.CREDENTIAL_NOT_FOUND
