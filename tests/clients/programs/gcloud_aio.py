"""gcloud-aio-auth, whose assertions name no key."""

import asyncio
import json
import os
import sys

import aiohttp
from gcloud.aio.auth import Token

E = os.environ


async def token(file):
    async with aiohttp.ClientSession() as session:
        made = Token(service_file=file, session=session, scopes=[E["SCOPE"]])
        return {
            "access_token": await made.get(),
            "project": await made.get_project() if file is None else None,
        }


async def metadata_access():
    return await token(None)


async def key_access():
    return await token(E["KEY_FILE"])


for way in sys.argv[1:]:
    try:
        found = asyncio.run(globals()[way]())
    except Exception as error:
        found = {"error": f"{type(error).__name__}: {error}"}
    print(json.dumps({"way": way, **found}), flush=True)
