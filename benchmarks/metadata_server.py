"""Stand-in for the metadata server: answers ID tokens that live for an hour, and counts them.

Owns: one loopback listener and the number of tokens it gave out.
Called by: run, one for each instance of a product, so that its fetches can be told apart.
May not: sign anything: nobody in a benchmark verifies, so a signature of the right length is enough.
Rule: a token is as long as a real one (RS256, format=full), because every request carries it.
"""

import base64
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self
from urllib.parse import parse_qs, urlsplit

ACCOUNT_PATH = "/computeMetadata/v1/instance/service-accounts/default/"
EMAIL = "bench@example-project.iam.gserviceaccount.com"
LIFE_SECONDS = 3600
SIGNATURE = bytes(range(256))


def make_token(audience: str) -> str:
    """A well-formed JWT for `audience`, issued now, with a signature that is none."""
    now = int(time.time())
    header = {"alg": "RS256", "kid": "0" * 40, "typ": "JWT"}
    claims = {
        "aud": audience,
        "azp": "100000000000000000000",
        "email": EMAIL,
        "email_verified": True,
        "exp": now + LIFE_SECONDS,
        "google": {"compute_engine": {"instance_id": "1" * 19, "project_id": "example-project"}},
        "iat": now,
        "iss": "https://accounts.google.com",
        "sub": "100000000000000000000",
    }
    parts = (json.dumps(header).encode(), json.dumps(claims).encode(), SIGNATURE)
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)


def audience_of(token: str) -> str:
    """The `aud` claim of a JWT; ValueError or KeyError when it isn't one."""
    _, claims, _ = token.split(".")
    return str(json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))["aud"])


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: "MetadataServer"

    def do_GET(self) -> None:
        target = urlsplit(self.path)
        query = parse_qs(target.query)
        path = target.path.replace(f"/{EMAIL}/", "/default/")
        if path == f"{ACCOUNT_PATH}identity" and "audience" in query:
            self.server.fetches += 1
            self._answer(make_token(query["audience"][0]), "text/html")
        elif path == f"{ACCOUNT_PATH}email":
            self._answer(EMAIL, "application/text")
        elif path == ACCOUNT_PATH:
            account = {"aliases": ["default"], "email": EMAIL, "scopes": []}
            self._answer(json.dumps(account), "application/json")
        elif path == "/":
            self._answer("computeMetadata/\n", "application/text")
        else:
            self._answer("not found", "text/html", status=404)

    def _answer(self, body: str, content_type: str, *, status: int = 200) -> None:
        if status == 200 and self.path != "/" and self.headers.get("Metadata-Flavor") != "Google":
            status, body = 403, "Missing Metadata-Flavor:Google header."
        self.send_response(status)
        self.send_header("Metadata-Flavor", "Google")
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body.encode())))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing: the terminal belongs to the table."""


class MetadataServer(ThreadingHTTPServer):
    """Listens on a free port of 127.0.0.1 (`port`) while entered; `fetches` counts ID tokens."""

    daemon_threads = True

    def __init__(self) -> None:
        """Bind at once; serve from `__enter__` on."""
        super().__init__(("127.0.0.1", 0), _Handler)
        self.port = int(self.server_address[1])
        self.fetches = 0
        self._thread = threading.Thread(target=self.serve_forever, name="metadata-server", daemon=True)

    def __enter__(self) -> Self:
        """Start to serve."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop and close the listener."""
        self.shutdown()
        self._thread.join()
        self.server_close()
