"""sidecar.tokens.grants.credential_types: what a credential file turns out to be, and when it is looked at again"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from sidecar.errors import Reason, SidecarError
from sidecar.tokens.grants.credential_types import Addresses, FileGrant, grant_of

SA = "acted-as@p.iam.gserviceaccount.com"
HOP = "hop@p.iam.gserviceaccount.com"
URL = f"https://iamcredentials.googleapis.com/v1/projects/-/serviceAccounts/{SA}:generateAccessToken"
LOGIN = {"type": "authorized_user", "client_id": "a", "client_secret": "b", "refresh_token": "c"}
KEY = {
    "type": "service_account",
    "client_email": "key@p.iam.gserviceaccount.com",
    "private_key": "x",
    "token_uri": "https://oauth2.googleapis.com/token",
}
FEDERATION = {
    "type": "external_account",
    "audience": "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p/providers/q",
    "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
    "token_url": "https://sts.googleapis.com/v1/token",
    "credential_source": {"file": "/run/token"},
}
LOGIN_AS = "gcloud auth application-default login --impersonate-service-account={}"
IMPERSONATED = {
    "type": "impersonated_service_account",
    "service_account_impersonation_url": URL,
    "source_credentials": LOGIN,
}


@pytest.mark.parametrize(
    ("info", "ability", "describes"),
    [
        pytest.param(KEY, "service_account_key", "service account key in f.json", id="key"),
        pytest.param(LOGIN, "user", "a person's login in f.json", id="login"),
        pytest.param(
            {"type": "external_account_authorized_user"},
            "workforce",
            "a workforce login in f.json",
            id="workforce",
        ),
        pytest.param(FEDERATION, "federated", "workload identity federation by f.json", id="federation"),
        pytest.param(
            {**FEDERATION, "service_account_impersonation_url": URL},
            "workload_identity_federation",
            f"service account {SA}, impersonated by workload identity federation by f.json",
            id="federation-as-an-account",
        ),
        pytest.param(
            {**IMPERSONATED, "delegates": [f"projects/-/serviceAccounts/{HOP}"]},
            "impersonate",
            f"service account {SA} through {HOP}, impersonated by a person's login in `source_credentials` of f.json",
            id="impersonated",
        ),
    ],
)
def test_a_file_is_what_its_type_says(info: Mapping[str, Any], ability: str, describes: str) -> None:
    """Each type that gcloud writes becomes its own credential, which says what it uses."""
    grant = grant_of(info, "f.json", Addresses())
    assert (grant.ability, grant.describe()) == (ability, describes)


@pytest.mark.parametrize(
    ("info", "says"),
    [
        pytest.param({}, "no `type` that is known (one of service_account, authorized_user", id="no-type"),
        pytest.param({"type": "gdch_service_account"}, "Google's services do not take", id="gdch"),
        pytest.param(
            {**IMPERSONATED, "source_credentials": None}, "lacks `service_account_imp", id="no-source"
        ),
        pytest.param(
            {**IMPERSONATED, "service_account_impersonation_url": None},
            "or `source_credentials`",
            id="no-url",
        ),
        pytest.param(
            {**IMPERSONATED, "delegates": ["nobody"]}, "`delegates` are not service", id="delegates"
        ),
        pytest.param(
            {**IMPERSONATED, "source_credentials": {"type": "x"}},
            "in `source_credentials` of f.json cannot be used",
            id="source-of-no-type",
        ),
    ],
)
def test_a_file_that_is_nothing_to_use(info: Mapping[str, Any], says: str) -> None:
    """The file and what is wrong with it are named."""
    with pytest.raises(SidecarError) as caught:
        grant_of(info, "f.json", Addresses())
    assert caught.value.reason is Reason.CREDENTIAL_INVALID
    assert says in caught.value.detail
    assert "f.json" in caught.value.detail


@pytest.mark.parametrize(
    ("account", "delegates", "command"),
    [
        pytest.param("109876543210987654321", [], LOGIN_AS.format("SERVICE_ACCOUNT_EMAIL"), id="numeric-id"),
        pytest.param(SA.replace("@", "%40"), [], LOGIN_AS.format(SA), id="escaped"),
        pytest.param(
            SA.replace("@", "%40"),
            [f"projects/-/serviceAccounts/{HOP}"],
            LOGIN_AS.format(f"{HOP},{SA}"),
            id="with-a-delegate",
        ),
        pytest.param("$(reboot)%40x", [], LOGIN_AS.format("SERVICE_ACCOUNT_EMAIL"), id="no-account"),
    ],
)
def test_an_impersonated_file_without_an_email(account: str, delegates: list[str], command: str) -> None:
    """It is written again by the command for this type of file, with the account where that can be read."""
    url = f"https://iamcredentials.googleapis.com/v1/projects/-/serviceAccounts/{account}:generateAccessToken"
    info = {**IMPERSONATED, "service_account_impersonation_url": url, "delegates": delegates}
    with pytest.raises(SidecarError) as caught:
        grant_of(info, "f.json", Addresses())
    assert caught.value.reason is Reason.CREDENTIAL_INVALID
    assert caught.value.command == command
    assert f"`{command}`" in caught.value.detail
    assert "create-cred-config" not in caught.value.detail


@pytest.mark.parametrize(
    ("changes", "command"),
    [
        pytest.param({"source_credentials": None}, LOGIN_AS.format(SA), id="no-source"),
        pytest.param(
            {"service_account_impersonation_url": None}, LOGIN_AS.format("SERVICE_ACCOUNT_EMAIL"), id="no-url"
        ),
        pytest.param(
            {"service_account_impersonation_url": 7}, LOGIN_AS.format("SERVICE_ACCOUNT_EMAIL"), id="no-text"
        ),
        # With a delegate that is none, there is no command that could be run as it is.
        pytest.param({"delegates": ["nobody"]}, "", id="delegates"),
    ],
)
def test_an_impersonated_file_that_lacks_something_is_written_again(
    changes: Mapping[str, Any], command: str
) -> None:
    """By its own command, not by that of workload identity federation."""
    with pytest.raises(SidecarError) as caught:
        grant_of({**IMPERSONATED, **changes}, "f.json", Addresses())
    assert caught.value.command == command
    assert "--impersonate-service-account=" in caught.value.detail


def test_a_file_is_looked_at_again_and_made_again_when_it_changed(tmp_path: Path) -> None:
    """What an unchanged file turned out to be is kept, with what it found out; a replaced file counts at once."""
    file = tmp_path / "f.json"
    file.write_text(json.dumps(KEY))
    grant = FileGrant(file.read_text, "f.json", grant_of, Addresses())
    assert grant.describe() == "f.json"
    first = grant.resolved()
    assert grant.resolved() is first
    assert grant.known_email() == "key@p.iam.gserviceaccount.com"
    file.write_text(json.dumps(LOGIN))
    assert grant.resolved().ability == "user"
    assert grant.describe() == "a person's login in f.json"
    assert grant.known_email() is None
    file.write_text("{")
    with pytest.raises(SidecarError, match=r"credential_invalid: .*f\.json cannot be used"):
        grant.check()
