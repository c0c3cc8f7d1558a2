"""google-auth's asynchronous halves: the transport of google.auth.aio, and the credentials on aiohttp."""

import asyncio
import json
import os
import sys

from google.auth.aio.credentials import StaticCredentials
from google.auth.aio.transport.sessions import AsyncAuthorizedSession
from google.auth.transport._aiohttp_requests import Request
from google.oauth2 import _service_account_async as service_account

E = os.environ


async def key_access():
    made = service_account.Credentials.from_service_account_file(E["KEY_FILE"], scopes=[E["SCOPE"]])
    request = Request()
    await made.refresh(request)
    await request.session.close()
    return {"access_token": made.token}


async def key_id():
    made = service_account.IDTokenCredentials.from_service_account_file(
        E["KEY_FILE"], target_audience=E["AUDIENCE"]
    )
    request = Request()
    await made.refresh(request)
    await request.session.close()
    return {"id_token": made.token}


async def calls():
    found = await key_access()
    session = AsyncAuthorizedSession(StaticCredentials(token=found["access_token"]))
    answer = await session.get(E["API_URL"] + "/b")
    body = json.loads(await answer.read())
    await session.close()
    return {**found, "said": body["verified"]["credential"]}


for way in sys.argv[1:]:
    try:
        found = asyncio.run(globals()[way]())
    except Exception as error:
        found = {"error": f"{type(error).__name__}: {error}"}
    print(json.dumps({"way": way, **found}), flush=True)
