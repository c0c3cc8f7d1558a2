"""Chromium, headless: what a page does that it has loaded through the sidecar, by fetch, EventSource and WebSocket."""

import asyncio
import base64
import hashlib
import json
import os
import tempfile
from pathlib import Path

from tests.support.browser import browser

BASE, PROXY = os.environ["BASE"], os.environ["PROXY"]
SLICE = 3_000_000  # whole groups of base64, and less than the DevTools protocol takes in one message

# A page without TLS has no crypto.subtle: the bytes are hashed outside of it.
PRELUDE = """
const BASE = %s, SIZE = 20_000_000;
const body = () => Uint8Array.from({length: SIZE}, (_, n) => n %% 250);
const json = async (path, more) => (await fetch(BASE + path, {cache: 'no-store', ...more})).json();
const keep = (bytes) => { window.kept = new Uint8Array(bytes); return kept.length; };
const slice = (from, to) => {
  let text = '';
  for (let at = from; at < Math.min(to, kept.length); at += 8192)
    text += String.fromCharCode(...kept.subarray(at, Math.min(at + 8192, to)));
  return btoa(text);
};
const events = (path) => new Promise((done, failed) => {
  const source = new EventSource(BASE + path);
  let text = '';
  source.onmessage = (event) => {
    text += `id: ${event.lastEventId}\\ndata: ${event.data}\\n\\n`;
    if (event.lastEventId === '2') { source.close(); done(text); }
  };
  source.onerror = () => { source.close(); failed(new Error(`the events ended after ${text}`)); };
});
const talk = (path) => new Promise((done, failed) => {
  const socket = new WebSocket(BASE.replace('http:', 'ws:') + path);
  socket.binaryType = 'arraybuffer';
  let text;
  socket.onopen = () => { socket.send('grüße'); socket.send(body().slice(0, 300_000)); };
  socket.onmessage = ({data}) => {
    if (typeof data === 'string') { text = data; return; }
    keep(data);
    socket.close();
    done(text);
  };
  socket.onerror = () => failed(new Error('the WebSocket failed'));
});
"""


async def hashed(page):
    digest = hashlib.sha256()
    for at in range(0, await page.run("kept.length"), SLICE):
        digest.update(base64.b64decode(await page.run(f"slice({at}, {at + SLICE})")))
    return digest.hexdigest()


async def up(page):
    return await page.run("json('/x', {method: 'POST', body: body()})")


async def down(page):
    await page.run("fetch(BASE + `/bytes/${SIZE}`).then((answer) => answer.arrayBuffer()).then(keep)")
    return await hashed(page)


async def gzip(page):
    return await page.run("fetch(BASE + '/gzip').then((answer) => answer.text())")


async def sse(page):
    return await page.run("events('/sse?n=3&every=0.01')")


async def parallel(page):
    return await page.run("Promise.all(Array.from({length: 50}, (_, n) => json(`/n${n}`)))")


async def utf8(page):
    return await page.run("json('/grüße?x=ü')")


async def websocket(page):
    text = await page.run("talk('/ws')")
    return [text, await hashed(page)]


async def main():
    options = [f"--proxy-server={PROXY}"] if PROXY else []
    with tempfile.TemporaryDirectory() as directory:
        async with browser(Path(directory), *options) as page:
            await page.open(f"{BASE}/page")
            await page.run(PRELUDE % json.dumps(BASE))
            for task in (up, down, gzip, sse, parallel, utf8, websocket):
                try:
                    found = {"found": await task(page)}
                except Exception as error:
                    found = {"error": f"{type(error).__name__}: {error}"}
                print(json.dumps({"way": task.__name__, **found}), flush=True)


asyncio.run(main())
