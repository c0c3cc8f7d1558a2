"""One https URL, asked for as anybody's code does it: curl, requests, httpx, aiohttp, urllib or gRPC."""

import asyncio
import json
import os
import subprocess
import sys

URL = os.environ["URL"]


def curl():
    return json.loads(
        subprocess.run(["curl", "--silent", "--show-error", URL], check=True, capture_output=True).stdout
    )


def requests():
    import requests

    return requests.get(URL, timeout=60).json()


def httpx():
    import httpx

    return httpx.get(URL, timeout=60).json()


def urllib():
    from urllib.request import urlopen

    with urlopen(URL, timeout=60) as answer:
        return json.load(answer)


def aiohttp():
    import aiohttp

    async def ask():
        async with aiohttp.ClientSession(trust_env=True) as session, session.get(URL) as answer:
            return await answer.json()

    return asyncio.run(ask())


def grpcio():
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    with grpc.secure_channel(os.environ["GRPC_TARGET"], grpc.ssl_channel_credentials()) as channel:
        answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=60)
    return {"verified": answer.status == health_pb2.HealthCheckResponse.SERVING}


for name in sys.argv[1:]:
    try:
        found = globals()[name]()
    except Exception as error:
        found = {"verified": False, "error": repr(error)}
    print(json.dumps({"client": name, **found}), flush=True)
