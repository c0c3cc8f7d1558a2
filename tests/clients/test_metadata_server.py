"""The sidecar's metadata server is Google's to the libraries: their own programs, unmodified, led there by the environment.

What they get is of a service account that another one's key acts as, so no machine of Google's has a part in it.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sidecar.config.variables import leading_to
from sidecar.emulator.app import Emulator
from sidecar.emulator.instance import PROJECT
from sidecar.emulator.scopes import CLOUD_PLATFORM
from tests.clients.libraries import LIBRARIES
from tests.clients.test_libraries import ACTED_AS, AUDIENCE, LIMIT, StandIn, each
from tests.support.sidecar import Start, clean_environment


@pytest.fixture
async def off_google_cloud(google: Emulator, start: Start, tmp_path: Path) -> AsyncIterator[StandIn]:
    """A machine without a metadata server of Google's, and the sidecar on it."""
    api = await google.add_target("storage", kind="googleapis")
    stand_in = StandIn(google, api, tmp_path)
    sidecar = await start(
        f"""
credentials:
  key: {{type: service_account_key, file: '{stand_in.environ["KEY_FILE"]}'}}
  acting: {{type: impersonate, source: key, service_account: {ACTED_AS}}}
endpoints: {{oauth: '{google.oauth_url}', iam_credentials: '{google.iam_url}'}}
metadata_server:
  listen: localhost:0
  credential: acting
  audiences: ['{AUDIENCE}']
  scopes: ['{CLOUD_PLATFORM}']
routes: [{{name: storage, upstream: '{api.url}', target: googleapis, token: access, credential: key}}]
"""
    )
    (server,) = (await sidecar.status())["handouts"]
    stand_in.environ.update(leading_to(server["listen"][0]))
    stand_in.emails["metadata"] = ACTED_AS
    # As in the stand-in: it signs as itself by the role, like any other.
    google.principals.grant(f"serviceAccount:{ACTED_AS}", "roles/iam.serviceAccountTokenCreator", on=ACTED_AS)
    yield stand_in
    assert not google.metadata.requests, "it was to have no part in this"


@pytest.mark.slow
@pytest.mark.parametrize("name", each("metadata"))
async def test_a_library_is_at_home(off_google_cloud: StandIn, name: str) -> None:
    """It finds the metadata server by the environment alone, and gets tokens that Google's services take."""
    library = LIBRARIES[name]
    found = await off_google_cloud.run(library, library.metadata)
    assert {way: said for way in library.metadata if (said := off_google_cloud.judge(way, found[way]))} == {}
    assert all(it.get("project", PROJECT) == PROJECT for it in found.values())


@pytest.mark.slow
@pytest.mark.test_all
@pytest.mark.skipif(shutil.which("gcloud") is None, reason="not installed here (gcloud): google-cloud-cli")
async def test_gcloud_lists_the_account(off_google_cloud: StandIn, tmp_path: Path) -> None:
    """`gcloud auth list` has the one account of this machine, and it is active."""
    process = await asyncio.create_subprocess_exec(
        *("gcloud", "auth", "list", "--format=value(account,status)"),
        env=clean_environment(**{**off_google_cloud.environ, "CLOUDSDK_CONFIG": str(tmp_path / "gcloud")}),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(LIMIT):
        out, err = await process.communicate()
    assert out.decode().split() == [ACTED_AS, "*"], err.decode()
