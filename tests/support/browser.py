"""A real browser, headless, by the DevTools protocol: what a person would see and do.

https://chromedevtools.github.io/devtools-protocol/
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import re
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp

from tests.support.eventually import eventually

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
LIMIT = 30.0


class PageError(Exception):
    """The browser could not do it, or the page's script failed."""


class Browser:
    """One page in one browser."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._number = 0
        self.console: list[str] = []
        """What the page complained about."""

    async def call(self, method: str, **parameters: Any) -> Any:
        self._number += 1
        await self._socket.send_json({"id": self._number, "method": method, "params": parameters})
        async with asyncio.timeout(LIMIT):
            while True:
                message = await self._socket.receive_json()
                if message.get("id") == self._number:
                    if "error" in message:
                        raise PageError(message["error"])
                    return message["result"]
                self._heard(message)

    def _heard(self, message: dict[str, Any]) -> None:
        if message.get("method") == "Log.entryAdded":
            self.console.append(message["params"]["entry"]["text"])
        elif message.get("method") == "Runtime.exceptionThrown":
            self.console.append(message["params"]["exceptionDetails"]["text"])

    async def run(self, script: str) -> Any:
        """The value of an expression (or the promise of one) on the page."""
        found = await self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in found:
            raise PageError(found["exceptionDetails"])
        return found["result"].get("value")

    async def open(self, url: str) -> None:
        await self.call("Page.navigate", url=url)
        await self.until("document.readyState === 'complete' && location.href !== 'about:blank'")

    async def until(self, condition: str) -> None:
        """Wait until an expression holds on the page."""
        await eventually(lambda: self._holds(condition), why=f"on the page: {condition}")

    async def _holds(self, condition: str) -> bool:
        try:
            return bool(await self.run(f"Boolean({condition})"))
        except PageError:  # on its way from one page to the next
            return False

    async def text(self, selector: str = "body") -> str:
        """What a person reads there."""
        return str(await self.run(f"document.querySelector({json.dumps(selector)}).innerText"))

    async def look(self, *, dark: bool = False, width: int = 1200, script: bool = True) -> None:
        """How the page is to be shown."""
        features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        await self.call("Emulation.setEmulatedMedia", features=features)
        await self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False
        )
        await self.call("Emulation.setScriptExecutionDisabled", value=not script)

    async def picture(self, file: Path) -> None:
        """The whole page as WebP."""
        found = await self.call(
            "Page.captureScreenshot", format="webp", quality=60, captureBeyondViewport=True
        )
        await asyncio.to_thread(file.write_bytes, base64.b64decode(found["data"]))


@contextlib.asynccontextmanager
async def browser(directory: Path, *options: str) -> AsyncIterator[Browser]:
    """A browser with a profile of its own below `directory`; `options` are Chromium's."""
    assert CHROMIUM is not None
    process = await asyncio.create_subprocess_exec(
        *(CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
        *("--no-first-run", "--disable-background-networking", "--disable-component-update"),
        *("--force-prefers-reduced-motion", "--hide-scrollbars", "--remote-debugging-port=0"),
        *(*options, f"--user-data-dir={directory / 'profile'}", "about:blank"),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    try:
        port = 0
        async with asyncio.timeout(LIMIT):
            while not port:
                line = (await process.stderr.readline()).decode()
                assert line, "the browser ended"
                if match := re.search(r"DevTools listening on ws://[^:]+:(\d+)/", line):
                    port = int(match[1])
        drain = asyncio.ensure_future(process.stderr.read())  # noqa: TID251  # a full pipe would stop it
        async with aiohttp.ClientSession() as session:
            async with session.get(f"http://127.0.0.1:{port}/json") as answer:
                pages = [page for page in await answer.json() if page["type"] == "page"]
            async with session.ws_connect(pages[0]["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                found = Browser(socket)
                for domain in ("Page", "Runtime", "Log"):
                    await found.call(f"{domain}.enable")
                yield found
        process.kill()
        await drain
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        await process.wait()
