"""requests, httpx, aiohttp or urllib3, and curl and wget by their commands: one task after the other."""

import asyncio
import concurrent.futures
import hashlib
import json
import os
import subprocess
import sys
import tempfile

BASE, HOST, PROXY = (os.environ[name] for name in ("BASE", "HOST", "PROXY"))
HEADERS = {"Host": HOST} if HOST else {}
BODY = bytes(range(250)) * 80_000
DOWN = f"{BASE}/bytes/{len(BODY)}"


def pieces():
    yield b"ab"
    yield b"c"


def with_requests():
    import requests

    session = requests.Session()
    session.trust_env = False
    session.headers.update(HEADERS)
    if PROXY:
        session.proxies = {"http": PROXY}
    yield "up", lambda: session.post(f"{BASE}/up", data=BODY).json()
    yield "down", lambda: hashlib.sha256(session.get(DOWN).content).hexdigest()
    yield "chunked", lambda: session.post(f"{BASE}/x", data=pieces()).json()
    yield "gzip", lambda: session.get(f"{BASE}/gzip").text
    yield "sse", lambda: session.get(f"{BASE}/sse?n=3&every=0.01", stream=True).content.decode()
    yield "parallel", lambda: parallel(lambda n: session.get(f"{BASE}/n{n}").json())
    yield "utf8", lambda: session.get(f"{BASE}/grüße?x=ü").json()


def with_httpx():
    import httpx

    client = httpx.Client(trust_env=False, headers=HEADERS, proxy=PROXY or None, timeout=60)
    yield "up", lambda: client.post(f"{BASE}/up", content=BODY).json()
    yield "down", lambda: hashlib.sha256(client.get(DOWN).content).hexdigest()
    yield "chunked", lambda: client.post(f"{BASE}/x", content=pieces()).json()
    yield "gzip", lambda: client.get(f"{BASE}/gzip").text
    yield "sse", lambda: client.get(f"{BASE}/sse?n=3&every=0.01").text
    yield "parallel", lambda: parallel(lambda n: client.get(f"{BASE}/n{n}").json())
    yield "utf8", lambda: client.get(f"{BASE}/grüße?x=ü").json()


def with_urllib3():
    import urllib3

    pool = urllib3.ProxyManager(PROXY, maxsize=50) if PROXY else urllib3.PoolManager(maxsize=50)
    ask = lambda method, url, **more: pool.request(method, url, headers=HEADERS, **more)
    yield "up", lambda: ask("POST", f"{BASE}/up", body=BODY).json()
    yield "down", lambda: hashlib.sha256(ask("GET", DOWN).data).hexdigest()
    yield "chunked", lambda: ask("POST", f"{BASE}/x", body=pieces()).json()
    yield "gzip", lambda: ask("GET", f"{BASE}/gzip").data.decode()
    yield "sse", lambda: ask("GET", f"{BASE}/sse?n=3&every=0.01").data.decode()
    yield "parallel", lambda: parallel(lambda n: ask("GET", f"{BASE}/n{n}").json())
    yield "utf8", lambda: ask("GET", f"{BASE}/grüße?x=ü").json()


def with_aiohttp():
    import aiohttp

    async def within(work):
        async with aiohttp.ClientSession(headers=HEADERS, proxy=PROXY or None) as session:
            return await work(session)

    async def ask(session, method, path, how="json", **more):
        async with session.request(method, BASE + path, **more) as answer:
            return await getattr(answer, how)()

    async def chunked():
        for piece in pieces():
            yield piece

    async def digest(session):
        return hashlib.sha256(await ask(session, "GET", f"/bytes/{len(BODY)}", "read")).hexdigest()

    async def many(session):
        return await asyncio.gather(*(ask(session, "GET", f"/n{n}") for n in range(50)))

    async def socket(session):
        url = f"{BASE.replace('http', 'ws', 1)}/ws"
        async with session.ws_connect(url) as found:
            await found.send_str("grüße")
            text = (await found.receive()).data
            await found.send_bytes(BODY[:300_000])
            return [text, hashlib.sha256((await found.receive()).data).hexdigest()]

    run = lambda work: asyncio.run(within(work))
    yield "up", lambda: run(lambda s: ask(s, "POST", "/up", data=BODY))
    yield "down", lambda: run(digest)
    yield "chunked", lambda: run(lambda s: ask(s, "POST", "/x", data=chunked()))
    yield "gzip", lambda: run(lambda s: ask(s, "GET", "/gzip", "text"))
    yield "sse", lambda: run(lambda s: ask(s, "GET", "/sse?n=3&every=0.01", "text"))
    yield "parallel", lambda: run(many)
    yield "utf8", lambda: run(lambda s: ask(s, "GET", "/grüße?x=ü"))
    yield "websocket", lambda: run(socket)


def command(*words, body=b""):
    environ = {**os.environ, "http_proxy": PROXY}
    done = subprocess.run(words, input=body, capture_output=True, env=environ)
    if done.returncode:
        raise RuntimeError(done.stderr.decode())
    return done.stdout


def with_curl():
    host = ["-H", f"Host: {HOST}"] if HOST else []
    curl = lambda *words, **more: command("curl", "-sS", "--fail", *host, *words, **more)
    yield "up", lambda: json.loads(curl("--data-binary", "@-", f"{BASE}/up", body=BODY))
    yield "down", lambda: hashlib.sha256(curl(DOWN)).hexdigest()
    yield (
        "chunked",
        lambda: json.loads(
            curl("-T", "-", "-X", "POST", "-H", "Transfer-Encoding: chunked", f"{BASE}/x", body=b"abc")
        ),
    )
    yield "gzip", lambda: curl("--compressed", f"{BASE}/gzip").decode()
    yield "sse", lambda: curl("-N", f"{BASE}/sse?n=3&every=0.01").decode()

    def many():
        with tempfile.TemporaryDirectory() as directory:
            curl("--parallel", "--parallel-max", "50", "-o", f"{directory}/#1", f"{BASE}/n[0-49]")
            return [json.load(open(f"{directory}/{n}")) for n in range(50)]

    yield "parallel", many
    yield "utf8", lambda: json.loads(curl(f"{BASE}/grüße?x=ü"))


def with_wget():
    host = [f"--header=Host: {HOST}"] if HOST else []
    wget = lambda *words: command("wget", "-q", "-O", "-", *host, *words)

    def up():
        with tempfile.NamedTemporaryFile() as file:
            file.write(BODY)
            file.flush()
            return json.loads(wget(f"--post-file={file.name}", f"{BASE}/up"))

    yield "up", up
    yield "down", lambda: hashlib.sha256(wget(DOWN)).hexdigest()
    yield "gzip", lambda: wget("--compression=auto", f"{BASE}/gzip").decode()
    yield "sse", lambda: wget(f"{BASE}/sse?n=3&every=0.01").decode()
    yield "parallel", lambda: parallel(lambda n: json.loads(wget(f"{BASE}/n{n}")))
    yield "utf8", lambda: json.loads(wget("--local-encoding=UTF-8", f"{BASE}/grüße?x=ü"))


def parallel(ask):
    with concurrent.futures.ThreadPoolExecutor(50) as pool:
        return list(pool.map(ask, range(50)))


for task, work in globals()[f"with_{sys.argv[1]}"]():
    try:
        found = {"found": work()}
    except Exception as error:
        found = {"error": f"{type(error).__name__}: {error}"}
    print(json.dumps({"way": task, **found}), flush=True)
